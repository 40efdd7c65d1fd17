"""Convert a diffusers folder of the SDXL family to a model folder of ssd1b_jax."""

import argparse
import sys
from pathlib import Path

import jax

from convert.diffusers_folder import STEMS, read_licence, read_part
from convert.weights import to_flax
from ssd1b_jax.checkpoint import DTYPES, Manifest, ModelError, save_model
from ssd1b_jax.config import ConfigError
from ssd1b_jax.released import read_config
from ssd1b_jax.tensors import WeightsError


def convert(source: Path, target: Path, dtype: str = "bfloat16") -> Manifest:
    """Write a model folder at `target`, or raise ConfigError, WeightsError or ModelError and write nothing."""
    if not source.is_dir():
        raise WeightsError(f"no folder at {str(source)!r}: give a diffusers folder")
    config = read_config(source)
    params = to_flax(config, {part: read_part(source, part) for part in STEMS}, dtype)
    name, licence = source.resolve().name, read_licence(source)
    return save_model(target, config, params, tokenizers=source, dtype=dtype, source=name, licence=licence)


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input or weights, 3 disk."""
    parser = argparse.ArgumentParser(prog="ssd1b-convert", description=__doc__)
    parser.add_argument("source", type=Path, help="diffusers folder with safetensors files")
    parser.add_argument("target", type=Path, help="model folder to write; must not exist, or be empty")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of stored weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator would be taken and not used
    try:
        manifest = convert(arguments.source, arguments.target, arguments.dtype)
    except (ConfigError, WeightsError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    size = sum(entry["size"] for entry in manifest.files.values())
    print(f"{manifest.folder}: {size / 1e9:.2f} GB in {manifest.dtype}, licence {manifest.licence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

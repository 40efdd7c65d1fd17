"""Convert weights of the SDXL family between PyTorch's layouts and a model folder of ssd1b_jax."""

import argparse
import sys
from pathlib import Path

from ssd1b_jax.arguments import Parser
from ssd1b_jax.choices import DTYPES

EPILOG = """
SOURCE is a diffusers folder, a hub id, or a single .safetensors or .ckpt file with the names that A1111 and
ComfyUI use. Where a diffusers folder has weights in two precisions, those of 16 bits are taken, unless --dtype
is float32. A single file has no tokenizers: they are taken from --tokenizers, or else from the hub.

  python -m convert segmind/SSD-1B weights/ssd-1b
  python -m convert SSD-1B-A1111.safetensors weights/ssd-1b --tokenizers SSD-1B-DIFFUSERS-FOLDER
  python -m convert --to-diffusers weights/ssd-1b SSD-1B-DIFFUSERS-FOLDER

Exit codes: 0 done, 2 bad input or weights, 3 disk, 130 interrupted.
"""


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input or weights, 3 disk, 130 interrupted."""
    arguments = _arguments(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="ssd1b-convert", description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("source", metavar="SOURCE", help="what to convert; with --to-diffusers, a model folder")
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder to write; must not exist, or be empty")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of written weights (default: bfloat16; the way back: as stored)"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a hub id (default: main)")
    parser.add_argument("--tokenizers", metavar="FOLDER", type=Path, help="that has tokenizer/ and tokenizer_2/")
    parser.add_argument("--to-diffusers", action="store_true", help="the way back: write a diffusers folder")
    arguments = parser.parse_args(argv)
    if arguments.to_diffusers and (arguments.revision or arguments.tokenizers):
        parser.error("--revision and --tokenizers do not go with --to-diffusers")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    import jax  # here, so that --help and wrong arguments need not wait for it

    from convert.family import family
    from convert.to_diffusers import to_diffusers
    from convert.to_model import convert
    from ssd1b_jax.errors import ConfigError, FileError, ModelError, WeightsError

    jax.config.update("jax_platforms", "cpu")  # an accelerator would be taken and not used
    try:
        with _Bars() as bars:
            if arguments.to_diffusers:
                manifest = to_diffusers(arguments.source, arguments.target, arguments.dtype, bars.advance)
            else:
                manifest = convert(
                    arguments.source,
                    arguments.target,
                    arguments.dtype or "bfloat16",
                    revision=arguments.revision,
                    tokenizers=arguments.tokenizers,
                    advance=bars.advance,
                )
    except (ConfigError, WeightsError, ModelError, FileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    size = sum(file.stat().st_size for file in arguments.target.rglob("*") if file.is_file())
    known = family(manifest.config) or "a model of the SDXL family"
    kind = arguments.dtype or manifest.dtype
    print(f"{arguments.target}: {known}, {size / 1e9:.2f} GB in {kind}, licence {manifest.licence}")
    return 0


class _Bars:
    """A progress bar in bytes for each stage, on a terminal."""

    def __enter__(self) -> "_Bars":
        self.stage, self.bar = None, None
        return self

    def advance(self, stage: str, count: int) -> None:
        from tqdm import tqdm

        if stage != self.stage:
            self.__exit__()
            self.stage = stage
            self.bar = tqdm(desc=stage, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
        self.bar.update(count)

    def __exit__(self, *unused) -> None:
        if self.bar is not None:
            self.bar.close()


if __name__ == "__main__":
    sys.exit(main())

"""`ssd1b convert`: weights between PyTorch's layouts and a model folder. `python -m convert` runs the same."""

import argparse
import importlib.util
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import ssd1b_jax
from ssd1b_jax.cli.console import add_json, print_json
from ssd1b_jax.errors import EXIT_CODES, RequestError
from ssd1b_jax.settings import DTYPES

DESCRIPTION = "Convert weights of the SDXL family between PyTorch's layouts and a model folder of ssd1b_jax."
EPILOG = f"""
SOURCE is a diffusers folder, a hub id, or a single .safetensors or .ckpt file with the names
that A1111 and ComfyUI use. Where a diffusers folder has weights in two precisions, those of 16
bits are taken, unless --dtype is float32. A single file has no tokenizers: they are taken from
--tokenizers, or else from the hub.

  ssd1b convert segmind/SSD-1B weights/ssd-1b
  ssd1b convert SSD-1B-A1111.safetensors weights/ssd-1b --tokenizers SSD-1B-DIFFUSERS-FOLDER
  ssd1b convert --to-diffusers weights/ssd-1b SSD-1B-DIFFUSERS-FOLDER

{textwrap.fill(EXIT_CODES, 96)}
"""


def add(commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="PyTorch weights to a model folder, and back",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="what to convert; with --to-diffusers, a model folder")
    add("target", metavar="TARGET", type=Path, help="folder to write; must not exist, or be empty")
    add("--dtype", choices=DTYPES, help="of written weights (default: bfloat16; the way back: as stored)")
    add("--revision", metavar="NAME", help="branch, tag or commit of a hub id (default: main)")
    add("--tokenizers", metavar="FOLDER", type=Path, help="that has tokenizer/ and tokenizer_2/")
    words = "what the model predicts, where its files don't say so, or say it wrong"
    add("--prediction-type", choices=("epsilon", "v_prediction"), help=words)
    add("--zero-snr", action="store_true", help="of a v_prediction model that begins without signal, as NoobAI-XL V")
    add("--to-diffusers", action="store_true", help="the way back: write a diffusers folder")
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Convert as the options of `add_options` ask, and print what was written."""
    ways_in = ("revision", "tokenizers", "prediction_type", "zero_snr")
    if arguments.to_diffusers and (given := [name for name in ways_in if getattr(arguments, name)]):
        named = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        verb, object_ = ("do", "them") if given[1:] else ("does", "it")
        raise RequestError(f"{named} {verb} not go with --to-diffusers: leave {object_} out")
    import jax  # here, so that --help and wrong arguments need not wait for it

    jax.config.update("jax_platforms", "cpu")  # an accelerator would be taken and not used
    load_package()
    family = import_module("convert.family").family
    with _Bars() as bars:
        manifest = _convert(arguments, bars.advance)
    size = sum(file.stat().st_size for file in arguments.target.rglob("*") if file.is_file())
    preset = family(manifest.config)
    kind = preset.title if preset else "a model of the SDXL family"
    dtype = arguments.dtype or manifest.dtype
    if arguments.json:
        licence = manifest.licence
        print_json(dict(output=str(arguments.target), model=kind, bytes=size, dtype=dtype, licence=licence))
        return
    print(f"{arguments.target}: {kind}, {size / 1e9:.2f} GB in {dtype}, licence {manifest.licence}")


def _convert(arguments: argparse.Namespace, on_progress):
    source, target, dtype = arguments.source, arguments.target, arguments.dtype
    if arguments.to_diffusers:
        return import_module("convert.to_diffusers").to_diffusers(source, target, dtype, on_progress)
    names = ("revision", "tokenizers", "prediction_type", "zero_snr")
    options = {name: getattr(arguments, name) for name in names}
    convert = import_module("convert.to_model").convert
    return convert(source, target, dtype or "bfloat16", **options, on_progress=on_progress)


def load_package() -> None:
    """Import the `convert` that was installed with this package, whatever `convert` the search path has first."""
    init = Path(ssd1b_jax.__file__).parents[1] / "convert" / "__init__.py"
    loaded = sys.modules.get("convert")
    if loaded is not None and Path(loaded.__file__ or "") == init:
        return
    spec = importlib.util.spec_from_file_location("convert", init, submodule_search_locations=[str(init.parent)])
    sys.modules["convert"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["convert"])


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

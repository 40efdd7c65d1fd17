"""The options of every command that makes pictures: arguments to a Request, a Pipeline, and how files are written.

Option names are a Request's fields with hyphens; a field's own check says what is wrong with a value.
"""

import argparse
from pathlib import Path

from ssd1b_jax import images
from ssd1b_jax.choices import DTYPES, NOISES, SHORT
from ssd1b_jax.errors import RequestError


def add(parser: argparse.ArgumentParser) -> None:
    """All of them."""
    _add_request(parser)
    _add_pipeline(parser)
    _add_files(parser)


def _add_request(parser: argparse.ArgumentParser) -> None:
    """IMAGE, PROMPT and an option for every other field of Request; `of_request` reads them."""
    before = {action.dest for action in parser._actions}
    parser.add_argument("image", metavar="IMAGE", help="a picture: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF …")
    parser.add_argument("prompt", metavar="PROMPT", help="what it shall become")
    add = _group(parser, "settings that matter most")
    add("negative_prompt", metavar="TEXT", help="what it shall not become")
    add("strength", type=float, metavar="0..1", help="how much is remade")
    add("num_inference_steps", type=int, metavar="N", help="steps of the full schedule")
    add("guidance_scale", type=float, metavar="G", help="how closely to follow the prompt; 1 is off")
    add("seed", type=int, metavar="N", help="the same seed gives the same picture (default: drawn, and reported)")
    add("scheduler", metavar="NAME", help="the sampler, see `ssd1b samplers` (default: euler)")
    add = _group(parser, "size")
    add("width", type=int, metavar="PIXELS")
    add("height", type=int, metavar="PIXELS")
    add("resize_mode", choices=images.RESIZE_MODES, help="how IMAGE is brought to that size (default: crop)")
    add = _group(parser, "sampling")
    add("exact_steps", action="store_true", help="run all N steps whatever the strength")
    add("timestep_spacing", metavar="HOW", help="leading, trailing or linspace (default: the model's)")
    add("guidance_rescale", type=float, metavar="0..1", help="tame the contrast that high guidance brings")
    add("guidance_interval", type=float, nargs=2, metavar=("FROM", "TO"), help="guide only in this part of the steps")
    add("noise", choices=NOISES, help="whose random numbers a seed stands for (default: jax)")
    add("variation_seed", type=int, metavar="N", help="another seed to mix the starting noise with")
    add("variation_strength", type=float, metavar="0..1", help="how much of it")
    add = _group(parser, "prompt")
    add("prompt_2", metavar="TEXT", help="prompt of the second text encoder (default: PROMPT)")
    add("negative_prompt_2", metavar="TEXT", help="the same for the negative prompt")
    add("prompt_weights", no="no-", action="store_false", help="take (parentheses:1.3) in prompts literally")
    add("clip_skip", type=int, metavar="N", help="text encoder layers to leave out (default: 0)")
    add("loras", action="append", type=_lora, metavar="FILE[:SCALE]", help="a LoRA; may be repeated")
    add = _group(parser, "mask")
    add("mask", metavar="FILE", help="a picture: what is white is remade, what is black is kept")
    add("mask_blur", type=int, metavar="PIXELS", help="soften its edges, on the side that is remade")
    add = _group(parser, "size that the model is told", "as in diffusers; by default the size made, uncropped")
    for negative in ("", "negative_"):
        add(f"{negative}original_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
        add(f"{negative}target_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
        add(f"{negative}crops_coords_top_left", type=int, nargs=2, metavar=("TOP", "LEFT"))
    parser.set_defaults(fields=tuple(action.dest for action in parser._actions if action.dest not in before))


def _group(parser: argparse.ArgumentParser, title: str, description: str | None = None):
    group = parser.add_argument_group(title, description)

    def add(field: str, *, no: str = "", **how) -> None:
        option = SHORT.get(field, field).replace("_", "-")
        group.add_argument(f"--{no}{option}", dest=field, default=None, **how)

    return add


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and devices")
    group.add_argument("--model", default="emoji", help="emoji, which is built in (default), or a converted folder")
    group.add_argument("--dtype", choices=DTYPES, help="float32 on a CPU, else bfloat16")
    group.add_argument(
        "--per-device", type=int, default=1, metavar="N", help="pictures at a time on each device (default: 1)"
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    add = group.add_argument
    add("--upscale", type=int, default=1, metavar="N", help="enlarge the written picture N times (Lanczos)")
    add("--no-metadata", dest="metadata", action="store_false", help="don't tell in the file how it was made")
    add("--sidecar", action="store_true", help="tell it in a JSON file beside the picture")
    add("--embed-input", action="store_true", help="keep the input in the PNG, so that it alone can be replayed")


def _lora(said: str) -> tuple[str, float]:
    """FILE[:SCALE]; a colon that no number follows belongs to the name, unless there is a file without it."""
    file, _, scale = said.rpartition(":")
    try:
        return (file, float(scale)) if file else (said, 1.0)
    except ValueError:
        if Path(file).exists() and not Path(said).exists():
            raise argparse.ArgumentTypeError(f"the scale must be a number, got {scale!r}") from None
        return said, 1.0


def check(arguments: argparse.Namespace, output: Path) -> None:
    """All that can be wrong but the Request, before a model is looked at."""
    from ssd1b_jax.checkpoints import lora
    from ssd1b_jax.engine.devices import check_per_device

    if not 1 <= arguments.upscale <= images.MAX_UPSCALE:
        raise RequestError(f"upscale must be a whole number from 1 to {images.MAX_UPSCALE}, got {arguments.upscale}")
    check_per_device(arguments.per_device)
    check_files(arguments, output)
    images.load(arguments.image)
    if arguments.mask is not None:
        images.load(arguments.mask)
    for file in lora_files(arguments).values():
        lora.find(file)


def check_files(arguments: argparse.Namespace, output: Path, request=None) -> None:
    """That a picture can be written; with its resolved request, at its size."""
    from ssd1b_jax.records import saving

    keep(output, arguments.image, arguments.mask)
    width, height = (request.width, request.height) if request else (1, 1)
    wishes = {name: getattr(arguments, name) for name in ("metadata", "sidecar", "embed_input")}
    saving.check(output, width * arguments.upscale, height * arguments.upscale, **wishes)


def keep(output: Path, *inputs: str | Path | None) -> None:
    """That an output is none of the inputs, which it would replace."""
    for path in inputs:
        if path is not None and output.exists() and Path(path).exists() and output.samefile(path):
            raise RequestError(f"{output} is an input, which would be lost: choose another output")


def lora_files(arguments: argparse.Namespace) -> dict[str, str]:
    """Each LoRA's file by the name that requests call it by: the file's own without suffix."""
    files = {}
    for file, _ in arguments.loras or ():
        name = Path(file).stem
        if name in files:
            raise RequestError(f"two LoRAs are named {name!r}: rename one of the files")
        files[name] = file
    return files


def of_request(arguments: argparse.Namespace):
    """The Request that the arguments say, unresolved."""
    from ssd1b_jax.request import Request

    said = {name: value for name in arguments.fields if (value := getattr(arguments, name)) is not None}
    if "loras" in said:
        said["loras"] = {name: scale for name, (_, scale) in zip(lora_files(arguments), arguments.loras, strict=True)}
    return Request(**{name: tuple(value) if isinstance(value, list) else value for name, value in said.items()})


def pipeline(arguments: argparse.Namespace, requests):
    """The pipeline that is about to make these requests."""
    from ssd1b_jax.pipeline import Pipeline

    options = dict(dtype=arguments.dtype, per_device=arguments.per_device, loras=lora_files(arguments))
    return Pipeline.from_pretrained(arguments.model, **options, requests=requests)


def saving(arguments: argparse.Namespace) -> dict:
    """The keywords of `Result.save`."""
    return {name: getattr(arguments, name) for name in ("upscale", "metadata", "sidecar", "embed_input")}

"""The `ssd1b` command: arguments to Requests, Results to files.

Exit codes: 0 done, 1 a picture failed, 2 bad input or weights, 3 disk, 70 device.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ssd1b_jax import __version__, images

DONE, FAILED, BAD_INPUT, DISK, DEVICE = 0, 1, 2, 3, 70


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    try:
        return arguments.command(arguments)
    except (images.SaveError, OSError) as error:
        return _fail(error, DISK)
    except ValueError as error:
        return _fail(error, BAD_INPUT)
    except ArithmeticError as error:
        return _fail(error, FAILED)
    except RuntimeError as error:
        return _fail(f"the device failed: {str(error).splitlines()[0]}", DEVICE)
    except KeyboardInterrupt:
        return _fail("interrupted, nothing was written", 130)


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd1b",
        description="Remake a picture after a prompt with SSD-1B, in JAX.",
        epilog="Exit codes: 0 done, 1 a picture failed, 2 bad input or weights, 3 disk, 70 device.",
    )
    parser.add_argument("--version", action="version", version=f"ssd1b_jax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_img2img(commands)
    _add_info(commands)
    return parser


def _add_img2img(commands) -> None:
    parser = commands.add_parser(
        "img2img",
        help="remake a picture after a prompt",
        description="Remake IMAGE after PROMPT. What is not given is the model's own default.",
        epilog="The first picture compiles for some seconds; the compiled programs are kept in your cache folder.",
    )
    parser.set_defaults(command=_img2img)
    parser.add_argument("image", metavar="IMAGE", help="a picture: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF …")
    parser.add_argument("prompt", metavar="PROMPT", help="what it shall become")
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="PNG, JPEG or WebP to write (default: IMAGE's name-SEED.png here)",
    )
    add(
        "--model",
        default="emoji",
        metavar="MODEL",
        help="emoji, the embedded model (default), or a converted model folder",
    )
    add("--negative-prompt", metavar="TEXT", help="what it shall not become")
    add("--strength", type=float, metavar="0..1", help="how much is remade")
    add("--steps", type=int, dest="num_inference_steps", metavar="N", help="steps of the full schedule")
    add("--guidance-scale", type=float, metavar="G", help="how closely to follow the prompt; 1 is off")
    add("--guidance-rescale", type=float, metavar="0..1", help="tame the contrast that high guidance brings")
    add("--seed", type=int, metavar="N", help="the same seed gives the same picture (default: drawn, and reported)")
    add("--num-images", type=int, default=1, metavar="N", help="pictures, with seeds SEED, SEED+1 …")
    add("--scheduler", metavar="NAME", help="sampler: euler (default), euler_a, ddim, heun, dpmpp_2m …")
    add("--width", type=int, metavar="PIXELS")
    add("--height", type=int, metavar="PIXELS")
    add("--resize-mode", choices=images.RESIZE_MODES, help="how IMAGE is brought to that size (default: crop)")
    add("--noise", choices=("jax", "torch", "nv"), help="whose random numbers a seed stands for (default: jax)")
    add("--exact-steps", action="store_true", default=None, help="run all N steps whatever the strength")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on a CPU, else bfloat16")
    add("--upscale", type=int, default=1, metavar="N", help="enlarge the written picture N times (Lanczos)")
    add("--quiet", action="store_true", help="no progress bar")


_SETTINGS = (
    "image", "prompt", "negative_prompt", "strength", "num_inference_steps", "guidance_scale", "guidance_rescale",
    "seed", "scheduler", "width", "height", "resize_mode", "noise", "exact_steps",
)  # fmt: skip


def _img2img(arguments: argparse.Namespace) -> int:
    if arguments.upscale < 1:
        raise ValueError(f"upscale must be a whole number from 1, got {arguments.upscale}")
    if arguments.output is not None:
        images.check_writable(arguments.output)
    images.load(arguments.image)  # a picture that can't be read shall not wait for the model

    from ssd1b_jax.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(arguments.model, dtype=arguments.dtype)
    settings = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    with _progress_bar(arguments.quiet) as advance:
        results = pipe(**settings, num_images=arguments.num_images, on_progress=advance)
    for result in results if isinstance(results, list) else [results]:
        path = _output_path(arguments, result.seed)
        result.save(path, upscale=arguments.upscale)
        for note in result.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"{path}: {describe(result)}")
    return DONE


def describe(result) -> str:
    """One line on how a picture was made."""
    request = result.request
    height, width, _ = result.pixels.shape
    return (
        f"{width} x {height}, {result.steps_run} of {request.num_inference_steps} steps ({request.scheduler}), "
        f"strength {request.strength:g}, guidance {request.guidance_scale:g}, seed {request.seed}, "
        f"{result.seconds:.1f} s"
    )


def _output_path(arguments: argparse.Namespace, seed: int) -> Path:
    if arguments.output is None:
        return Path(f"{Path(arguments.image).stem}-{seed}.png")
    if arguments.num_images == 1:
        return arguments.output
    return arguments.output.with_stem(f"{arguments.output.stem}-{seed}")


class _progress_bar:
    """A bar over model calls, on standard error where that is a terminal."""

    def __init__(self, quiet: bool):
        self.quiet = quiet

    def __enter__(self) -> Callable:
        from tqdm import tqdm

        self.bar = tqdm(unit="step", leave=False, disable=True if self.quiet else None)
        return self.advance

    def advance(self, progress) -> None:
        self.bar.total = progress.calls
        self.bar.update(progress.calls_done - self.bar.n)

    def __exit__(self, *exception) -> None:
        self.bar.close()


def _add_info(commands) -> None:
    parser = commands.add_parser(
        "info",
        help="what is in a model folder, verified; devices, versions",
        description="Verify a model folder and describe it, the devices and the versions.",
    )
    parser.set_defaults(command=_info)
    parser.add_argument("model", nargs="?", default="emoji", metavar="MODEL", help="emoji (default) or a folder")


def _info(arguments: argparse.Namespace) -> int:
    import math

    import flax
    import jax

    from ssd1b_jax import checkpoint

    manifest = checkpoint.verify(arguments.model)
    print(f"model       {arguments.model} ({manifest.folder}), every file verified")
    print(f"source      {manifest.source}" + (f", revision {manifest.revision}" if manifest.revision else ""))
    print(f"licence     {manifest.licence}")
    config = manifest.config
    print(f"weights     {manifest.dtype}")
    for part, tree in checkpoint.abstract_params(config, manifest.dtype).items():
        print(f"  {part:<16}{sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)):>15,} parameters")
    defaults = config.defaults
    print(f"size        {defaults.width} x {defaults.height} by default, multiples of {config.size_multiple}")
    print(
        f"defaults    strength {defaults.strength:g}, {defaults.num_inference_steps} steps, "
        f"guidance {defaults.guidance_scale:g}"
    )
    print(f"devices     {', '.join(str(device) for device in jax.local_devices())}")
    versions = dict(ssd1b_jax=__version__, jax=jax.__version__, flax=flax.__version__, python=sys.version.split()[0])
    print(f"versions    {', '.join(f'{name} {version}' for name, version in versions.items())}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())

"""`ssd1b img2img`: arguments to Requests, Results to files."""

import argparse
import sys
from pathlib import Path

from ssd1b_jax import images

MAX_UPSCALE = 8


def add(commands) -> None:
    parser = commands.add_parser(
        "img2img",
        help="remake a picture after a prompt",
        description="Remake IMAGE after PROMPT. What is not given is the model's own default.",
        epilog="The first picture compiles for some seconds; the compiled programs are kept in your cache folder.",
    )
    parser.set_defaults(command=_run)
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


def _run(arguments: argparse.Namespace) -> None:
    # All that can be wrong is found before the weights are read.
    if not 1 <= arguments.upscale <= MAX_UPSCALE:
        raise ValueError(f"upscale must be a whole number from 1 to {MAX_UPSCALE}, got {arguments.upscale}")
    images.check_writable(_output_path(arguments, seed=0))
    images.load(arguments.image)

    from ssd1b_jax.checkpoint import read_manifest
    from ssd1b_jax.request import Request, repeat

    settings = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    request = Request(**settings).resolve(read_manifest(arguments.model).config)
    requests = repeat(request, arguments.num_images)

    from ssd1b_jax.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(arguments.model, dtype=arguments.dtype)
    notes = set()
    with _progress_bar(arguments.quiet) as bar:
        for _, result in pipe.stream(requests, on_progress=bar.advance):
            path = _output_path(arguments, result.seed)
            result.save(path, upscale=arguments.upscale)
            for note in {*result.notes} - notes:
                bar.write(f"note: {note}", sys.stderr)
            notes |= {*result.notes}
            bar.write(f"{path}: {describe(result)}", sys.stdout)


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
        from tqdm import tqdm

        self.bar = tqdm(unit="step", leave=False, disable=True if quiet else None)

    def __enter__(self) -> "_progress_bar":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def advance(self, progress) -> None:
        self.bar.total = progress.calls
        self.bar.update(progress.calls_done - self.bar.n)

    def write(self, line: str, stream) -> None:
        """Print a line without tearing the bar."""
        self.bar.clear()
        print(line, file=stream)

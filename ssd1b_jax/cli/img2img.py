"""`ssd1b img2img`: remake a picture after a prompt."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ssd1b_jax.cli import settings
from ssd1b_jax.cli.console import Console, add_output
from ssd1b_jax.settings import SETTINGS

EPILOG = "The first time, programs are compiled for some seconds; they are kept in your cache folder."
WORDS, MAX_NAME = 4, 60  # of a prompt, in the name of its picture


def add(commands) -> None:
    parser = commands.add_parser(
        "img2img",
        usage="%(prog)s IMAGE PROMPT [-o OUT] [option ...]",
        help="remake a picture after a prompt",
        description="Remake IMAGE after PROMPT. What is not given is the model's own default.",
        epilog=EPILOG,
    )
    parser.set_defaults(command=make)
    add_output_name(parser, "IMAGE's name")
    settings.add_row(parser, SETTINGS["num_images"])
    add_output(parser)
    settings.add(parser)


def add_output_name(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help=f"PNG, JPEG or WebP to write, or to replace (default: {default}-SEED.png here, or the next free name)",
    )


def make(arguments: argparse.Namespace) -> None:
    """Make and save the pictures of one command."""
    # Every mistake is reported before the weights are read.
    is_named = arguments.output is not None and arguments.num_images == 1
    output = settings.output(arguments, named=is_named)
    base = arguments.output or Path(f"{_name(arguments)}{output.suffix}")
    settings.check(arguments, output, base)

    from ssd1b_jax.checkpoints.model_json import read_manifest
    from ssd1b_jax.request import repeat

    request = settings.of_request(arguments).resolve(read_manifest(arguments.model).config)
    requests = repeat(request, arguments.num_images)
    paths = [base] if is_named else _paths(base, requests)
    for path, request in zip(paths, requests, strict=True):
        settings.check_files(arguments, output, path, request)
    pipe = settings.pipeline(arguments, requests)
    with Console(arguments) as console:
        for index, result in console.watch(pipe, requests):
            console.picture(result, result.save(paths[index], output))


def _name(arguments: argparse.Namespace) -> str:
    """What pictures are called where nobody said: after the image, or else after the prompt."""
    if arguments.image is not None:
        return Path(arguments.image).stem
    words = re.findall(r"\w+", arguments.prompt.lower())
    return "-".join(words[:WORDS])[:MAX_NAME] or "picture"


def _paths(base: Path, requests: Sequence) -> list[Path]:
    """A name with the seed for each picture; seeds are padded, so that names sort as they do."""
    seeds = [_seeds(request) for request in requests]
    widths = [max(len(str(seed)) for seed in column) for column in zip(*seeds, strict=True)]
    words = ["-".join(f"{seed:0{width}}" for seed, width in zip(row, widths, strict=True)) for row in seeds]
    return [base.with_stem(f"{base.stem}-{word}") for word in words]


def _seeds(request) -> tuple[int, ...]:
    """The seeds that the pictures of one command differ in."""
    return (request.seed, request.variation_seed) if request.variation_strength else (request.seed,)

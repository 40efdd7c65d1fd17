"""`ssd1b img2img`: remake a picture after a prompt."""

import argparse
from pathlib import Path

from ssd1b_jax.cli import settings
from ssd1b_jax.cli.console import Console, add_output


def add(commands) -> None:
    parser = commands.add_parser(
        "img2img",
        usage="%(prog)s IMAGE PROMPT [-o OUT] [option ...]",
        help="remake a picture after a prompt",
        description="Remake IMAGE after PROMPT. What is not given is the model's own default.",
        epilog="The first time, programs are compiled for some seconds; they are kept in your cache folder.",
    )
    parser.set_defaults(command=_run)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="PNG, JPEG or WebP to write, or to replace (default: IMAGE's name-SEED.png here)",
    )
    parser.add_argument("--num-images", type=int, default=1, metavar="N", help="pictures, with seeds SEED, SEED+1 …")
    add_output(parser)
    settings.add(parser)


def _run(arguments: argparse.Namespace) -> None:
    # Every mistake is reported before the weights are read.
    settings.check(arguments, _output_path(arguments, 0))

    from ssd1b_jax.checkpoints.model_folder import read_manifest
    from ssd1b_jax.request import repeat

    request = settings.of_request(arguments).resolve(read_manifest(arguments.model).config)
    requests = repeat(request, arguments.num_images)
    for request in requests:
        settings.check_files(arguments, _output_path(arguments, *_seeds(request)), request)
    pipe = settings.pipeline(arguments, requests)
    with Console(arguments) as console:
        for _, result in console.watch(pipe, requests):
            path = _output_path(arguments, *_seeds(result.request))
            console.picture(result, result.save(path, **settings.saving(arguments)))


def _output_path(arguments: argparse.Namespace, *seeds: int) -> Path:
    name = "-".join(str(seed) for seed in seeds)
    if arguments.output is None:
        return Path(f"{Path(arguments.image).stem}-{name}.png")
    if arguments.num_images == 1:
        return arguments.output
    return arguments.output.with_stem(f"{arguments.output.stem}-{name}")


def _seeds(request) -> tuple[int, ...]:
    """The seeds that the pictures of one command differ in."""
    return (request.seed, request.variation_seed) if request.variation_strength else (request.seed,)

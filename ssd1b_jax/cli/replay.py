"""`ssd1b replay`: make a picture again from what its file says, and compare."""

import argparse
import sys
from pathlib import Path

from ssd1b_jax.cli import settings
from ssd1b_jax.cli.console import ProgressBar, add_quiet, describe

LORA = "NAME=FILE"


def add(commands) -> None:
    parser = commands.add_parser(
        "replay",
        help="make a picture again from its file, and compare",
        description="Make the picture in FILE again from what the file says of how it was made, and compare.",
        epilog="Exit codes: 0 identical, 1 not identical, 2 bad input or weights, 3 disk, 70 device, 130 interrupted.",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("file", metavar="FILE", help="a picture that ssd1b wrote, or its sidecar")
    add = parser.add_argument
    add("--image", metavar="INPUT", help="the input, where it is not where it was")
    add("--mask", metavar="FILE", help="the same for the mask")
    add("--lora", action="append", default=[], metavar=LORA, help="the same for a LoRA; may be repeated")
    add("--model", metavar="MODEL", help="the same for the model; may also be another one, to see what changes")
    add("-o", "--output", type=Path, metavar="OUT", help="write the picture made again")
    add_quiet(parser)


def _run(arguments: argparse.Namespace) -> int:
    from ssd1b_jax import replay
    from ssd1b_jax.records import saving

    recipe = replay.read(
        arguments.file,
        model=arguments.model,
        image=arguments.image,
        mask=arguments.mask,
        loras=dict(_lora(said) for said in arguments.lora),
    )
    if arguments.output:
        inputs = [source for source in (recipe.request.image, recipe.request.mask) if isinstance(source, str | Path)]
        settings.keep(arguments.output, arguments.file, *inputs)
        upscale = recipe.record["written"]["upscale"]
        saving.check(arguments.output, recipe.request.width * upscale, recipe.request.height * upscale)
    with ProgressBar(arguments.quiet) as bar:
        bar.note(recipe.notes)
        made = replay.run(recipe, on_progress=bar.advance)
        bar.note(made.result.notes)
    if arguments.output:
        embed = recipe.embedded and arguments.output.suffix.lower() == ".png"
        bar.note(made.result.save(arguments.output, upscale=upscale, embed_input=embed).notes)
        print(f"{arguments.output}: {describe(made.result)}")
    if made.edited:
        print(f"note: {recipe.picture} is not as it was written, someone has edited its pixels", file=sys.stderr)
    print(f"{arguments.file}: {_verdict(made)}")
    return 0 if made.identical else 1


def _lora(said: str) -> tuple[str, str]:
    name, equals, file = said.partition("=")
    if not (name and equals and file):
        raise ValueError(f"lora must be {LORA}, got {said!r}")
    return name, file


def _verdict(made) -> str:
    if made.identical:
        return "made again, all pixels are identical"
    apart = "" if made.worst is None else f", by up to {made.worst} and {made.mean:.3g} on average of 255"
    why = "".join(f"\n  {phrase}" for phrase in made.differences) or "\n  nothing else that is recorded differs"
    return f"made again, pixels differ{apart}{why}"

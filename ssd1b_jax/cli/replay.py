"""`ssd1b replay`: make a picture again from what its file says, and compare."""

import argparse
from pathlib import Path
from typing import Any

from ssd1b_jax.cli import settings
from ssd1b_jax.cli.console import Console, add_output, describe, facts
from ssd1b_jax.errors import DONE, FAILED, RequestError

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
    add_output(parser)


def _run(arguments: argparse.Namespace) -> int:
    from ssd1b_jax import replay
    from ssd1b_jax.records import Output

    recipe = replay.read(
        arguments.file,
        model=arguments.model,
        image=arguments.image,
        mask=arguments.mask,
        loras=dict(_lora(text) for text in arguments.lora),
    )
    if arguments.output:
        inputs = [source for source in (recipe.request.image, recipe.request.mask) if isinstance(source, str | Path)]
        settings.keep(arguments.output, arguments.file, *inputs)
        embed = recipe.embedded and arguments.output.suffix.lower() == ".png"
        output = Output(upscale=recipe.record["written"]["upscale"], embed_input=embed)
        output.check(arguments.output, recipe.request.width, recipe.request.height)
    with Console(arguments) as console:
        console.note(recipe.notes)
        replayed = replay.run(recipe, on_progress=console.advance)
        result, saved = replayed.result, None
        if arguments.output:
            saved = result.save(arguments.output, output)
        notes = [*recipe.notes, *result.notes, *(saved.notes if saved else ())]
        console.note(notes)
        written = f"{saved.picture}: {describe(result)}\n" if saved else ""
        values = facts(result, saved) | _comparison(replayed) | dict(file=arguments.file, notes=notes)
        console.report(f"{written}{arguments.file}: {_verdict(recipe, replayed)}", values)
    return DONE if replayed.identical else FAILED


def _comparison(replayed) -> dict[str, Any]:
    names = ("identical", "edited", "differences", "worst", "mean")
    return {name: getattr(replayed, name) for name in names}


def _lora(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise RequestError(f"lora must be {LORA}, got {text!r}")
    return name, file


def _verdict(recipe, replayed) -> str:
    if replayed.edited:
        same = replayed.result.record["pixels"]["sha256"] == recipe.record["pixels"]["sha256"]
        made = "as it is recorded" if same else "not as it is recorded"
        return f"made again, {made}; but {recipe.picture} has other pixels: it was edited, or the record is not its own"
    if replayed.identical:
        return "made again, all pixels are identical"
    apart = "" if replayed.worst is None else f", by up to {replayed.worst} and {replayed.mean:.3g} on average of 255"
    why = "".join(f"\n  {phrase}" for phrase in replayed.differences) or "\n  nothing else that is recorded differs"
    return f"made again, pixels differ{apart}{why}"

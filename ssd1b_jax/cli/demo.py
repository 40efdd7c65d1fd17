"""`ssd1b demo`: remake a packaged doodle, so that a first picture needs nothing but the package."""

import argparse
import shlex
from importlib import resources
from pathlib import Path

from ssd1b_jax import files
from ssd1b_jax.cli.console import Console, add_output, facts

DOODLE = "face.png"
SETTINGS = dict(prompt="a pumpkin on a blue background", strength=0.8, seed=8)
UPSCALE = 2


def add(commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="remake a packaged doodle with the packaged model",
        description=f"Remake a packaged doodle into {SETTINGS['prompt']!r}, and name the command that does the same.",
    )
    parser.set_defaults(command=_run)
    parser.add_argument("--open", action="store_true", help="show the picture in this machine's own viewer")
    add_output(parser)


def _run(arguments: argparse.Namespace) -> None:
    from ssd1b_jax.pipeline import Pipeline
    from ssd1b_jax.request import Request

    output = files.unused(Path("demo.png"))
    files.check_place(output)
    with resources.as_file(resources.files("ssd1b_jax") / "embedded" / "doodles" / DOODLE) as doodle:
        requests = [Request(image=str(doodle), **SETTINGS)]
        pipe = Pipeline.from_pretrained("emoji", requests=requests)
        with Console(arguments) as console:
            for _, result in console.watch(pipe, requests):
                saved = result.save(output, upscale=UPSCALE)
                command = _command(doodle, output)
                console.report(f"{saved.picture}: {command}", facts(result, saved) | dict(command=command))
    if arguments.open:
        result.image.show()


def _command(doodle: Path, output: Path) -> str:
    """The command line that makes the same picture."""
    prompt, strength, seed = SETTINGS.values()
    options = f"--strength {strength} --seed {seed} --upscale {UPSCALE} -o {shlex.quote(output.name)}"
    return f"ssd1b img2img {shlex.quote(str(doodle))} {shlex.quote(prompt)} {options}"

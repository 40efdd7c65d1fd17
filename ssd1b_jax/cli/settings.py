"""The options of every command that makes pictures: arguments to a Request, a Pipeline, and how files are written.

They are read from the rows of `settings`: a new setting is an option without a line here.
"""

import argparse
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ssd1b_jax import images, settings
from ssd1b_jax.cli.loras import lora_files, lora_scales
from ssd1b_jax.errors import RequestError
from ssd1b_jax.records import Output
from ssd1b_jax.settings import GROUPS, Setting
from ssd1b_jax.settings.kinds import Choice, Number, Pair, Scales, Switch
from ssd1b_jax.settings.options import AUTO

MEMORY_VARIABLE, OLD_MEMORY_VARIABLE = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"


def add(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """All of them but those of a call, and those named."""
    for group, (title, description) in GROUPS.items():
        rows = [
            row
            for row in settings.SETTINGS.values()
            if row.group == group and row.of != "call" and row.name not in without
        ]
        place = parser if group == "picture" else parser.add_argument_group(title.lower(), description or None)
        for row in rows:
            add_row(place, row)
        if group == "size":
            _add_size(place, with_input="resize_mode" not in without)
        if group == "model":
            add_memory(place)


def add_row(place: Any, row: Setting) -> None:
    """The argument of one setting. A request's settings are None where they are not given."""
    words = row.words.replace("%", "%%")
    if row.required:
        place.add_argument(row.name, metavar=row.metavar, help=words)
        return
    default = None if row.of == "request" else row.default
    options: dict[str, Any] = dict(dest=row.name, default=default)
    if isinstance(row.kind, Switch):
        action = "store_false" if row.default else "store_true"
        place.add_argument(row.flag, action=action, help=row.off or words, **options)
        return
    if row.metavar:
        options["metavar"] = row.metavar
    if isinstance(row.kind, Choice):
        options["choices"] = row.kind.words
    elif isinstance(row.kind, Number):
        options["type"] = row.kind.python
    elif isinstance(row.kind, Pair):
        options |= dict(type=row.kind.item, nargs=2)
    elif isinstance(row.kind, Scales):
        options |= dict(type=_lora, action="append")
    place.add_argument(row.flag, help=f"{words}{_default_words(row)}", **options)


class _Size(argparse.Action):
    """WIDTHxHEIGHT in one word; "input" is another word for a resize mode."""

    def __call__(self, parser, namespace, value, option=None):
        if value == "input":
            namespace.resize_mode = "fit"
            return
        try:
            namespace.width, namespace.height = map(int, value.lower().split("x"))
        except ValueError:
            parser.error(f"argument {option}: must be WIDTHxHEIGHT or input, got {value!r}")


def _add_size(place: Any, with_input: bool) -> None:
    words = "both in one word, as 1024x768"
    if with_input:
        words += '; "input" is --resize-mode fit'
    place.add_argument("--size", action=_Size, default=argparse.SUPPRESS, metavar="SIZE", help=words)


class _MemoryFraction(argparse.Action):
    """JAX reads the variable when it is first used, which is after all options are read."""

    def __call__(self, parser, namespace, value, option=None):
        if not 0 < value <= 1:
            parser.error(f"argument {option}: must be above 0 and at most 1, got {value:g}")
        namespace.memory_fraction = value
        limit_memory(namespace)


def limit_memory(arguments: argparse.Namespace) -> None:
    """Tell JAX the part of a GPU's memory that was asked for; a worker of Ray's has the arguments alone."""
    fraction = getattr(arguments, "memory_fraction", None)
    if fraction is not None:
        os.environ.pop(OLD_MEMORY_VARIABLE, None)  # JAX takes one of the two
        os.environ[MEMORY_VARIABLE] = f"{fraction:g}"


def add_memory(place: Any) -> None:
    words = "of a GPU's memory that is taken at the start (default: JAX's own, 0.75)"
    options = dict(action=_MemoryFraction, type=float, default=argparse.SUPPRESS, metavar="0..1")
    place.add_argument("--memory-fraction", help=words, **options)


def add_width(parser: argparse.ArgumentParser, default: int | str) -> None:
    """The setting `per_device`, of a command that may measure it."""
    row = settings.SETTINGS["per_device"]

    def width(text: str) -> int | str:
        try:
            return text if text == AUTO else row.check(int(text))
        except ValueError:
            allowed = f"{AUTO} or {row.kind.allowed}"
            raise argparse.ArgumentTypeError(f"must be {allowed}, got {text!r}") from None

    words = f"{row.words}; {AUTO} is the number that makes most in a second, measured once and kept"
    parser.add_argument(row.flag, type=width, default=default, metavar="N", help=f"{words} (default: {default})")


def _default_words(row: Setting) -> str:
    if row.absent:
        return f" (default: {row.absent})"
    if isinstance(row.default, str | int | float):
        return f" (default: {row.default})"
    return " (default: the model's)" if row.default is None else ""


def _lora(text: str) -> tuple[str, float]:
    """FILE[:SCALE]; a colon that no number follows belongs to the name, unless there is a file without it."""
    file, _, scale = text.rpartition(":")
    try:
        return (file, float(scale)) if file else (text, 1.0)
    except ValueError:
        if Path(file).exists() and not Path(text).exists():
            raise argparse.ArgumentTypeError(f"the scale must be a number, got {scale!r}") from None
        return text, 1.0


def given(arguments: argparse.Namespace, owner: settings.Owner) -> dict[str, Any]:
    """The settings of one owner that were given, by their names."""
    values = {row.name: getattr(arguments, row.name, None) for row in settings.of(owner)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def check(arguments: argparse.Namespace, output: Output, path: Path) -> None:
    """Raise what can be wrong but the Request, before a model is looked at. Pictures are not decoded yet."""
    from ssd1b_jax.checkpoints import lora_file

    for name, value in given(arguments, "pipeline").items():
        settings.SETTINGS[name].check(value)
    check_files(arguments, output, path)
    for picture in filter(None, (arguments.image, arguments.mask)):
        images.probe(picture)
    for file in lora_files(arguments).values():
        lora_file.find(file)


def check_files(arguments: argparse.Namespace, output: Output, path: Path, request=None) -> None:
    """Raise what would keep a picture from being written; with its resolved request, at its size."""
    if output.overwrite:
        keep(path, arguments.image, arguments.mask)
    size = (request.width, request.height) if request else (1, 1)
    output.check(path, *size)


def keep(path: Path, *inputs: str | Path | None) -> None:
    """Raise RequestError where a file to write is one of the inputs, which it would replace."""
    for file in inputs:
        if file is not None and path.exists() and Path(file).exists() and path.samefile(file):
            raise RequestError(f"{path} is an input, which would be lost: choose another output")


def of_request(arguments: argparse.Namespace):
    """The Request that the arguments describe, unresolved."""
    from ssd1b_jax.request import Request

    fields = given(arguments, "request")
    if "loras" in fields:
        fields["loras"] = lora_scales(arguments)
    return Request(**dict(image=None) | fields)


def output(arguments: argparse.Namespace, *, named: bool) -> Output:
    """How files are written. Where their names were not asked for (`named`), no file is replaced."""
    fields = given(arguments, "output")
    return Output(**fields | dict(overwrite=fields["overwrite"] and named))


def pipeline(arguments: argparse.Namespace, requests):
    """The pipeline that is about to make these requests."""
    from ssd1b_jax.pipeline import Pipeline

    limit_memory(arguments)
    options = dict(dtype=arguments.dtype, per_device=arguments.per_device, loras=lora_files(arguments))
    options |= dict(lora_partial=arguments.lora_partial)
    return Pipeline.from_pretrained(arguments.model, **options, requests=requests)

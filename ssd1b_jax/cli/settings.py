"""The options of every command that makes pictures: arguments to a Request, a Pipeline, and how files are written.

They are read from the rows of `settings`: a new setting is an option without a line here.
"""

import argparse
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ssd1b_jax import images, settings
from ssd1b_jax.errors import RequestError
from ssd1b_jax.records import Output
from ssd1b_jax.settings import GROUPS, Setting
from ssd1b_jax.settings.kinds import Choice, Number, Pair, Scales, Switch
from ssd1b_jax.settings.options import AUTO


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


def lora_scales(arguments: argparse.Namespace) -> dict[str, float]:
    """The scale of each LoRA that was given, by its name."""
    scales = [scale for _, scale in arguments.loras or ()]
    return dict(zip(by_stem(file for file, _ in arguments.loras or ()), scales, strict=True))


def lora_files(arguments: argparse.Namespace) -> dict[str, str]:
    """Each LoRA's file by the name that requests call it by, with the model's for few steps where that is asked for."""
    few_steps = fast_file(arguments.model) if arguments.fast else {}
    return few_steps | by_stem(file for file, _ in arguments.loras or ())


def fast_file(model: str) -> dict[str, str]:
    """The model's few-step LoRA, by the name that `fast` has for it: its folder's own, or else its family's on the hub.

    Raises RequestError where there is neither.
    """
    from ssd1b_jax import presets
    from ssd1b_jax.checkpoints.model_json import read_manifest
    from ssd1b_jax.request import FAST

    if own := own_fast_file(model):
        return own
    if file := presets.few_steps(read_manifest(model).config):
        return {FAST: file}
    raise RequestError(f"fast has no few-step LoRA for {model}: give one by --lora, with --scheduler lcm --exact-steps")


def own_fast_file(model: str) -> dict[str, str]:
    """The few-step LoRA in the model's folder, by its name, if there is one."""
    from ssd1b_jax.checkpoints.model_json import FEW_STEPS, read_manifest
    from ssd1b_jax.request import FAST

    file = read_manifest(model).folder / FEW_STEPS
    return {FAST: str(file)} if file.is_file() else {}


def by_stem(paths: Iterable[str]) -> dict[str, str]:
    """LoRA files by their names without suffix. Raises RequestError for two of one name."""
    files: dict[str, str] = {}
    for file in paths:
        name = Path(file).stem
        if name in files:
            raise RequestError(f"two LoRAs are named {name!r}: rename one of the files")
        files[name] = file
    return files


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

    options = dict(dtype=arguments.dtype, per_device=arguments.per_device, loras=lora_files(arguments))
    return Pipeline.from_pretrained(arguments.model, **options, requests=requests)

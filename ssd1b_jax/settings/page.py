"""The settings as a page of documentation: a table for each group."""

from typing import Any

from ssd1b_jax.settings.kinds import Choice, Number, Pair, PictureFile, SamplerName, Scales, Switch
from ssd1b_jax.settings.setting import GROUPS, Setting
from ssd1b_jax.settings.table import SETTINGS

OWNERS = {
    "request": "a field of `Request`",
    "call": "an argument of a call of the pipeline",
    "pipeline": "an argument of `Pipeline.from_pretrained`",
    "output": "an argument of `Result.save`, and a field of `records.Output`",
}
HEAD = """# Settings

This page is written by `python -m ssd1b_jax.settings > docs/settings.md`, from the rows that also check the values.

In Python a setting is a field of `Request`, unless its row says otherwise; on the command line it is an option.
`ssd1b grid` sweeps any setting of a request, under its name in Python or its option's. A record, `Request.to_dict`
and the JSON schema (`ssd1b_jax.settings.schema()`) use the names in Python.
"""
INTERFACES = {"a1111": "AUTOMATIC1111", "segmind": "Segmind", "openai": "OpenAI", "diffusers": "diffusers"}


def page() -> str:
    """All of docs/settings.md."""
    parts = [HEAD]
    for group, (title, description) in GROUPS.items():
        rows = [row for row in SETTINGS.values() if row.group == group]
        parts.append(f"## {title}\n")
        if description:
            parts.append(f"{description}\n")
        parts.append(_table(("Python", "command line", "values", "default", "what it does"), map(_cells, rows)))
    parts.append(
        "## Names elsewhere\n\nWhere another interface has the same setting, this is its name there. "
        "An error about an unknown name knows them too.\n"
    )
    elsewhere = [row for row in SETTINGS.values() if row.api]
    names = [(f"`{row.name}`", *(_code(row.api.get(name, "")) for name in INTERFACES)) for row in elsewhere]
    parts.append(_table(("here", *INTERFACES.values()), names))
    return "\n".join(parts)


def _cells(row: Setting) -> tuple[str, ...]:
    place = "" if row.of == "request" else f" ({OWNERS[row.of]})"
    option = row.metavar if row.required else row.flag
    words = f"{row.words}; the option: {row.off}" if row.off else row.words
    return f"`{row.name}`", f"`{option}`", _values(row), _default(row), words + place


def _values(row: Setting) -> str:
    match row.kind:
        case Number():
            return row.kind.allowed
        case Pair():
            return f"two numbers, {row.kind.number.allowed}"
        case Choice():
            return ", ".join(row.kind.words)
        case Switch():
            return "true or false"
        case PictureFile():
            return row.kind.allowed
        case Scales():
            return f"names to numbers {row.kind.number.allowed}"
        case SamplerName():
            return "a sampler's name, however spelled"
    return "text"


def _default(row: Setting) -> str:
    if row.required:
        return f"must be given; None: {row.absent}" if row.absent else "must be given"
    if row.default is None:
        return row.absent or "the model's"
    return _word(row.default)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return " ".join(map(_word, value))
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, int | float) else "none"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: tuple[str, ...], rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)

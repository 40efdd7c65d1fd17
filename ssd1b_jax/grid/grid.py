"""Settings swept against each other: axes to a table of Requests, and what is written around their pictures."""

import csv
import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ssd1b_jax import images, settings
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import GridError
from ssd1b_jax.grid.figure import Edge, Figure, thumbnail
from ssd1b_jax.records import SOURCES
from ssd1b_jax.request import SEEDS, Request, draw_seed

MAX_VALUES = 100
ALWAYS = ("strength", "num_inference_steps", "guidance_scale", "seed", "scheduler")
LORA = "lora:"  # and a name: the scale of one LoRA
_ROWS = {row.name: row for row in settings.of("request")}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting, as a Request's field or "lora:NAME", and the values it takes."""

    setting: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        return _label(self.setting)

    def words(self) -> list[str]:
        """The values as people read them."""
        return [_word(self.setting, value) for value in self.values]

    def applied(self, request: Request, value: Any) -> Request:
        if self.setting.startswith(LORA):
            name = self.setting.removeprefix(LORA)
            return dataclasses.replace(request, loras={**request.loras, name: value})
        return dataclasses.replace(request, **{self.setting: value})


def parse_axis(text: str) -> Axis:
    """SETTING=VALUES: values between commas, in quotes where they have commas of their own.

    Numbers may be ranges: 1..4 counts in ones, 0.3..0.9/4 gives four at equal distances. A setting
    of two numbers has a space between them. Raises GridError.
    """
    name, equals, listed = text.partition("=")
    setting = name.strip()
    if not setting.startswith(LORA):
        setting = setting.removeprefix("--").replace("-", "_")
        setting = next((row.name for row in settings.of("request") if row.short == setting), setting)
    if not equals:
        raise GridError(f"an axis is SETTING=VALUES, as in strength=0.3,0.5,0.7 or seed=1..4, got {text!r}")
    if setting == "loras":
        raise GridError(f"an axis is the scale of one LoRA, as in {LORA}NAME=0,0.5,1, got {text!r}")
    if setting not in _ROWS and not setting.startswith(LORA):
        meant = settings.meant(setting, _ROWS.keys() - {"loras"})
        hint = f"did you mean {_ROWS[meant].short}?" if meant else "see ssd1b grid --help"
        raise GridError(f"no setting is named {name.strip()!r}: {hint}")
    kind = float if setting.startswith(LORA) else _ROWS[setting].kind.python
    try:
        (items,) = csv.reader([listed], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise GridError(f"{name}: the values {listed!r} can't be told apart: {error}") from error
    values = []
    for item in items:
        try:
            values += _range(item, kind) if ".." in item and kind in (int, float) else [_value(item, kind)]
        except ValueError as error:
            raise GridError(f"{name}: {error}") from None
        if len(values) > MAX_VALUES:
            raise GridError(f"{name} has more than {MAX_VALUES} values")
    axis = Axis(setting=setting, values=tuple(values))
    if not values or len(set(values)) < len(values):
        raise GridError(f"{name} must have values, and each once, got {listed!r}")
    return axis


def _value(text: str, kind: type) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.strip().lower() not in settings.SWITCHES:
            raise ValueError(f"true or false is needed, got {text!r}")
        return settings.SWITCHES[text.strip().lower()]
    if kind is tuple:
        return tuple(_number(part) for part in text.split())
    return _number(text)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"a number is needed, got {text!r}") from None


def _range(text: str, kind: type) -> list[int | float]:
    ends, _, count = text.partition("/")
    try:
        first, last = (Fraction(end) for end in ends.split("..", 1))
        steps = int(count) if count else abs(last - first) + 1
    except ValueError:
        raise ValueError(f"a range is two numbers and a count, as in 1..4 or 0.3..0.9/4, got {text!r}") from None
    if not count and first.denominator * last.denominator > 1:
        raise ValueError(f"say how many values the range has, as in {ends}/4, got {text!r}")
    if not 2 <= steps <= MAX_VALUES:
        raise ValueError(f"a range has 2 to {MAX_VALUES} values, got {text!r}")
    values = [first + i * (last - first) / (int(steps) - 1) for i in range(int(steps))]
    if kind is float:
        return [float(value) for value in values]
    if any(value.denominator > 1 for value in values):
        raise ValueError(f"{text!r} has values that are not whole")
    return [int(value) for value in values]


def _label(setting: str) -> str:
    short = setting.removeprefix(LORA) if setting.startswith(LORA) else _ROWS[setting].short
    return short.replace("_", " ")


def _word(setting: str, value: Any) -> str:
    if setting in SOURCES:
        return Path(value).name
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(_word("", part) for part in value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A request varied along one axis or two; cells are counted row by row, x first."""

    base: Request
    x: Axis
    y: Axis | None = None

    def __post_init__(self):
        if self.y and self.x.setting == self.y.setting:
            raise GridError(f"x and y must be two settings, got {self.x.name} twice")
        for axis in (self.x, self.y):
            if axis and axis.setting.startswith(LORA) and axis.setting.removeprefix(LORA) not in self.base.loras:
                raise GridError(f"{axis.setting} is the scale of a LoRA that is not used: give its file with --lora")

    def requests(self, config: ModelConfig) -> list[Request]:
        """One resolved request per cell, all with one seed and one variation seed where those are no axis.

        Raises RequestError.
        """
        cells = [self._cell(x, y) for y in (self.y.values if self.y else (None,)) for x in self.x.values]
        drawn = {name: draw_seed() for name in SEEDS}
        requests = []
        for cell in cells:
            request = cell.resolve(config)
            needed = {
                name: seed
                for name, seed in drawn.items()
                if getattr(cell, name) is None and getattr(request, name) is not None
            }
            requests.append(dataclasses.replace(request, **needed))
        return requests

    def _cell(self, x: Any, y: Any) -> Request:
        request = self.x.applied(self.base, x)
        return self.y.applied(request, y) if self.y else request

    def names(self) -> list[str]:
        """A file name without suffix for each cell, such as strength-0.5_seed-1; see `_stems`."""
        columns = _stems(self.x)
        return [f"{column}_{row}" for row in _stems(self.y) for column in columns] if self.y else columns

    def figure(self, requests: Sequence[Request], model: str, cell: int) -> Figure:
        """What is drawn around the pictures of `requests`, the largest side of all `cell` pixels long.

        `model` is the name to show. Raises GridError for a table that would be too large.
        """
        columns, rows, request = len(self.x.values), len(self.y.values) if self.y else 1, requests[0]
        if columns * rows * cell**2 > images.MAX_PIXELS:
            raise GridError(
                f"{columns} x {rows} pictures of {cell} pixels are more than {images.MAX_PIXELS // 10**6} megapixels: "
                "sweep fewer values, or draw them smaller"
            )
        swept = {axis.setting for axis in (self.x, self.y) if axis}
        swept |= {name for name in ALWAYS if len({getattr(each, name) for each in requests}) > 1}  # by `fast`
        image = None if "image" in swept else request.image
        return Figure(
            title="" if "prompt" in swept else request.prompt,
            subtitle=f"made from {Path(image).name}" if isinstance(image, str | Path) else "",
            footer=", ".join([*self._fixed(request, swept), model]),
            thumbnail=None if image is None else thumbnail(images.load(image).pixels),
            x=Edge(name=self.x.name, values=self.x.words()),
            y=Edge(name=self.y.name, values=self.y.words()) if self.y else Edge(),
            scale=cell / max(max(request.width, request.height) for request in requests),
        )

    def _fixed(self, request: Request, swept: set[str]) -> Iterator[str]:
        """The settings that all cells share, if they always matter or the user chose them."""
        for name, row in _ROWS.items():
            asked = getattr(self.base, name) is not row.default
            if name in swept or name in ("image", "prompt", "width", "height", "fast") or not (asked or name in ALWAYS):
                continue
            if name == "loras":
                yield from (f"{lora} {scale:g}" for lora, scale in request.loras.items() if LORA + lora not in swept)
            else:
                word = _word(name, getattr(request, name))
                yield f"{_label(name)} {word}" if len(word.split()) == 1 else f'{_label(name)} "{word}"'
        if not swept & {"width", "height"}:
            yield f"{request.width} x {request.height}"


def _stems(axis: Axis) -> list[str]:
    """A file name without suffix for each value of an axis, of letters, digits, hyphens and dots alone.

    Neither a shell nor a URL gives those another meaning. The names of one axis differ in more than capitals.
    """
    stems, taken = [], set()
    for word in axis.words():
        name = "-".join(re.sub(r"[^\w.-]|_", " ", f"{axis.name} {word}").split())
        stem = name.encode("utf-8", "replace")[:60].decode("utf-8", "ignore").rstrip(".-")
        stems.append(f"{stem}~{len(stems)}" if stem.casefold() in taken else stem)
        taken.add(stems[-1].casefold())
    return stems

"""Lines to items: each picture of a run, with its request, the name of its file and how that is written."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssd1b_jax import settings
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import RequestError
from ssd1b_jax.records import Output
from ssd1b_jax.request import DRAWN, SEEDS, Request, repeat
from ssd1b_jax.runs import names
from ssd1b_jax.runs.manifest import Line
from ssd1b_jax.runs.remote import is_remote
from ssd1b_jax.runs.templates import Templates
from ssd1b_jax.settings import SETTINGS

REQUEST = tuple(row.name for row in settings.of("request"))
OUTPUT = tuple(row.name for row in settings.of("output"))


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture to make. `name` is that of its file below the run's folder; `request` is resolved."""

    line: int
    where: str
    id: str | None
    name: str
    request: Request
    output: Output


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a line does not say: settings of requests, how many pictures it makes, how they are written.

    `loras` are the names of those that are loaded. With `templates` prompts have choices and wildcards.
    """

    config: ModelConfig
    request: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    output: Output = field(default_factory=Output)
    loras: frozenset[str] = frozenset()
    templates: Templates | None = None

    def names(self, line: Line) -> list[str]:
        """The files of a line's pictures, which `names.check` may refuse. Raises RequestError or ImageError."""
        count = SETTINGS["num_images"].check(line.values.get("num_images", self.count))
        base = names.name(line, self.output_of(line))
        return [names.numbered(base, index, count) for index in range(count)]

    def items(self, line: Line) -> Iterator[Item]:
        """A line's pictures. Raises what is wrong with the line, an Error."""
        if line.error is not None:
            raise line.error
        listed, output = self.names(line), self.output_of(line)
        fields = dict(image=None) | self.request | {n: line.values[n] for n in REQUEST if n in line.values}
        fields = {name: value for name, value in fields.items() if name not in SEEDS or value != DRAWN}
        if fields.get("prompt") is None:
            raise RequestError("prompt must be given, in the line or by --prompt")
        request = Request(**dict(seed=_drawn(listed[0], "seed")) | fields)
        if request.variation_strength and request.variation_seed is None:
            request = dataclasses.replace(request, variation_seed=_drawn(listed[0], "variation_seed"))
        if request.resize_mode == "fit" and isinstance(request.image, str) and is_remote(request.image):
            raise RequestError(f"resize_mode fit needs a picture in a file, got {request.image}: choose another mode")
        requests = repeat(request.resolve(self.config), len(listed))
        if missing := request.loras.keys() - self.loras:
            raise RequestError(f"no LoRA is named {min(missing)!r}: give its file with --lora")
        for name, each in zip(listed, requests, strict=True):
            if self.templates:
                each = self.templates.expand(each).resolve(self.config)
            output.check_name(name, each.width, each.height)
            yield Item(
                line=line.number, where=line.where, id=line.values.get("id"), name=name, request=each, output=output
            )

    def output_of(self, line: Line) -> Output:
        """How a line's pictures are written. Raises RequestError or ImageError."""
        given = {name: line.values[name] for name in OUTPUT if name in line.values}
        return dataclasses.replace(self.output, **given) if given else self.output


def _drawn(name: str, setting: str) -> int:
    """The seed of a picture that was given none: after the name of its file, so that it is the same in every run."""
    return int.from_bytes(hashlib.sha256(f"{setting} {name}".encode()).digest()[:4])

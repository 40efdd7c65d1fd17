"""What is known of one setting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ssd1b_jax.settings.kinds import Kind

Owner = Literal["request", "call", "pipeline", "output"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """One setting. `name` is its name in Python, `words` its help.

    A `default` of None is the model's own value, or what `absent` tells. What is `required` has to be
    given; with `absent` it may be given as None. `off` is the help of the option that
    switches off what is on by default. `option` is the command line's
    spelling, without the two hyphens that come first; `metavar` what its help shows for a value.
    `api` has the names that other interfaces have for it: "a1111", "segmind", "openai", "diffusers";
    `also` are other names that people bring along.
    """

    name: str
    kind: Kind
    words: str
    of: Owner = "request"
    group: str
    required: bool = False
    default: Any = None
    absent: str = ""
    off: str = ""
    option: str = ""
    metavar: str | tuple[str, str] = ""
    api: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    @property
    def optional(self) -> bool:
        """Whether None is a value."""
        return self.default is None and (not self.required or bool(self.absent))

    @property
    def short(self) -> str:
        """The name that the command line and grids use, with underscores."""
        return self.option.removeprefix("no-").replace("-", "_") or self.name

    @property
    def flag(self) -> str:
        """The option of the command line."""
        return "--" + (self.option or self.name.replace("_", "-"))

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it goes by, here and elsewhere; its own comes last."""
        return (*self.also, *self.api.values(), self.short, self.name)

    def check(self, value: Any) -> Any:
        """The value as plain Python. Raises RequestError."""
        return None if value is None and self.optional else self.kind.check(self.name, value)


# The title and the description of each group of settings.
GROUPS = {
    "picture": ("The picture", ""),
    "basic": ("Settings that matter most", ""),
    "size": ("Size", ""),
    "sampling": ("Sampling", ""),
    "prompt": ("Prompt", ""),
    "mask": ("Mask", ""),
    "conditioning": (
        "Size conditioning",
        "Sizes that SDXL models are conditioned on (Podell et al., 2307.01952).",
    ),
    "model": ("Model and devices", ""),
    "files": ("Files", ""),
}

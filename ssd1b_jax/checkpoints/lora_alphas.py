"""The alphas of a LoRA file: what diffusers and PEFT say in its metadata of how its products are scaled."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd1b_jax.checkpoints.lora_file import FILES
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.files import read_json

PARTS = ("unet", "text_encoder", "text_encoder_2")
# What is read of PEFT's patterns for names of layers.
_PATTERNS, LONGEST_PATTERN, MOST_PATTERNS = re.compile(r"\^?(?:[\w-]|\\\.|\.\*?)+"), 200, 1000
# Ways for PEFT to begin a LoRA that change the weights it is for.
_MOVING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Alphas:
    """A part's alphas, from the fields of PEFT's LoraConfig in a file's metadata."""

    default: float
    patterns: tuple[tuple[re.Pattern, float], ...]
    rank_stabilized: bool

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Alphas":
        """Read the fields. ValueError where they change more than a kernel by a product."""
        start = str(fields.get("init_lora_weights")).lower()
        if fields.get("use_dora") or fields.get("lora_bias") or start.startswith(_MOVING_STARTS):
            raise ValueError("DoRA, biases and starts that move the model's own weights are not read")
        default = float(fields["lora_alpha"])
        alphas = fields.get("alpha_pattern") or {}
        if len(alphas) > MOST_PATTERNS:
            raise ValueError(f"{len(alphas)} patterns are more than a model has layers")
        patterns = tuple((_pattern(ending), float(alpha)) for ending, alpha in alphas.items())
        if not all(map(math.isfinite, (default, *(alpha for _, alpha in patterns)))):
            raise ValueError("an alpha is not finite")
        return cls(default, patterns, bool(fields.get("use_rslora")))

    def scale(self, name: str, rank: int) -> float:
        """Alpha, by the first pattern that fits the name, over rank or its root (Kalajdzievski, 2312.03732)."""
        alpha = next((alpha for pattern, alpha in self.patterns if pattern.fullmatch(name)), self.default)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def _pattern(ending: str) -> re.Pattern:
    """PEFT's pattern: it matches a whole name, or the part of a name after one of its dots.

    Only `.`, `.*`, an escaped dot and a leading `^` (whole names only) are read. Other regular expressions
    can take for ever, and the file is a stranger's. Each `.*` but the last takes as little as it can and
    never more, which matches the same names.
    """
    if len(ending) > LONGEST_PATTERN or not _PATTERNS.fullmatch(ending):
        raise ValueError(f"the pattern {ending[:LONGEST_PATTERN]!r} is more than names, dots and '.*'")
    first, *others = ending.removeprefix("^").split(".*")
    inner = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    last = f".*{others[-1]}" if others else ""
    return re.compile(("" if ending.startswith("^") else r"(?:.*\.)?") + first + inner + last)


def read(file: Path, metadata: str | None) -> dict[str, Alphas]:
    """The alphas of each part, from diffusers' metadata within the file or PEFT's adapter_config.json."""
    config = file.with_name("adapter_config.json")
    try:
        if not metadata and file.name == FILES[1] and config.is_file():
            fields = read_json(config)
        else:
            fields = json.loads(metadata) if metadata else {}
        named = {
            part: {key.removeprefix(f"{part}."): value for key, value in fields.items() if key.startswith(f"{part}.")}
            for part in PARTS
        }
        named["unet"] = named["unet"] or fields  # fields without a part's name are the UNet's
        alphas = {part: Alphas.of(fields) for part, fields in named.items() if "lora_alpha" in fields}
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WeightsError(f"{file} says of itself what can't be used: {error}") from error
    return alphas

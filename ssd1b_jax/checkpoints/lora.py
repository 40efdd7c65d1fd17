"""LoRA files: low-rank changes of a model's weights (Hu et al., 2106.09685), by our own parameter paths.

Files of diffusers, PEFT and kohya name the same layers in their own ways. All spellings of all layers
follow from the networks. So a name in a file is looked up, never guessed: an unknown name does not fit
the model. `engine.adapters` merges what is read here.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ssd1b_jax.checkpoints.lora_file import FILES, find
from ssd1b_jax.checkpoints.safetensors import read_with_metadata, summary
from ssd1b_jax.checkpoints.tensor_names import PREFIXES, sgm_names, table
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.files import read_json

PARTS = ("unet", "text_encoder", "text_encoder_2")
KOHYA = {"unet": ("lora_unet",), "text_encoder": ("lora_te1", "lora_te"), "text_encoder_2": ("lora_te2",)}
# How a tensor's name ends, and what it is to the layer whose name comes before.
_DEFAULT = r"(?:\.default(?:_\d+)?)?"
ROLES = {
    "down": re.compile(rf"(.+?)(?:\.lora_A{_DEFAULT}|\.lora_down|[._]lora\.down|\.lora_linear_layer\.down)\.weight"),
    "up": re.compile(rf"(.+?)(?:\.lora_B{_DEFAULT}|\.lora_up|[._]lora\.up|\.lora_linear_layer\.up)\.weight"),
    "alpha": re.compile(r"(.+)\.alpha"),
}
# Relatives that are no sum of a weight and a product of two matrices, by what their tensors' names have.
RELATIVES = {
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".oft_": "OFT",
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".lora_mid": "LoCon with a core tensor (lora_mid)",
}
# What is read of PEFT's patterns for names of layers.
_PATTERNS, LONGEST_PATTERN, MOST_PATTERNS = re.compile(r"\^?(?:[\w-]|\\\.|\.\*?)+"), 200, 1000
# Ways for PEFT to begin a LoRA that change the weights it is for.
_MOVING_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Layer(NamedTuple):
    """A layer that a LoRA can change: its name in diffusers, and its kernel as `tensor_names.Entry` has it."""

    part: str
    name: str
    path: tuple[str | int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]


class Factor(NamedTuple):
    """The change of a kernel, `scale * (down @ up)`; `scale` is the file's alpha over its rank."""

    down: Float[Array | np.ndarray, "*kernel inputs rank"]
    up: Float[Array | np.ndarray, "rank outputs"]
    scale: float


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


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRA:
    """A LoRA file: its sha256, and a factor for each kernel it changes, by part and by path in the part."""

    sha256: str
    factors: Mapping[str, Mapping[tuple[str | int, ...], Factor]]


def read(path: str | Path, config: ModelConfig) -> LoRA:
    """Read a LoRA from a safetensors file, or from the folder that diffusers or PEFT saved it in.

    Raises WeightsError for all tensors that fit no layer of the model or not its shape, that occur
    twice, lack their other half or are not finite; and for LoRA's relatives (LoHa, LoKr, DoRA, ...).
    """
    file = find(path)
    tensors, metadata = read_with_metadata(file)
    for mark, relative in RELATIVES.items():
        if any(mark in name for name, _ in tensors):
            raise WeightsError(f"{file} is a {relative}, which can't be merged: give a LoRA or a plain LoCon")
    alphas = _alphas(file, metadata.get("lora_adapter_metadata"))
    layers, faults = _by_layer(tensors, spellings(config))
    for layer, roles in layers.items():
        faults += _faults(layer, roles, alphas)
    if faults:
        raise WeightsError(summary(faults, f"{file} does not fit the model"))
    if not layers:
        raise WeightsError(f"{file} holds no tensors: give a LoRA")
    factors: dict[str, dict] = {part: {} for part in PARTS}
    for layer, roles in layers.items():
        factors[layer.part][layer.path] = _factor(layer, roles, alphas)
    with open(file, "rb") as data:
        return LoRA(sha256=hashlib.file_digest(data, "sha256").hexdigest(), factors=factors)


@cache
def spellings(config: ModelConfig) -> Mapping[str, Layer]:
    """Every name that LoRA files have for a layer, and the layer."""
    sgm = sgm_names("unet", config)
    spelled = {}
    for part in PARTS:
        for tensor, entry in table(part, config).items():
            if entry.path[-1] != "kernel":
                continue
            name = tensor.removesuffix(".weight")
            layer = Layer(part, name, *entry)
            kohya = [name]
            if part == "unet":
                dotted = [name, re.sub(r"\.(attn\d)\.(to_\w+)(\.0)?$", r".\1.processor.\2", name)]
                dotted += [f"unet.{spelling}" for spelling in dotted]
                kohya.append(sgm[tensor].removeprefix(PREFIXES[part]).removesuffix(".weight"))
            else:
                dotted = [name, re.sub(r"\.(q|k|v|out)_proj$", r".to_\1", name)]
                dotted = [f"{part}.{spelling}" for spelling in dotted]
                dotted += [spelling.replace(".text_model.", ".") for spelling in dotted]
            joined = [f"{prefix}_{spelling.replace('.', '_')}" for prefix in KOHYA[part] for spelling in kohya]
            spelled |= dict.fromkeys(dotted + joined, layer)
    return spelled


Roles = dict[str, tuple[str, np.ndarray]]  # the file's name and tensor of a layer's down, up and alpha


def _by_layer(
    tensors: list[tuple[str, np.ndarray]], spelled: Mapping[str, Layer]
) -> tuple[dict[Layer, Roles], list[tuple[str, str]]]:
    """The tensors by layer and role, and what is wrong with the names of the others."""
    layers: dict[Layer, Roles] = {}
    faults = []
    for name, tensor in tensors:
        module, role = _parse(name)
        layer = spelled.get(module)
        if layer is None:
            faults.append(("unknown", name))
        elif role in layers.setdefault(layer, {}):
            faults.append(("repeated", name))
        else:
            layers[layer][role] = name, tensor
    return layers, faults


def _parse(name: str) -> tuple[str, str]:
    """A tensor's module and role, without what PEFT puts before every name; nothing for a name of no such form."""
    for role, ending in ROLES.items():
        if match := ending.fullmatch(name):
            return match[1].replace("base_model.model.", "", 1), role
    return "", ""


def _faults(layer: Layer, roles: Roles, alphas: Mapping[str, Alphas]) -> Iterator[tuple[str, str]]:
    for role in ("down", "up"):
        if role not in roles:
            yield "missing", f"the {role} of {layer.part} {layer.name}"
    ranks = (roles[role][1].shape[axis : axis + 1] for role, axis in (("down", 0), ("up", 1)) if role in roles)
    rank = max((1, *next(ranks, ())))
    wanted = {"down": (rank, *layer.shape[1:]), "up": (layer.shape[0], rank), "alpha": ()}
    for role, (name, tensor) in roles.items():
        if _plain(tensor.shape) != _plain(wanted[role]):
            yield "mis-shaped", f"{name} is {tensor.shape}, not {wanted[role]}"
        if role != "alpha" and tensor.dtype.kind not in "fV":  # bfloat16 is "V"
            yield "of whole numbers", f"{name} is {tensor.dtype}"
        if not np.isfinite(_float(tensor)).all():
            yield "not finite", name
    if "alpha" in roles and layer.part in alphas:
        yield "repeated", f"{roles['alpha'][0]}, which the file's metadata say too"


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a matrix, a convolution of one pixel, and a number in an array of one have in common."""
    return () if shape == (1,) else shape[:2] if set(shape[2:]) == {1} else shape


def _factor(layer: Layer, roles: Roles, alphas: Mapping[str, Alphas]) -> Factor:
    """In the layout of our kernels, whose last axes are inputs and outputs; dtypes as in the file."""
    down, up = (_float(roles[role][1]) for role in ("down", "up"))
    rank, scale = len(down), 1.0
    if "alpha" in roles:
        scale = float(roles["alpha"][1].reshape(())) / rank
    elif layer.part in alphas:
        scale = alphas[layer.part].scale(layer.name, rank)
    return Factor(down.reshape(rank, *layer.shape[1:]).transpose(layer.axes), up.reshape(-1, rank).T, scale)


def _float(tensor: np.ndarray) -> np.ndarray:
    """As it is in 16 or 32 bits, else in 32: what is infinite there is as good as infinite."""
    with np.errstate(over="ignore"):
        return tensor if tensor.dtype.kind in "fV" and tensor.dtype.itemsize <= 4 else tensor.astype(np.float32)


def _alphas(file: Path, metadata: str | None) -> dict[str, Alphas]:
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

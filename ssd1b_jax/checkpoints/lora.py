"""LoRA files: low-rank changes of a model's weights (Hu et al., 2106.09685), by our own parameter paths.

Files of diffusers, PEFT and kohya name the same layers in their own ways. All spellings of all layers
follow from the networks. So a name in a file is looked up, never guessed: an unknown name does not fit
the model. `engine.adapters` merges what is read here.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from ssd1b_jax.checkpoints import families, lora_alphas
from ssd1b_jax.checkpoints.lora_alphas import PARTS, Alphas
from ssd1b_jax.checkpoints.lora_file import find
from ssd1b_jax.checkpoints.safetensors import read_with_metadata, summary
from ssd1b_jax.checkpoints.tensor_names import PREFIXES, sgm_names, table
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import WeightsError

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


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRA:
    """A LoRA file: its sha256, and a factor for each kernel it changes, by part and by path in the part.

    `left_out` is the number of its layers that the model lacks.
    """

    sha256: str
    factors: Mapping[str, Mapping[tuple[str | int, ...], Factor]]
    left_out: int = 0

    @property
    def layers(self) -> int:
        return sum(map(len, self.factors.values()))


def read(path: str | Path, config: ModelConfig, *, partial: bool = False) -> LoRA:
    """Read a LoRA from a safetensors file, or from the folder that diffusers or PEFT saved it in.

    Raises WeightsError for all tensors that fit no layer of the model or not its shape, that occur
    twice, lack their other half or are not finite; and for LoRA's relatives (LoHa, LoKr, DoRA, ...).
    With `partial` layers that the model does not have, or has in another shape, are left out and counted.
    """
    file = find(path)
    tensors, metadata = read_with_metadata(file)
    for mark, relative in RELATIVES.items():
        if any(mark in name for name, _ in tensors):
            raise WeightsError(f"{file} is a {relative}, which can't be merged: give a LoRA or a plain LoCon")
    alphas = lora_alphas.read(file, metadata.get("lora_adapter_metadata"))
    layers, faults = _by_layer(tensors, spellings(config))
    wrong = {layer: [*_faults(layer, roles, alphas)] for layer, roles in layers.items()}
    strange = _modules(name for kind, name in faults if kind == "unknown")
    unfit = {layer for layer, kinds in wrong.items() if any(kind == "mis-shaped" for kind, _ in kinds)}
    left_out = len(strange) + len(unfit)
    if left_out:
        fitting = len(layers) - len(unfit)
        if not partial or not fitting:
            all_faults = [*faults, *(fault for kinds in wrong.values() for fault in kinds)]
            raise WeightsError(_misfit(file, tensors, all_faults, fitting, fitting + left_out))
        faults = [fault for fault in faults if fault[0] != "unknown"]
        layers = {layer: roles for layer, roles in layers.items() if layer not in unfit}
    if faults := [*faults, *(fault for layer in layers for fault in wrong[layer])]:
        raise WeightsError(summary(faults, f"{file} does not fit the model"))
    if not layers:
        raise WeightsError(f"{file} holds no tensors: give a LoRA")
    factors: dict[str, dict] = {part: {} for part in PARTS}
    for layer, roles in layers.items():
        factors[layer.part][layer.path] = _factor(layer, roles, alphas)
    with open(file, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    return LoRA(sha256=digest, factors=factors, left_out=left_out)


def _misfit(
    file: Path, tensors: list[tuple[str, np.ndarray]], faults: list[tuple[str, str]], fitting: int, count: int
) -> str:
    """A sentence on a file that does not fit the model: what it is, if that is known, and how much of it fits."""
    downs = {module: tensor.shape for name, tensor in tensors for module, role in [_parse(name)] if role == "down"}
    if not downs and (kind := families.kind_of_no_lora(name for name, _ in tensors)):
        return f"{file} is no LoRA but {kind}"
    model = families.made_for(downs, spellings) if downs else None
    title = f"{file} is a LoRA for {model}, and does not fit the model" if model else f"{file} does not fit the model"
    partly = f"; {fitting} of its {count} layers fit, which --lora-partial merges" if downs and fitting else ""
    return summary(faults, title) + partly


def _modules(names: Iterable[str]) -> set[str]:
    """The layers that tensors of these names belong to; a tensor of no LoRA is its own."""
    return {_parse(name)[0] or name for name in names}


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

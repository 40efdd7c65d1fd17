"""The weight table: which tensor of a diffusers checkpoint is which parameter of ours, in both directions.

It follows from the networks themselves: every layer type says how its parameters are named and
laid out, and a few renames bridge what our modules call otherwise.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.models.layers import GroupNorm

Tensors = Iterable[tuple[str, np.ndarray]]

# Layer type: our leaf, the checkpoint's leaf, and the checkpoint's axis for each of our axes.
_NORM = {"scale": ("weight", (0,)), "bias": ("bias", (0,))}
LAYERS = {
    nnx.Linear: {"kernel": ("weight", (1, 0)), "bias": ("bias", (0,))},
    nnx.Conv: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", (0,))},
    nnx.Embed: {"embedding": ("weight", (0, 1))},
    nnx.LayerNorm: _NORM,
    GroupNorm: _NORM,
}
# Our names and the checkpoint's, where they differ.
RENAMES = {
    "ff.proj_in": "ff.net.0.proj",
    "ff.proj_out": "ff.net.2",
    "to_out": "to_out.0",
    "downsampler": "downsamplers.0",
    "upsampler": "upsamplers.0",
    "layers": "text_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "position_embedding": "text_model.embeddings.position_embedding",
    "final_layer_norm": "text_model.final_layer_norm",
}
# What older files call the VAE's attention, what newer ones save without a prefix, and a buffer that is no weight.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
UNPREFIXED = ("embeddings.", "encoder.layers.", "final_layer_norm.")
IGNORED = {"text_model.embeddings.position_ids"}


class Entry(NamedTuple):
    """A parameter: its path in our tree, the checkpoint's axis for each of ours, the checkpoint's shape."""

    path: tuple[str | int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]


class WeightsError(ValueError):
    """Weights that do not fit the config, or can't be read; the message counts and names them."""


def table(part: str, config: ModelConfig) -> dict[str, Entry]:
    """Every tensor name of a part's checkpoint, and the parameter that it is."""
    graphdef, shapes = abstract(part, config)
    modules = dict(nnx.iter_modules(nnx.merge(graphdef, shapes)))
    entries = {}
    for path, leaf in _leaves(shapes):
        layer = next(layout for kind, layout in LAYERS.items() if isinstance(modules[path[:-1]], kind))
        name, axes = layer[path[-1]]
        names = _rename(".".join(map(str, path[:-1])), RENAMES)
        entries[f"{names}.{name}"] = Entry(path, axes, tuple(leaf.shape[i] for i in np.argsort(axes)))
    return entries


def to_flax(config: ModelConfig, parts: Mapping[str, Tensors], dtype: str = "float32") -> dict[str, dict]:
    """Parameters of each part from its checkpoint's named tensors: views of them in our layout, not yet in `dtype`.

    Each tensor is used exactly once. Raises WeightsError for all that are unknown, missing, repeated,
    mis-shaped, or not finite in `dtype`.
    """
    tables = {part: table(part, config) for part in parts}
    named = {part: _weights(tensors) for part, tensors in parts.items()}
    faults = [(kind, f"{part} {name}") for part in parts for kind, name in _faults(tables[part], named[part], dtype)]
    if faults:
        raise WeightsError(_summary(faults))
    return {part: _fill(tables[part], dict(named[part]), abstract(part, config)[1]) for part in parts}


def to_torch(config: ModelConfig, params: Mapping[str, dict]) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of `to_flax`: each part's tensors under the checkpoint's names, in its layout."""
    leaves = {part: dict(_leaves(tree)) for part, tree in params.items()}
    return {
        part: {
            name: np.asarray(leaves[part][entry.path]).transpose(np.argsort(entry.axes))
            for name, entry in table(part, config).items()
        }
        for part in params
    }


def _weights(tensors: Tensors) -> list[tuple[str, np.ndarray]]:
    """The tensors that are weights, each under the name that `table` has for it."""
    named = ((_rename(name, OLD_NAMES), tensor) for name, tensor in tensors)
    named = ((f"text_model.{name}" if name.startswith(UNPREFIXED) else name, tensor) for name, tensor in named)
    return [(name, tensor) for name, tensor in named if name not in IGNORED]


def _leaves(tree) -> list[tuple[tuple[str | int, ...], jax.Array]]:
    return [(_keys(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _keys(path) -> tuple[str | int, ...]:
    return tuple(part.key for part in path)


def _rename(name: str, names: Mapping[str, str]) -> str:
    name = f".{name}."
    for old, new in names.items():
        name = name.replace(f".{old}.", f".{new}.")
    return name[1:-1]


def _fill(entries: Mapping[str, Entry], tensors: Mapping[str, np.ndarray], shapes: dict) -> dict:
    arrays = {entry.path: tensors[name].transpose(entry.axes) for name, entry in entries.items()}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: arrays[_keys(path)], shapes)


def _faults(entries: Mapping[str, Entry], tensors: list[tuple[str, np.ndarray]], dtype: str) -> list[tuple[str, str]]:
    """What is wrong with which tensor."""
    counts = Counter(name for name, _ in tensors)
    faults = [("unknown", name) for name in counts if name not in entries]
    faults += [("missing", name) for name in entries if name not in counts]
    faults += [("repeated", name) for name, count in counts.items() if count > 1]
    for name, tensor in tensors:
        if name not in entries:
            continue
        if tensor.shape != entries[name].shape:
            faults.append(("mis-shaped", f"{name} is {tensor.shape}, not {entries[name].shape}"))
        with np.errstate(over="ignore"):
            finite = np.isfinite(tensor.astype(dtype)).all()
        if not finite:
            faults.append((f"not finite in {dtype}", name))
    return faults


def _summary(faults: list[tuple[str, str]], shown: int = 10) -> str:
    groups: dict[str, list[str]] = {}
    for kind, name in faults:
        groups.setdefault(kind, []).append(name)
    described = (
        f"{len(names)} {kind} ({', '.join(names[:shown])}{', …' if len(names) > shown else ''})"
        for kind, names in groups.items()
    )
    return f"the weights do not fit the config: {'; '.join(described)}"

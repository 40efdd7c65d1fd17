"""What checkpoints call our parameters: every tensor name of a part, and the parameter that it is.

The table follows from the networks themselves: every layer type says how its parameters are named
and laid out, and a few renames bridge what our modules call otherwise. The names are diffusers'.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.models.layers import GroupNorm

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


class Entry(NamedTuple):
    """A parameter: its path in our tree, the checkpoint's axis for each of ours, the checkpoint's shape."""

    path: tuple[str | int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]


def table(part: str, config: ModelConfig) -> dict[str, Entry]:
    """Every tensor name of a part's checkpoint, and the parameter that it is."""
    graphdef, shapes = abstract(part, config)
    modules = dict(nnx.iter_modules(nnx.merge(graphdef, shapes)))
    entries = {}
    for path, leaf in leaves(shapes):
        layer = next(layout for kind, layout in LAYERS.items() if isinstance(modules[path[:-1]], kind))
        name, axes = layer[path[-1]]
        names = rename(".".join(map(str, path[:-1])), RENAMES)
        entries[f"{names}.{name}"] = Entry(path, axes, tuple(leaf.shape[i] for i in np.argsort(axes)))
    return entries


def leaves(tree) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every leaf of a pure dict, with its path."""
    return [(keys(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def keys(path) -> tuple[str | int, ...]:
    return tuple(part.key for part in path)


def rename(name: str, names: Mapping[str, str]) -> str:
    name = f".{name}."
    for old, new in names.items():
        name = name.replace(f".{old}.", f".{new}.")
    return name[1:-1]

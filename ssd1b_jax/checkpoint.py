"""Weights on disk, by Orbax."""

from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp


def save_tree(path, tree) -> None:
    """Save a pytree of arrays at `path`, which must not exist; a killed save leaves nothing there."""
    ocp.save(Path(path).absolute(), tree)


def load_tree(path, abstract):
    """Load what `save_tree` wrote. Missing, extra and mis-shaped leaves are errors."""
    return ocp.load(Path(path).absolute(), jax.tree.map(_describe, abstract))


def _describe(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

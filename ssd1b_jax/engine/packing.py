"""Many small arrays in one: a call of a program costs by the number of its arrays, and hardly by their size.

JAX and PJRT look at every argument of every call, a microsecond or two at each; a UNet has hundreds of biases and
scales. A program takes its pack apart once a call, which moves values and rounds nothing.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

SMALL = 1 << 15  # bytes of a row; what is larger stays by itself, for taking an array out of a pack copies it

Arrays = tuple[Array | np.ndarray, ...]


def is_small(leaf: jax.ShapeDtypeStruct) -> bool:
    return math.prod(leaf.shape) * leaf.dtype.itemsize <= SMALL


def is_vector(leaf: jax.ShapeDtypeStruct) -> bool:
    return leaf.ndim == 1


class Packing:
    """The leaves of a tree as fewer arrays: first a vector of all that are packed, for each dtype, then the others.

    `shapes` is the tree of one row, and `is_packed` says which leaves are packed; arrays may have axes in front of it.
    """

    def __init__(self, shapes, is_packed: Callable[[jax.ShapeDtypeStruct], bool] = is_small):
        leaves, self._tree = jax.tree.flatten(shapes)
        self._leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        self._packs: dict[np.dtype, list[int]] = {}  # indices of leaves
        self._others: list[int] = []
        for i, leaf in enumerate(self._leaves):
            (self._packs.setdefault(leaf.dtype, []) if is_packed(leaf) else self._others).append(i)

    @property
    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Of the arrays of one row."""
        return jax.eval_shape(self.pack, jax.tree.unflatten(self._tree, self._leaves))

    def pack(self, tree, concatenate: Callable = jnp.concatenate) -> Arrays:
        """The arrays of a tree; those of NumPy are joined by NumPy's `concatenate`."""
        leaves = self._flatten(tree)
        return *self._join(leaves, concatenate), *(leaves[i] for i in self._others)

    def others(self, tree) -> Arrays:
        """The arrays that are not packed."""
        leaves = self._flatten(tree)
        return tuple(leaves[i] for i in self._others)

    def place(self, tree) -> Arrays:
        """The packs of arrays that are on devices, as they are placed there: by way of the host, so nothing compiles."""
        leaves = self._flatten(tree)
        hosted = jax.device_get({i: leaves[i] for indices in self._packs.values() for i in indices})
        return tuple(
            jax.device_put(pack, leaves[indices[0]].sharding)
            for pack, indices in zip(self._join(hosted, np.concatenate), self._packs.values(), strict=True)
        )

    def unpack(self, arrays: Sequence[Array]):
        """The tree, in a program, whose other operations are those that it has without packs."""
        leaves: list = [None] * len(self._leaves)
        packs, others = arrays[: len(self._packs)], arrays[len(self._packs) :]
        for pack, indices in zip(packs, self._packs.values(), strict=True):
            sizes = [math.prod(self._leaves[i].shape) for i in indices]
            for i, part in zip(indices, jax.lax.split(pack, sizes, axis=pack.ndim - 1), strict=True):
                leaves[i] = part.reshape(*pack.shape[:-1], *self._leaves[i].shape)
        for i, leaf in zip(self._others, others, strict=True):
            leaves[i] = leaf
        # XLA fuses nothing with the slices, so what follows rounds as it does without them.
        return jax.tree.unflatten(self._tree, jax.lax.optimization_barrier(leaves))

    def _flatten(self, tree) -> list:
        return self._tree.flatten_up_to(tree)

    def _join(self, leaves, concatenate: Callable) -> list:
        """The packs."""

        def row(i: int):
            """A leaf whose own axes are one."""
            lead = np.ndim(leaves[i]) - self._leaves[i].ndim
            return leaves[i].reshape(*leaves[i].shape[:lead], -1)

        return [concatenate([row(i) for i in indices], axis=-1) for indices in self._packs.values()]

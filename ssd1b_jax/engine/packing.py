"""Many small arrays in one: a call of a program costs by the number of its arrays, and hardly by their size.

JAX and PJRT look at every argument of every call, a microsecond or two at each; a UNet has hundreds of biases and
scales. A program takes its pack apart once a call, which moves values and rounds nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

WORD = np.dtype(np.uint32)
SMALL = 1 << 15  # bytes of a row; what is larger stays by itself, for taking an array out of a pack copies it

Arrays = tuple[Array | np.ndarray, ...]
Shapes = tuple[jax.ShapeDtypeStruct, ...]


def is_small(leaf: jax.ShapeDtypeStruct) -> bool:
    return math.prod(leaf.shape) * leaf.dtype.itemsize <= SMALL


class Packing:
    """The leaves of a tree as fewer arrays: first vectors of all that are packed, then the others.

    `shapes` is the tree of one row, and `is_packed` says which leaves are packed; arrays may have axes in front of it.
    Values of 4 bytes are packed together, as words, and flags with them; others with those of their dtype.
    """

    def __init__(self, shapes, is_packed: Callable[[jax.ShapeDtypeStruct], bool] = is_small):
        leaves, self._tree = jax.tree.flatten(shapes)
        self._leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        self._packs: dict[np.dtype, list[int]] = {}  # indices of leaves
        self._others: list[int] = []
        for i, leaf in enumerate(self._leaves):
            dtype = WORD if leaf.dtype.itemsize == WORD.itemsize or leaf.dtype.kind == "b" else leaf.dtype
            (self._packs.setdefault(dtype, []) if is_packed(leaf) else self._others).append(i)

    @property
    def shapes(self) -> Shapes:
        """Of the arrays of one row."""
        return jax.eval_shape(self.pack, jax.tree.unflatten(self._tree, self._leaves))

    def pack(self, tree) -> Arrays:
        """The arrays of a tree. Those of NumPy stay on the host."""
        leaves = self._flatten(tree)
        return *self._join(leaves), *(leaves[i] for i in self._others)

    def others(self, tree) -> Arrays:
        """The arrays that are not packed."""
        leaves = self._flatten(tree)
        return tuple(leaves[i] for i in self._others)

    def place(self, tree) -> Arrays:
        """The packs of arrays that are on devices, placed as these are; by way of the host, so nothing compiles."""
        leaves = self._flatten(tree)
        hosted = jax.device_get({i: leaves[i] for indices in self._packs.values() for i in indices})
        return tuple(
            jax.device_put(pack, leaves[indices[0]].sharding)
            for pack, indices in zip(self._join(hosted), self._packs.values(), strict=True)
        )

    def unpack(self, arrays: Sequence[Array]):
        """The tree, in a program."""
        leaves: list = [None] * len(self._leaves)
        packs, others = arrays[: len(self._packs)], arrays[len(self._packs) :]
        for pack, indices in zip(packs, self._packs.values(), strict=True):
            sizes = [math.prod(self._leaves[i].shape) for i in indices]
            for i, part in zip(indices, jax.lax.split(pack, sizes, axis=pack.ndim - 1), strict=True):
                shape, dtype = self._leaves[i].shape, self._leaves[i].dtype
                values = part != 0 if dtype.kind == "b" else jax.lax.bitcast_convert_type(part, dtype)
                leaves[i] = values.reshape(*pack.shape[:-1], *shape)
        for i, leaf in zip(self._others, others, strict=True):
            leaves[i] = leaf
        # XLA fuses nothing with the slices, so what follows rounds as it does without them.
        return jax.tree.unflatten(self._tree, jax.lax.optimization_barrier(leaves))

    def _flatten(self, tree) -> list:
        return self._tree.flatten_up_to(tree)

    def _join(self, leaves: Sequence | Mapping[int, np.ndarray]) -> list:
        """The packs."""

        def row(i: int, dtype: np.dtype):
            """A leaf as values of its pack, with one axis in place of its own."""
            leaf, shape = leaves[i], self._leaves[i]
            leaf = leaf.reshape(*leaf.shape[: leaf.ndim - shape.ndim], -1)
            return leaf.astype(dtype) if shape.dtype.kind == "b" else leaf.view(dtype)

        packs = ([row(i, dtype) for i in indices] for dtype, indices in self._packs.items())
        return [(np if isinstance(rows[0], np.ndarray) else jnp).concatenate(rows, axis=-1) for rows in packs]

"""The parameters that each stage uses, as compiled stages take them: biases and scales in a pack (see `packing`).

Kernels stay by themselves: a program would copy them, and LoRAs change them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ssd1b_jax.engine.packing import Arrays, Packing, Shapes
from ssd1b_jax.models import ParamPath

Tree = dict[Any, Any]  # of a part's parameters, or of their shapes


def _everything(path: ParamPath) -> bool:
    return True


def _conditions(path: ParamPath) -> bool:
    """Whether it makes the conditioning of a prompt, and does nothing else."""
    return path[0] == "add_embedding" or path[-3:-1] in (("attn2", "to_k"), ("attn2", "to_v"))


def _denoises(path: ParamPath) -> bool:
    return not _conditions(path)


def _encodes(path: ParamPath) -> bool:
    return path[0] in ("encoder", "quant_conv")


def _decodes(path: ParamPath) -> bool:
    return not _encodes(path)


USED: Mapping[str, Mapping[str, Callable[[ParamPath], bool]]] = dict(
    prepare=dict(text_encoder=_everything, text_encoder_2=_everything, unet=_conditions, vae=_encodes),
    advance=dict(unet=_denoises),
    advance_unguided=dict(unet=_denoises),
    decode=dict(vae=_decodes),
    put={},
    put_latents={},
)


class Parameters:
    """Those of one part that one stage uses; `tree` has the shapes of all."""

    def __init__(self, stage: str, part: str, tree: Tree):
        self._is_used = USED[stage][part]
        self._tree = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        self._packing = Packing(self._flat(self._tree), lambda leaf: leaf.ndim == 1)

    @property
    def shapes(self) -> Shapes:
        return self._packing.shapes

    def packs(self, tree: Tree) -> Arrays:
        """The packs of parameters that are on devices. They are those of any merge, too."""
        return self._packing.place(self._flat(tree))

    def others(self, tree: Tree) -> Arrays:
        """The arrays beside them."""
        return self._packing.others(self._flat(tree))

    def unpack(self, arrays: Arrays) -> Tree:
        """The tree of the part, in a program, with NaN for what is not used: if it were, no picture would be finite."""
        used = self._packing.unpack(arrays)

        def leaf(path, shape):
            value = used.get(_keys(path))
            return jnp.full(shape.shape, jnp.nan, shape.dtype) if value is None else value

        return jax.tree_util.tree_map_with_path(leaf, self._tree)

    def _flat(self, tree: Tree) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {_keys(path): leaf for path, leaf in leaves if self._is_used(tuple(key.key for key in path))}


def _keys(path) -> str:
    return jax.tree_util.keystr(path)

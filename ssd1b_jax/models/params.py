"""Parameters of the four networks: their abstract shapes, and prepacking for a platform.

`abstract` gives a part's graphdef and shapes. Nothing is allocated, and no random key is made: a fake
`Rngs` gives each initializer no key, and the initializers of `layers` then return zeros. Tracing the
draws would take most of the time.

Some platforms compute a convolution faster from other matrices than the checkpoint's kernel (Winograd
on a CPU). `prepack` replaces these kernels once, when weights are placed, so that no program transforms
them again. The graphdef changes with them: `abstract` with that platform is the structure of the result.
Everything else (checkpoints, LoRA) keeps the checkpoint's structure.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.kernels import Winograd
from ssd1b_jax.models.clip import CLIPTextEncoder
from ssd1b_jax.models.layers import Conv
from ssd1b_jax.models.unet import UNet
from ssd1b_jax.models.vae import VAE

ParamPath = tuple[str | int, ...]

PARTS = {"unet": UNet, "vae": VAE, "text_encoder": CLIPTextEncoder, "text_encoder_2": CLIPTextEncoder}


class _Keyless(nnx.Rngs):
    """Gives no key for any parameter."""

    def params(self):
        return None


def abstract(
    part: str, config: ModelConfig, dtype=jnp.float32, platform: str | None = None
) -> tuple[nnx.GraphDef, dict]:
    """The graphdef of a part and the shapes of its parameters as a pure dict.

    `nnx.merge(graphdef, params)` is the network. The structure of `params` is that of checkpoints, or
    with a `platform` that of `prepack`.
    """
    graphdef, shapes, _ = _abstract(part, getattr(config, part), jnp.dtype(dtype), platform)
    return graphdef, jax.tree.map(lambda leaf: leaf, shapes)


def prepack(part: str, config: ModelConfig, params: dict, platform: str | None, *, take: bool = False) -> dict:
    """A part's parameters, given in the structure of checkpoints, in the structure for `platform`.

    Arrays that need no change are shared. On a CPU in float32 the result is larger by up to a fifth;
    elsewhere nothing changes. Shapes in place of arrays give shapes. `take` empties `params` on the way,
    so that only one kernel at a time is in memory twice.
    """
    leaf = jax.tree.leaves(params)[0]
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return abstract(part, config, leaf.dtype, platform)[1]
    chosen = algorithms(part, config, leaf.dtype, platform)

    def packed(node: dict, path: tuple) -> dict:
        result = {}
        for key in list(node):
            value = node.pop(key) if take else node[key]
            here = (*path, key)
            if isinstance(value, dict):
                result[key] = packed(value, here)
            elif here in chosen:
                matrices = chosen[here].pack(jnp.asarray(value))
                result[key] = jax.block_until_ready(dict(enumerate(matrices)))
            else:
                result[key] = value
        return result

    return packed(params, ())


def algorithms(part: str, config: ModelConfig, dtype, platform: str | None) -> Mapping[ParamPath, Winograd]:
    """The algorithm of each kernel that `prepack` replaces, by the kernel's path."""
    return _abstract(part, getattr(config, part), jnp.dtype(dtype), platform).algorithms


class _Abstract(NamedTuple):
    graphdef: nnx.GraphDef
    shapes: dict
    algorithms: Mapping[ParamPath, Winograd]


@cache
def _abstract(part, config, dtype, platform) -> _Abstract:
    if platform is None:
        network, chosen = nnx.eval_shape(lambda: PARTS[part](config, dtype=dtype, rngs=_Keyless())), {}
    else:  # from the one without a platform: building it anew takes five times as long
        plain = _abstract(part, config, dtype, None)
        network = nnx.merge(plain.graphdef, plain.shapes)
        convolutions = [(path, layer) for path, layer in nnx.iter_modules(network) if isinstance(layer, Conv)]
        for _, layer in convolutions:
            layer.prepack(platform)
        chosen = {(*path, "kernel"): layer.algorithm for path, layer in convolutions if layer.algorithm is not None}
    graphdef, state = nnx.split(network)
    return _Abstract(graphdef, nnx.to_pure_dict(state), MappingProxyType(chosen))

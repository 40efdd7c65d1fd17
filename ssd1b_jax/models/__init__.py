"""The four networks of the SDXL family as Flax NNX modules, channels last."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.kernels import Winograd
from ssd1b_jax.models.clip import CLIPTextEncoder
from ssd1b_jax.models.layers import Conv
from ssd1b_jax.models.unet import UNet
from ssd1b_jax.models.vae import VAE

PARTS = {"unet": UNet, "vae": VAE, "text_encoder": CLIPTextEncoder, "text_encoder_2": CLIPTextEncoder}


class _OneKey(nnx.Rngs):
    """The same key for every parameter. Counting keys makes `nnx.eval_shape` quadratic: 18 s for SSD-1B, not 1."""

    def params(self):
        return jax.random.wrap_key_data(np.zeros(2, np.uint32))


def abstract(
    part: str, config: ModelConfig, dtype=jnp.float32, platform: str | None = None
) -> tuple[nnx.GraphDef, dict]:
    """The graphdef of a part and the shapes of its parameters as a pure dict, with nothing allocated.

    `nnx.merge(graphdef, params)` is the network, given parameters in that structure: that of
    checkpoints, or with a `platform` that of `lay_out`.
    """
    graphdef, shapes = _abstract(part, getattr(config, part), jnp.dtype(dtype), platform)
    return graphdef, jax.tree.map(lambda leaf: leaf, shapes)


def lay_out(part: str, config: ModelConfig, params: dict, platform: str | None, *, take: bool = False) -> dict:
    """A part's parameters, in the structure of checkpoints, as they are computed with fastest on `platform`.

    They are otherwise the same arrays, so the result shares what it doesn't replace; larger by up to
    a fifth on a CPU in float32, elsewhere unchanged. `abstract` with that platform is its structure, and
    the result where `params` are only shapes. `take` empties `params` on the way, so that no more than one
    kernel is held twice.
    """
    leaf = jax.tree.leaves(params)[0]
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return abstract(part, config, leaf.dtype, platform)[1]
    chosen = algorithms(part, config, leaf.dtype, platform)

    def laid_out(node: dict, path: tuple) -> dict:
        made = {}
        for key in list(node):
            value = node.pop(key) if take else node[key]
            here = (*path, key)
            if isinstance(value, dict):
                made[key] = laid_out(value, here)
            elif here in chosen:
                made[key] = jax.block_until_ready(dict(enumerate(chosen[here].pack(jnp.asarray(value)))))
            else:
                made[key] = value
        return made

    return laid_out(params, ())


def algorithms(part: str, config: ModelConfig, dtype, platform: str | None) -> dict[tuple[str | int, ...], Winograd]:
    """The paths of a part's kernels that `lay_out` replaces by what such an algorithm's `pack` makes of them."""
    graphdef, shapes = abstract(part, config, dtype, platform)
    layers = nnx.iter_modules(nnx.merge(graphdef, shapes))
    return {
        (*path, "kernel"): layer.algorithm
        for path, layer in layers
        if isinstance(layer, Conv) and layer.algorithm is not None
    }


@cache
def _abstract(part, config, dtype, platform):
    if platform is None:
        network = nnx.eval_shape(lambda: PARTS[part](config, dtype=dtype, rngs=_OneKey(0)))
    else:  # from the other: to build a network anew takes five times as long
        graphdef, shapes = _abstract(part, config, dtype, None)
        network = nnx.eval_shape(lambda params: _laid_out(nnx.merge(graphdef, params), platform), shapes)
    graphdef, state = nnx.split(network)
    return graphdef, nnx.to_pure_dict(state)


def _laid_out(network: nnx.Module, platform: str) -> nnx.Module:
    for _, layer in list(nnx.iter_modules(network)):
        if isinstance(layer, Conv):
            layer.lay_out(platform)
    return network

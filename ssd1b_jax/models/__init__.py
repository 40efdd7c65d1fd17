"""The four networks of the SDXL family as Flax NNX modules, channels last."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig
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


def lay_out(part: str, config: ModelConfig, params: dict, platform: str | None) -> dict:
    """A part's parameters, in the structure of checkpoints, as they are computed with fastest on `platform`.

    They are otherwise the same arrays, so the result shares what it doesn't replace; larger by up to
    a sixth on a CPU in float32, elsewhere unchanged. `abstract` with that platform is its structure, and
    the result where `params` are only shapes.
    """
    leaf = jax.tree.leaves(params)[0]
    dtype = leaf.dtype
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return abstract(part, config, dtype, platform)[1]
    network = nnx.merge(abstract(part, config, dtype)[0], params)
    return nnx.to_pure_dict(nnx.state(_laid_out(network, platform)))


@cache
def _abstract(part, config, dtype, platform):
    if platform is None:
        network = nnx.eval_shape(lambda: PARTS[part](config, dtype=dtype, rngs=_OneKey(0)))
    else:  # from the other: to build a network anew takes five times as long
        graphdef, shapes = _abstract(part, config, dtype, None)
        network = nnx.eval_shape(lambda params: _laid_out(nnx.merge(graphdef, params), platform), shapes)
    graphdef, state = nnx.split(network)
    return graphdef, nnx.to_pure_dict(state)


def _laid_out(network: nnx.Module, platform: str | None) -> nnx.Module:
    for _, layer in list(nnx.iter_modules(network)):
        if isinstance(layer, Conv):
            layer.lay_out(platform)
    return network

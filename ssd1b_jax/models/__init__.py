"""The four networks of the SDXL family as Flax NNX modules, channels last."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models.clip import CLIPTextEncoder
from ssd1b_jax.models.unet import UNet
from ssd1b_jax.models.vae import VAE

PARTS = {"unet": UNet, "vae": VAE, "text_encoder": CLIPTextEncoder, "text_encoder_2": CLIPTextEncoder}


class _OneKey(nnx.Rngs):
    """The same key for every parameter. Counting keys makes `nnx.eval_shape` quadratic: 18 s for SSD-1B, not 1."""

    def params(self):
        return jax.random.wrap_key_data(np.zeros(2, np.uint32))


def abstract(part: str, config: ModelConfig, dtype=jnp.float32) -> tuple[nnx.GraphDef, dict]:
    """The graphdef of a part and the shapes of its parameters as a pure dict, with nothing allocated.

    `nnx.merge(graphdef, params)` is the network, given parameters in that structure.
    """
    graphdef, shapes = _abstract(part, getattr(config, part), jnp.dtype(dtype))
    return graphdef, jax.tree.map(lambda leaf: leaf, shapes)


@cache
def _abstract(part, config, dtype):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: PARTS[part](config, dtype=dtype, rngs=_OneKey(0))))
    return graphdef, nnx.to_pure_dict(state)

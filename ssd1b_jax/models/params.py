"""The four networks of the SDXL family as Flax NNX modules, channels last."""

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
    """No key for any parameter, as only shapes are wanted: tracing the draws takes most of the time otherwise."""

    def params(self):
        return None


def abstract(
    part: str, config: ModelConfig, dtype=jnp.float32, platform: str | None = None
) -> tuple[nnx.GraphDef, dict]:
    """The graphdef of a part and the shapes of its parameters as a pure dict, with nothing allocated.

    `nnx.merge(graphdef, params)` is the network, given parameters in that structure: that of
    checkpoints, or with a `platform` that of `lay_out`.
    """
    graphdef, shapes, _ = _abstract(part, getattr(config, part), jnp.dtype(dtype), platform)
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


def algorithms(part: str, config: ModelConfig, dtype, platform: str | None) -> Mapping[ParamPath, Winograd]:
    """The paths of a part's kernels that `lay_out` replaces by what such an algorithm's `pack` makes of them."""
    return _abstract(part, getattr(config, part), jnp.dtype(dtype), platform).algorithms


class _Abstract(NamedTuple):
    graphdef: nnx.GraphDef
    shapes: dict
    algorithms: Mapping[ParamPath, Winograd]


@cache
def _abstract(part, config, dtype, platform) -> _Abstract:
    if platform is None:
        network, chosen = nnx.eval_shape(lambda: PARTS[part](config, dtype=dtype, rngs=_Keyless())), {}
    else:  # from the other: to build a network anew takes five times as long
        plain = _abstract(part, config, dtype, None)
        network = nnx.merge(plain.graphdef, plain.shapes)
        convolutions = [(path, layer) for path, layer in nnx.iter_modules(network) if isinstance(layer, Conv)]
        for _, layer in convolutions:
            layer.lay_out(platform)
        chosen = {(*path, "kernel"): layer.algorithm for path, layer in convolutions if layer.algorithm is not None}
    graphdef, state = nnx.split(network)
    return _Abstract(graphdef, nnx.to_pure_dict(state), MappingProxyType(chosen))

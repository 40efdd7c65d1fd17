"""A program as the blocks it calls. Each block is traced as one equation, so equal blocks are compiled once.

The operations between blocks (guidance, the sampler's step, activations, joined skip connections) are left out.
The sum of blocks against the whole, for SSD-1B in bfloat16 on a TPU v5e at 1024 x 1024 with plain attention
(libtpu 0.0.52, 2026-11-23):

|                               | arithmetic | traffic with memory | temporaries |
|-------------------------------|------------|---------------------|-------------|
| text encoders and VAE encoder | +2%        | +62%                | +13%        |
| denoising loop                | +0.1%      | -1%                 | -25%        |
| VAE decoder                   | +0.0%      | +74%                | +49%        |
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ssd1b_jax.models import clip, layers, unet, vae
from ssd1b_jax.models.tracing import marked

# The outermost of these that is called counts, so every layer of the networks is in one.
BLOCKS = (
    clip.EncoderLayer, unet.TransformerBlock, vae.SpatialAttention, layers.ResnetBlock, layers.Downsample,
    layers.Upsample, layers.MLPEmbedding, layers.Conv, layers.Linear, layers.GroupNorm, layers.LayerNorm,
)  # fmt: skip
_MARK = "block_"


class Block(NamedTuple):
    """One place where a program calls a block, `times` in a run. `live` bytes of other values exist meanwhile."""

    name: str
    jaxpr: ClosedJaxpr
    times: int
    live: int

    @property
    def outputs(self) -> int:
        return sum(_size(aval) for aval in self.jaxpr.out_avals)

    @property
    def key(self) -> str:
        """The block's program as text: equal for the same layers on the same shapes."""
        return str(self.jaxpr)

    def __str__(self) -> str:
        """The block's name and the shape of its result, such as `ResnetBlock 2x128x128x320`."""
        return f"{self.name} {'x'.join(map(str, self.jaxpr.out_avals[0].shape))}"


def blocks(function: Callable, *arguments) -> list[Block]:
    """Every call of a block in `function` on such arguments (arrays or their shapes), in order.

    The body of a loop of unknown length counts once.
    """
    with marked(BLOCKS, _MARK):
        jaxpr = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
    return list(_walk(jaxpr.jaxpr, 1, 0))


def _walk(jaxpr: Jaxpr, times: int, live: int) -> Iterator[Block]:
    """Blocks, with the bytes that live meanwhile: values that are computed before a block and used in it or later."""
    equations = _used(jaxpr)
    last_use = {var: i for i, equation in enumerate(equations) for var in _variables(equation.invars)}
    last_use |= {var: len(equations) for var in _variables(jaxpr.outvars)}
    living = {}
    for i, equation in enumerate(equations):
        others = live + sum(living.values())
        name = equation.params.get("name", "")
        if name.startswith(_MARK):
            yield Block(name.removeprefix(_MARK), equation.params["jaxpr"], times, others)
        else:
            repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
            for inner in _jaxprs(equation.params):
                yield from _walk(inner, times * repeats, others)
        living |= {var: _size(var.aval) for var in equation.outvars}
        living = {var: size for var, size in living.items() if last_use.get(var, -1) > i}


def _used(jaxpr: Jaxpr) -> list:
    """The equations that the outputs depend on. The compiler drops the others."""
    needed, used = set(_variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(_variables(equation.invars))
            used.append(equation)
    return used[::-1]


def _variables(atoms) -> list:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _jaxprs(params: dict) -> Iterator[Jaxpr]:
    for leaf in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
        if isinstance(leaf, ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, Jaxpr):
            yield leaf


def _size(aval) -> int:
    return aval.size * aval.dtype.itemsize

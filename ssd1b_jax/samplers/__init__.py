"""Samplers as tables of coefficients, in NumPy on the host: `table` builds them, `registry` lists them."""

from ssd1b_jax.samplers.registry import AS_IN_DIFFUSERS, SAMPLERS, Sampler, canonical, row
from ssd1b_jax.samplers.symbols import INPUTS, LATENTS, NOISE, OUTPUT, REGISTERS
from ssd1b_jax.samplers.table import Table, build

__all__ = [
    "AS_IN_DIFFUSERS", "INPUTS", "LATENTS", "NOISE", "OUTPUT", "REGISTERS", "SAMPLERS", "Sampler", "Table", "build",
    "canonical", "row",
]  # fmt: skip

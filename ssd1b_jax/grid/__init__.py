"""Tables of pictures by two settings."""

from ssd1b_jax.grid.grid import ALWAYS, LORA, MAX_VALUES, Axis, Grid, parse_axis

__all__ = [
    "ALWAYS",
    "Axis",
    "Grid",
    "LORA",
    "MAX_VALUES",
    "parse_axis",
]

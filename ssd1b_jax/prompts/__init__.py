"""Prompts to chunks of token ids."""

from ssd1b_jax.prompts.syntax import (
    MAX_CHUNKS,
    MAX_NESTING,
    MAX_WEIGHT,
    Chunks,
    Piece,
    encode,
    pad,
    parse,
    shorten,
)

__all__ = [
    "Chunks",
    "MAX_CHUNKS",
    "MAX_NESTING",
    "MAX_WEIGHT",
    "Piece",
    "encode",
    "pad",
    "parse",
    "shorten",
]

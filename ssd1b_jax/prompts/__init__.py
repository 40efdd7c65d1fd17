"""Prompts to chunks of token ids."""

from ssd1b_jax.prompts import notations
from ssd1b_jax.prompts.syntax import MAX_WEIGHT, Chunks, encode, pad, parse, plain, shorten

__all__ = ["MAX_WEIGHT", "Chunks", "encode", "notations", "pad", "parse", "plain", "shorten"]

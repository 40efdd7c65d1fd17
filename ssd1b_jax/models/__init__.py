"""The four networks of the SDXL family as Flax NNX modules, channels last."""

from ssd1b_jax.models.params import PARTS, ParamPath, abstract, algorithms, prepack

__all__ = ["PARTS", "ParamPath", "abstract", "algorithms", "prepack"]

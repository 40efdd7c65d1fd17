"""The four networks of the SDXL family as Flax NNX modules, channels last."""

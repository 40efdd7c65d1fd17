"""What people write for settings, where both code and command line need it: without JAX, so `--help` needn't wait."""

import difflib
from collections.abc import Iterable

DTYPES = ("float32", "bfloat16", "float16")  # of weights and of arithmetic
NOISES = ("jax", "torch", "nv")  # whose random numbers a seed stands for, see `noise`

# Settings with another name than their field in Request.
SHORT = {
    "num_inference_steps": "steps",
    "crops_coords_top_left": "crop",
    "negative_crops_coords_top_left": "negative_crop",
    "loras": "lora",
}


def nearest(said: str, known: Iterable[str]) -> str | None:
    """The known word that someone may have meant; None where none is near."""
    return next(iter(difflib.get_close_matches(said, known, n=1)), None)

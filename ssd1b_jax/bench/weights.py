"""Random weights that every contender has alike, tensor by tensor, under diffusers' names and in its layout."""

import functools
import math

import numpy as np

COUNT = 1 << 20  # random numbers, which every tensor repeats


@functools.cache
def _numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(COUNT).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of that name and shape: norms are 1, biases small, and kernels keep activations at their size."""
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        return np.ones(shape, np.float32)
    spread = 0.02 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
    values = np.empty(math.prod(shape), np.float32)
    for start in range(0, values.size, COUNT):
        part = values[start : start + COUNT]
        np.multiply(_numbers()[: part.size], np.float32(spread), out=part)
    return values.reshape(shape)

"""A checkpoint's tensors to parameters, strictly by the table of `checkpoints.tensor_names`.

Nothing is copied: parameters are views, in our layout, of tensors that are mapped from
disk. `save_model` casts and writes them a few at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from ssd1b_jax.checkpoints.memory import release_pages
from ssd1b_jax.checkpoints.progress import OnProgress, no_progress
from ssd1b_jax.checkpoints.safetensors import summary
from ssd1b_jax.checkpoints.tensor_names import keys, rename, table
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.models import abstract

Tensors = Iterable[tuple[str, np.ndarray]]

# Older names of the VAE's attention, names that newer files save without a prefix, and tensors that are no weights.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
UNPREFIXED = ("embeddings.", "encoder.layers.", "final_layer_norm.")
IGNORED = {"text_model.embeddings.position_ids", "logit_scale"}
IGNORED_PROJECTION = "text_projection.weight"  # of the first text encoder, which has none
CHUNK = 1 << 24  # values looked at together


class Slot(NamedTuple):
    """A place for a tensor: the shape that it must have, and the views of it that are parameters, by their path.

    A path begins with the part's name.
    """

    shape: tuple[int, ...]
    views: dict[tuple[str | int, ...], Callable[[np.ndarray], np.ndarray]]


def fill(
    slots: Mapping[str, Slot], tensors: Tensors, config: ModelConfig, dtype: str, on_progress: OnProgress = no_progress
) -> dict[str, dict]:
    """Parameters of the parts that `slots` cover, from tensors that are named as the slots are.

    Each tensor is used exactly once. Axes of length one at the end of a shape make no difference. Raises
    WeightsError for all that are unknown, missing, repeated, mis-shaped, not finite in `dtype`, or
    matrices of zeros.
    """
    tensors = list(tensors)
    faults = list(_faults(slots, tensors, dtype, on_progress))
    if faults:
        raise WeightsError(summary(faults))
    shaped = ((slots[name], tensor.reshape(slots[name].shape)) for name, tensor in tensors)
    params = {path: view(tensor) for slot, tensor in shaped for path, view in slot.views.items()}
    return {
        part: jax.tree_util.tree_map_with_path(
            lambda path, leaf, part=part: params[part, *keys(path)], abstract(part, config)[1]
        )
        for part in dict.fromkeys(path[0] for path in params)
    }


def to_flax(
    config: ModelConfig, parts: Mapping[str, Tensors], dtype: str = "float32", on_progress: OnProgress = no_progress
) -> dict[str, dict]:
    """Parameters of each part from its tensors under diffusers' names: views of them, not yet in `dtype`.

    Raises WeightsError as `fill` does.
    """
    slots = {
        f"{part} {name}": Slot(
            entry.shape, {(part, *entry.path): lambda tensor, axes=entry.axes: tensor.transpose(axes)}
        )
        for part in parts
        for name, entry in table(part, config).items()
    }
    tensors = ((f"{part} {name}", tensor) for part, named in parts.items() for name, tensor in _weights(part, named))
    return fill(slots, tensors, config, dtype, on_progress)


def is_finite(tensor: np.ndarray, dtype: str) -> bool:
    """Whether all values are, once they are of `dtype`; looked at a piece at a time."""
    flat = tensor.reshape(-1)
    with np.errstate(over="ignore"):
        return all(np.isfinite(flat[start : start + CHUNK].astype(dtype)).all() for start in range(0, flat.size, CHUNK))


def _weights(part: str, tensors: Tensors) -> list[tuple[str, np.ndarray]]:
    """The tensors of a part that are weights, each under the name that `table` has for it."""
    ignored = IGNORED | ({IGNORED_PROJECTION} if part == "text_encoder" else set())
    named = ((rename(name, OLD_NAMES), tensor) for name, tensor in tensors)
    named = ((f"text_model.{name}" if name.startswith(UNPREFIXED) else name, tensor) for name, tensor in named)
    return [(name, tensor) for name, tensor in named if name not in ignored]


def _without_unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length one at its end: a convolution of one pixel is a matrix."""
    while shape[-1:] == (1,):
        shape = shape[:-1]
    return shape


def _faults(
    slots: Mapping[str, Slot], tensors: list[tuple[str, np.ndarray]], dtype: str, on_progress: OnProgress
) -> Iterator[tuple[str, str]]:
    """What is wrong with which tensor."""
    counts = Counter(name for name, _ in tensors)
    yield from (("unknown", name) for name in counts if name not in slots)
    yield from (("missing", name) for name in slots if name not in counts)
    yield from (("repeated", name) for name, count in counts.items() if count > 1)
    for name, tensor in tensors:
        if name not in slots:
            continue
        if tensor.dtype.kind not in "fV":  # bfloat16 is "V"
            yield "of whole numbers", f"{name} is {tensor.dtype}"
        if _without_unit_axes(tensor.shape) != _without_unit_axes(slots[name].shape):
            yield "mis-shaped", f"{name} is {tensor.shape}, not {slots[name].shape}"
        if not is_finite(tensor, dtype):
            yield f"not finite in {dtype}", name
        elif tensor.ndim > 1 and not tensor.any():  # no matrix of a trained model is: the file has a hole
            yield "zero from end to end", name
        release_pages(tensor)
        on_progress("checking", tensor.nbytes)

"""A checkpoint's tensors to parameters and back, by the table of `ssd1b_jax.names`: strict both ways."""

from collections import Counter
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.names import Entry, keys, leaves, rename, table
from ssd1b_jax.tensors import WeightsError

Tensors = Iterable[tuple[str, np.ndarray]]

# What older files call the VAE's attention, what newer ones save without a prefix, and a buffer that is no weight.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
UNPREFIXED = ("embeddings.", "encoder.layers.", "final_layer_norm.")
IGNORED = {"text_model.embeddings.position_ids"}


def to_flax(config: ModelConfig, parts: Mapping[str, Tensors], dtype: str = "float32") -> dict[str, dict]:
    """Parameters of each part from its checkpoint's named tensors: views of them in our layout, not yet in `dtype`.

    Each tensor is used exactly once. Raises WeightsError for all that are unknown, missing, repeated,
    mis-shaped, or not finite in `dtype`.
    """
    tables = {part: table(part, config) for part in parts}
    named = {part: _weights(tensors) for part, tensors in parts.items()}
    faults = [(kind, f"{part} {name}") for part in parts for kind, name in _faults(tables[part], named[part], dtype)]
    if faults:
        raise WeightsError(_summary(faults))
    return {part: _fill(tables[part], dict(named[part]), abstract(part, config)[1]) for part in parts}


def to_torch(config: ModelConfig, params: Mapping[str, dict]) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of `to_flax`: each part's tensors under the checkpoint's names, in its layout."""
    arrays = {part: dict(leaves(tree)) for part, tree in params.items()}
    return {
        part: {
            name: np.asarray(arrays[part][entry.path]).transpose(np.argsort(entry.axes))
            for name, entry in table(part, config).items()
        }
        for part in params
    }


def _weights(tensors: Tensors) -> list[tuple[str, np.ndarray]]:
    """The tensors that are weights, each under the name that `table` has for it."""
    named = ((rename(name, OLD_NAMES), tensor) for name, tensor in tensors)
    named = ((f"text_model.{name}" if name.startswith(UNPREFIXED) else name, tensor) for name, tensor in named)
    return [(name, tensor) for name, tensor in named if name not in IGNORED]


def _fill(entries: Mapping[str, Entry], tensors: Mapping[str, np.ndarray], shapes: dict) -> dict:
    arrays = {entry.path: tensors[name].transpose(entry.axes) for name, entry in entries.items()}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: arrays[keys(path)], shapes)


def _faults(entries: Mapping[str, Entry], tensors: list[tuple[str, np.ndarray]], dtype: str) -> list[tuple[str, str]]:
    """What is wrong with which tensor."""
    counts = Counter(name for name, _ in tensors)
    faults = [("unknown", name) for name in counts if name not in entries]
    faults += [("missing", name) for name in entries if name not in counts]
    faults += [("repeated", name) for name, count in counts.items() if count > 1]
    for name, tensor in tensors:
        if name not in entries:
            continue
        if tensor.shape != entries[name].shape:
            faults.append(("mis-shaped", f"{name} is {tensor.shape}, not {entries[name].shape}"))
        with np.errstate(over="ignore"):
            finite = np.isfinite(tensor.astype(dtype)).all()
        if not finite:
            faults.append((f"not finite in {dtype}", name))
    return faults


def _summary(faults: list[tuple[str, str]], shown: int = 10) -> str:
    groups: dict[str, list[str]] = {}
    for kind, name in faults:
        groups.setdefault(kind, []).append(name)
    described = (
        f"{len(names)} {kind} ({', '.join(names[:shown])}{', …' if len(names) > shown else ''})"
        for kind, names in groups.items()
    )
    return f"the weights do not fit the config: {'; '.join(described)}"

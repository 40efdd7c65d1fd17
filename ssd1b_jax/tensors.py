"""safetensors files: names and tensors, mapped from disk and not yet read."""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64}


class WeightsError(ValueError):
    """Weights that do not fit the config, or can't be read; the message counts and names them."""


def read_safetensors(path: Path) -> list[tuple[str, np.ndarray]]:
    """Names and memory-mapped tensors of a file; a name that occurs twice is given twice.

    The safetensors package's NumPy reader knows no bfloat16 and hides repeated names.
    """
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
    try:
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        if start > len(data):
            raise ValueError("the header is longer than the file")
        entries = json.loads(data[8:start].tobytes(), object_pairs_hook=list)
        return [(name, _tensor(data[start:], **dict(entry))) for name, entry in entries if name != "__metadata__"]
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is no whole safetensors file ({error}): download it again") from error


def _tensor(data: np.ndarray, *, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is not one of {', '.join(DTYPES)}")
    begin, end = data_offsets
    kind = np.dtype(DTYPES[dtype])
    if not 0 <= begin <= end <= len(data) or end - begin != kind.itemsize * math.prod(shape):
        raise ValueError(f"bytes {begin} to {end} of {len(data)} can't hold {dtype} of shape {shape}")
    return np.frombuffer(data, kind, math.prod(shape), begin).reshape(shape)

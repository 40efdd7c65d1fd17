"""Reader of a diffusers folder: where each part's safetensors files are, and the tensors in them."""

import json
import math
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from convert.weights import WeightsError

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
VARIANTS = ("", ".fp16")
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64}


def read_part(folder: Path, part: str) -> list[tuple[str, np.ndarray]]:
    """Names and tensors of a part, from one file or from shards, mapped from disk and not yet read."""
    return [named for file in _files(folder / part, STEMS[part]) for named in read_safetensors(file)]


def read_licence(folder: Path) -> str:
    """The licence in the header of the folder's model card, or "unknown"."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else "unknown"


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


def _files(folder: Path, stem: str) -> list[Path]:
    for variant in VARIANTS:
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return [single]
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            return _shards(index)
    raise WeightsError(
        f"{folder} has no {stem}.safetensors, whole, in shards or as .fp16 "
        "(.bin and .ckpt files are not read: they are pickles, which can run code)"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of safetensors files: download it again") from error
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise WeightsError(f"{index} names {name!r}, which is not beside it: download it again")
    return [index.parent / name for name in names]

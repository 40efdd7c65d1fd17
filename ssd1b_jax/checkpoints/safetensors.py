"""safetensors files: names and tensors, mapped from disk and not yet read, and written one at a time.

The safetensors package's NumPy reader knows no bfloat16 and hides repeated names, and its writer
wants all tensors in memory at once.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ssd1b_jax.checkpoints.lora_file import refuse_pickle
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.files import foreign

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# Limits of a header, so that a hostile one is refused at once. SDXL base has 2,513 tensors in 0.4 MB.
HEADER_LIMIT = 100_000_000  # bytes, as in the format itself: trainers write long texts
STRUCTURE_LIMIT = 8 << 20  # bytes, without the insides of texts
MOST_TENSORS = 50_000
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}


def read_safetensors(path: Path) -> list[tuple[str, np.ndarray]]:
    """Names and memory-mapped tensors of a file; a name that occurs twice is given twice."""
    return read_with_metadata(path)[0]


def summary(faults: list[tuple[str, str]], claim: str = "the weights do not fit the config", shown: int = 10) -> str:
    """One sentence on all faults, which are pairs of a kind and a name: the count of each kind, and the first names."""
    groups: dict[str, list[str]] = {}
    for kind, name in faults:
        groups.setdefault(kind, []).append(name if len(name) <= 200 else f"{name[:200]}…")
    described = (
        f"{len(names)} {kind} ({', '.join(names[:shown])}{', …' if len(names) > shown else ''})"
        for kind, names in groups.items()
    )
    return f"{claim}: {'; '.join(described)}"


def read_with_metadata(path: Path) -> tuple[list[tuple[str, np.ndarray]], dict[str, str]]:
    """The tensors as `read_safetensors` reads them, and the metadata in the header."""
    data = map_file(path)
    head = data[:512].tobytes()
    refuse_pickle(path, head)
    try:
        if kind := foreign(head):
            raise ValueError(f"it is {kind}")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        if not 8 < start <= len(data):
            raise ValueError(f"its header is said to have {start - 8} bytes, the file has {len(data)}")
        if start - 8 > HEADER_LIMIT:
            raise _NotUnderstood(f"its header has {start - 8} bytes, more than the {HEADER_LIMIT} that any model needs")
        header = data[8:start].tobytes()
        _check_structure(header)
        entries = json.loads(header, object_pairs_hook=_Pairs)
        if not isinstance(entries, _Pairs):
            raise ValueError("its header is no table of tensors")
        tensors = [(name, _Entry(name, entry)) for name, entry in entries if name != "__metadata__"]
        _check_layout({(entry.begin, entry.end, name) for name, entry in tensors}, len(data) - start)
        metadata = _metadata([table for name, table in entries if name == "__metadata__"])
        return [(name, entry.view(data[start:])) for name, entry in tensors], metadata
    except RecursionError:
        raise WeightsError(f"{path} is no whole safetensors file (its header is nested too deeply)") from None
    except _NotUnderstood as error:
        raise WeightsError(f"{path} can't be read: {error}") from error
    except ValueError as error:
        raise WeightsError(f"{path} is no whole safetensors file ({error}): download it again") from error


def write_safetensors(
    path: Path, entries: Mapping[str, tuple[tuple[int, ...], np.dtype]], tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write a file of known names, shapes and dtypes, whose tensors come one by one, in any order."""
    header, sizes, offset = {"__metadata__": {"format": "pt"}}, {}, 0
    for name in sorted(entries, key=lambda name: (-np.dtype(entries[name][1]).itemsize, name)):
        shape, dtype = entries[name]
        sizes[name] = offset, math.prod(shape) * np.dtype(dtype).itemsize
        end = offset + sizes[name][1]
        header[name] = dict(dtype=_CODES[np.dtype(dtype)], shape=list(shape), data_offsets=[offset, end])
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, tensor in tensors:
            assert (tensor.shape, tensor.dtype) == (tuple(entries[name][0]), np.dtype(entries[name][1])), name
            begin, size = sizes.pop(name)
            file.seek(8 + len(head) + begin)
            written = file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
            assert written == size, name
        assert not sizes, f"never given: {', '.join(sizes)}"
        file.truncate(8 + len(head) + offset)


def map_file(path: Path) -> np.ndarray:
    """A file's bytes, mapped from disk."""
    return np.asarray(np.memmap(path, np.uint8, mode="r")) if path.stat().st_size else np.empty(0, np.uint8)


def _check_structure(header: bytes) -> None:
    """Raise ValueError for a header of too many parts, before it is parsed. Its texts may be long."""
    structure = _TEXT.sub(b'""', header)
    if len(structure) > STRUCTURE_LIMIT:
        raise _NotUnderstood(
            f"its header has {len(structure)} bytes besides texts, more than the {STRUCTURE_LIMIT} that any model needs"
        )
    if structure.count(b"{") > MOST_TENSORS:
        raise _NotUnderstood(f"its header has more than {MOST_TENSORS} tables, which no model needs")


def _metadata(tables: list) -> dict[str, str]:
    """The texts of every metadata table; a file has one at most, and may repeat it."""
    metadata = {}
    for table in tables:
        if not isinstance(table, _Pairs) or not all(isinstance(text, str) for _, text in table):
            raise ValueError("its metadata are no table of texts")
        metadata |= dict(table)
    return metadata


class _NotUnderstood(ValueError):
    """A file that may be whole, and is not for this program."""


class _Pairs(list):
    """A JSON object with its repeated keys."""


class _Entry:
    """A tensor's row in the header, checked."""

    def __init__(self, name: str, entry: object):
        fields = dict(entry) if isinstance(entry, _Pairs) else {}
        if fields.keys() != {"dtype", "shape", "data_offsets"} or len(fields) < len(entry):
            raise ValueError(f"{name[:200]!r} must have one dtype, shape and data_offsets")
        self.code, self.shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        if not isinstance(self.code, str) or self.code not in DTYPES:
            raise _NotUnderstood(f"dtype {str(self.code)[:80]} is not one of {', '.join(DTYPES)}")
        if not _naturals(self.shape) or not _naturals(offsets) or len(offsets) != 2 or len(self.shape) > 8:
            raise ValueError(f"{name[:200]!r} has a shape or offsets that are no whole numbers from 0 up")
        self.begin, self.end = offsets

    def view(self, data: np.ndarray) -> np.ndarray:
        kind, count = np.dtype(DTYPES[self.code]), math.prod(self.shape)
        if not self.begin <= self.end <= len(data) or self.end - self.begin != kind.itemsize * count:
            raise ValueError(
                f"bytes {self.begin} to {self.end} of {len(data)} can't hold {self.code} of shape {self.shape}"
            )
        return data[self.begin : self.end].view(kind).reshape(self.shape) if count else np.empty(self.shape, kind)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_layout(spans: set[tuple[int, int, str]], size: int) -> None:
    """Raise ValueError unless tensors follow one another and fill the file."""
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            raise ValueError(f"{name[:200]!r} starts at byte {begin} where {expected} is next: overlapping, or a hole")
        expected = end
    if expected != size:
        raise ValueError(f"its tensors end at byte {expected} of {size}")

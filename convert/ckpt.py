"""Reader of PyTorch's .ckpt and .pth files that can't run code, and needs no PyTorch.

Such a file is a zip of one pickle and a file of raw numbers for each storage. Tensors are views of
the mapped file.
"""

import math
import zipfile
from pathlib import Path

import numpy as np

from convert.pickles import Tensor, load
from ssd1b_jax.checkpoints.safetensors import map_file
from ssd1b_jax.errors import WeightsError

ZIP = b"PK\x03\x04"


def read_ckpt(path: Path) -> list[tuple[str, np.ndarray]]:
    """Names and mapped tensors of the state dict; of its neighbours, such as a trainer's state, nothing.

    Raises WeightsError for all but a whole, uncompressed zip of a pickle that asks for tensors only.
    """
    data = map_file(path)
    try:
        if not data[:4].tobytes().startswith(ZIP):
            raise ValueError(
                "it is a pickle in PyTorch's format of before 1.6: load it there and save it as safetensors"
            )
        members = _members(path, data)
        folder = next(name for name in members if name.endswith("data.pkl")).removesuffix("data.pkl")
        order = members.get(f"{folder}byteorder")
        if order is not None and order[:6].tobytes() != b"little":
            raise ValueError("its numbers are not little-endian")
        state = load(members[f"{folder}data.pkl"].tobytes())
        for _ in range(2):  # a trainer's file has the weights in one entry
            if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
                state = state["state_dict"]
        if not isinstance(state, dict):
            raise ValueError("it holds no table of tensors")
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        foreign = [name for name in tensors if not isinstance(name, str)]
        if foreign or not tensors:
            raise ValueError("it holds no table of named tensors")
        return [(name, _view(name, tensor, members, folder)) for name, tensor in tensors.items()]
    except StopIteration:
        raise WeightsError(f"{path} is a zip, but of no PyTorch weights (it has no data.pkl)") from None
    except (ValueError, zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise WeightsError(f"{path} is no .ckpt that can be read: {error}") from error


def _members(path: Path, data: np.ndarray) -> dict[str, np.ndarray]:
    """The bytes of each file in a zip, which must lie there as they are."""
    members = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename in members:
                raise ValueError(f"{info.filename!r} is in it twice")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                raise ValueError(f"{info.filename!r} in it is compressed or encrypted, which PyTorch's files never are")
            start = info.header_offset
            head = data[start : start + 30].tobytes()
            if start < 0 or len(head) < 30 or not head.startswith(ZIP):
                raise ValueError(f"{info.filename!r} does not start where the zip says")
            begin = start + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            if begin + info.file_size > len(data):
                raise ValueError(f"{info.filename!r} ends after the file does: it is cut off")
            members[info.filename] = data[begin : begin + info.file_size]
    return members


def _view(name: str, tensor: Tensor, members: dict[str, np.ndarray], folder: str) -> np.ndarray:
    storage = tensor.storage
    raw = members.get(f"{folder}data/{storage.key}")
    if raw is None:
        raise ValueError(f"the numbers of {name[:200]!r} are not in it")
    if len(raw) != storage.count * storage.dtype.itemsize:
        raise ValueError(f"{name[:200]!r} has {len(raw)} bytes, not {storage.count} numbers of {storage.dtype}")
    size = math.prod(tensor.shape)
    if size == 0:
        return np.empty(tensor.shape, storage.dtype)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if size > storage.count or last >= storage.count:
        raise ValueError(f"{name[:200]!r} of shape {tensor.shape} reaches beyond its {storage.count} numbers")
    flat = raw.view(storage.dtype)[tensor.offset :]
    strides = [stride * storage.dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)

"""How a picture was made: a record as plain JSON, kept in the picture's file or in a sidecar beside it.

| key       | value                                                                                      |
|-----------|--------------------------------------------------------------------------------------------|
| format    | the number of this table, 1                                                                |
| request   | every field, resolved; a picture is its file's name, sha256 (`images.Loaded`) and size       |
| steps_run | as in Result                                                                               |
| pixels    | sha256 (`images.sha256`) and size of the result                                            |
| written   | the file's name, how many times it was enlarged, sha256 of the pixels that were written;    |
|           | width and height where a server brought it to a size that was asked for                    |
| model     | name as given, source and revision, sha256 of its manifest                                 |
| loras     | the file's name and sha256 of each LoRA used; `partial` where layers of it were left out    |
| versions, device, machine, flags, dtype, per_device | what else pixels can depend on                   |
| row       | of the batch of a device, from 0, where it has several                                       |

It is the text named "ssd1b" in a PNG, JPEG or WebP. The text "parameters" in the same file is that of `a1111`.
Names of files are without their folders: a picture that is passed on tells nothing of the disk it was made on.
"""

import dataclasses
import functools
import json
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ssd1b_jax import images, settings

FORMAT = 1
KEY = "ssd1b"
SOURCES = {"image": "inPt", "mask": "maSk"}  # a Request's pictures, and the PNG chunks that embed them
PACKAGES = ("ssd1b_jax", "jax", "jaxlib", "flax", "numpy", "pillow")
FLAGS = ("XLA_FLAGS", "NPROC", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_THREEFRY_PARTITIONABLE")

Record = dict[str, Any]


def maker(model: Record, device: Record, dtypes: Mapping[str, Any], per_device: int, threads: int | None) -> Record:
    """The part of a record that all pictures of one pipeline share.

    `threads` are those of XLA's pool on a CPU (`engine.devices`), None where there is none.
    """
    return dict(
        model=model,
        versions={name: version(name) for name in PACKAGES} | dict(python=platform.python_version()),
        device=device,
        machine=_machine() | (dict(threads=threads) if threads else {}),
        flags={name: os.environ[name] for name in FLAGS if os.environ.get(name)},
        dtype={part: np.dtype(dtype).name for part, dtype in dtypes.items()},
        per_device=per_device,
    )


@functools.cache
def _machine() -> Record:
    """The kind of processor, on which a CPU's pixels depend, and the cores that the process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    except OSError:
        model = None
    return dict(cpu=model[1] if model else platform.processor() or platform.machine(), cores=cores)


def describe(
    request: Any,
    sources: Mapping[str, Record],
    maker: Mapping[str, Any],
    steps_run: int,
    loras: Mapping[str, Mapping[str, str]] | None = None,
) -> Record:
    """The record of a picture before it has pixels.

    `request` is resolved; `sources` has a `source` for each of its pictures; `loras` has the name and the sha256
    of each LoRA's file.
    """
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    values = settings.plain(fields | sources)
    used = {name: {**file, "name": Path(file["name"]).name} for name, file in (loras or {}).items()}
    return dict(format=FORMAT, request=values, steps_run=steps_run, loras=used, **maker)


def with_pixels(record: Mapping[str, Any], pixels: images.Pixels) -> Record:
    """A record, completed by the pixels of the result."""
    height, width, _ = pixels.shape
    return {**record, "pixels": dict(sha256=images.sha256(pixels), width=width, height=height)}


def source(source: images.Source, loaded: images.Loaded) -> Record:
    """The part of a record for one of the request's pictures."""
    name = Path(source).name if isinstance(source, str | os.PathLike) else None
    height, width, _ = loaded.pixels.shape
    return dict(name=name, sha256=loaded.sha256, width=width, height=height)


def dumps(record: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON in ASCII, with sorted keys: equal records are equal text."""
    separators = (",", ": ") if indent else (",", ":")
    return json.dumps(record, sort_keys=True, indent=indent, separators=separators)

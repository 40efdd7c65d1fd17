"""What made this picture: a record as plain JSON, kept in the picture's file or in a sidecar beside it.

| key       | says                                                                                       |
|-----------|--------------------------------------------------------------------------------------------|
| format    | the number of this table, 1                                                                |
| request   | every field, resolved; a picture is its name as given, sha256 (`images.Loaded`) and size    |
| steps_run | as in Result                                                                               |
| pixels    | sha256 (`images.sha256`) and size of the result                                            |
| written   | the file's name, how many times it was enlarged, sha256 of the pixels that were written     |
| model     | name as given, source and revision, sha256 of its manifest                                 |
| loras     | file as given and sha256 of each LoRA used                                                 |
| versions, device, machine, flags, dtype, per_device | what else pixels can depend on                   |

It is the text named "ssd1b" in a PNG, JPEG or WebP; beside it, "parameters" has the settings in the
form that A1111 writes and many programs read.
"""

import dataclasses
import functools
import json
import operator
import os
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.errors import RecordError

FORMAT = 1
MAX_PER_DEVICE = 1024  # of a record: a replay makes room for as many
KEY = "ssd1b"
SOURCES = {"image": "inPt", "mask": "maSk"}  # a Request's pictures, and the PNG chunks that embed them
PACKAGES = ("ssd1b_jax", "jax", "jaxlib", "flax", "numpy", "pillow")
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_THREEFRY_PARTITIONABLE")

# A1111's names for samplers, without their schedules.
LABELS = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "lms": "LMS",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "pndm": "PLMS",
    "dpmpp_2s": "DPM++ 2S",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "deis": "DEIS",
    "lcm": "LCM",
}

Record = dict[str, Any]
_EXPECTED = {
    "request": dict, "request image sha256": str, "pixels sha256": str, "written name": str, "written upscale": int,
    "written sha256": str, "model name": str, "model sha256": str, "dtype unet": str, "per_device": int,
    "versions": dict, "device": dict, "loras": dict,
}  # fmt: skip
_NAMES = ("model.name", "request.image.name", "request.mask.name")  # of files, which their sha256 stand for


def maker(model: Record, device: Record, dtypes: Mapping[str, Any], per_device: int) -> Record:
    """The part of a record that all pictures of one pipeline share."""
    return dict(
        model=model,
        versions={name: version(name) for name in PACKAGES} | dict(python=platform.python_version()),
        device=device,
        machine=_machine(),
        flags={name: os.environ[name] for name in FLAGS if os.environ.get(name)},
        dtype={part: np.dtype(dtype).name for part, dtype in dtypes.items()},
        per_device=per_device,
    )


@functools.cache
def _machine() -> Record:
    """On CPUs, pixels depend on the kind and the number of cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        named = None
    return dict(cpu=named[1] if named else platform.processor() or platform.machine(), cores=cores)


def describe(
    request: Any,
    sources: Mapping[str, Record],
    maker: Mapping[str, Any],
    steps_run: int,
    loras: Mapping[str, Mapping[str, str]] | None = None,
) -> Record:
    """What is known of a picture before its pixels are: the resolved Request, a `source` for each of
    its pictures, the pipeline's `maker`, and name and sha256 of each LoRA's file.
    """
    fields = {field.name: _plain(getattr(request, field.name)) for field in dataclasses.fields(request)}
    fields |= sources
    used = {name: dict(file) for name, file in (loras or {}).items()}
    return dict(format=FORMAT, request=fields, steps_run=steps_run, loras=used, **maker)


def with_pixels(made: Mapping[str, Any], pixels: images.Pixels) -> Record:
    """The record of a result."""
    height, width, _ = pixels.shape
    return {**made, "pixels": dict(sha256=images.sha256(pixels), width=width, height=height)}


def source(source: images.Source, loaded: images.Loaded) -> Record:
    """What is said of a request's picture."""
    name = str(source) if isinstance(source, str | os.PathLike) else None
    height, width, _ = loaded.pixels.shape
    return dict(name=name, sha256=loaded.sha256, width=width, height=height)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def dumps(record: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON in ASCII, with sorted keys: equal records are equal text."""
    separators = (",", ": ") if indent else (",", ":")
    return json.dumps(record, sort_keys=True, indent=indent, separators=separators)


def sidecar_path(path: str | Path) -> Path:
    """Where the record of a picture's file lies, if beside it."""
    return Path(path).with_suffix(".json")


def embedded(path: str | Path) -> dict[str, bytes]:
    """The pictures that are embedded in a PNG, as files, by the names of a Request's fields."""
    attached = images.read_attached(path)
    return {name: attached[chunk] for name, chunk in SOURCES.items() if chunk in attached}


def read(path: str | Path) -> Record:
    """The record in a picture, or in the sidecar that is given or lies beside it.

    Raises ImageError for a picture that can't be read, RecordError for one that says nothing.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        said = images.read_text(path).get(KEY)
        if said is not None:
            return _parsed(said, path)
        path, picture = sidecar_path(path), path
        if not path.is_file():
            raise RecordError(
                f"{picture}: does not say how it was made: it is not a picture of this program, was saved without "
                "metadata, or has lost it on its way"
            )
    try:
        return _parsed(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _parsed(said: str, path: Path) -> Record:
    try:
        record = json.loads(said)
        if record["format"] != FORMAT:
            raise RecordError(f"{path}: its record has format {record['format']!r}, this version reads {FORMAT}")
        for keys, kind in _EXPECTED.items():
            value = functools.reduce(operator.getitem, keys.split(), record)
            if not isinstance(value, kind):
                raise TypeError(f"{keys} is {value!r}")
        for file in (*filter(None, map(record["request"].get, SOURCES)), *record["loras"].values()):
            if not isinstance(file["sha256"], str) or not isinstance(file["name"], str | None):
                raise TypeError(f"{file!r} is no file")
        if not 1 <= (upscale := record["written"]["upscale"]) <= images.MAX_UPSCALE:
            raise RecordError(
                f"{path}: its record says that it was enlarged {upscale} times, not 1 to {images.MAX_UPSCALE}"
            )
        if not 1 <= (count := record["per_device"]) <= MAX_PER_DEVICE:
            raise RecordError(
                f"{path}: its record says that {count} pictures were made at a time on each device, not 1 to "
                f"{MAX_PER_DEVICE}: it can't be made again"
            )
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise RecordError(f"{path}: its record of how it was made is damaged or foreign") from error
    return record


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two records say otherwise of anything but the files and the pixels, a phrase for each."""
    return [
        f"{key}: {old} then, {new} now"
        for key, old, new in _paired(then, now)
        if old != new and key.split(".")[0] not in ("pixels", "written") and key not in _NAMES
    ]


def _paired(then: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """All leaves of two trees with their dotted keys; "none" where one has no such leaf."""
    if isinstance(then, Mapping) or isinstance(now, Mapping):
        sides = [side if isinstance(side, Mapping) else {} for side in (then, now)]
        for name in sorted({*sides[0], *sides[1]}):
            yield from _paired(*(side.get(name, "none") for side in sides), f"{key}.{name}" if key else name)
    else:
        yield key, then, now


def parameters(record: Mapping[str, Any]) -> str:
    """The settings as A1111 writes them, with its names, its quotes and its choice of what to leave out.

    Its clip skip counts from the last layer, ours from the last but one; its sampler and schedule
    are two settings, ours is one.
    """
    request = record["request"]
    sampler, karras, _ = request["scheduler"].partition("_karras")
    varied = request.get("variation_strength") or None
    hashes = ", ".join(f"{name}: {lora['sha256'][:10]}" for name, lora in record["loras"].items())
    settings = {
        "Steps": request["num_inference_steps"],
        "Sampler": LABELS[sampler],
        "Schedule type": "Karras" if karras else None,
        "CFG scale": request["guidance_scale"],
        "Seed": request["seed"],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": record["model"]["sha256"][:10],
        "Model": Path(record["model"]["name"]).name,
        "Variation seed": request.get("variation_seed") if varied else None,
        "Variation seed strength": varied,
        "Denoising strength": request["strength"],
        "Clip skip": request["clip_skip"] + 2 if request.get("clip_skip") else None,
        "RNG": {"torch": "CPU"}.get(request["noise"], request["noise"].upper()),
        "Mask blur": request.get("mask_blur") or None,
        "Lora hashes": hashes or None,
        "Version": f"ssd1b_jax {record['versions']['ssd1b_jax']}",
    }
    listed = ", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None)
    negative = request["negative_prompt"]
    lines = [request["prompt"], *([f"Negative prompt: {negative}"] if negative else []), listed]
    return "\n".join(lines).encode("utf-8", "replace").decode()


def _quoted(value: object) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",:\n") else text

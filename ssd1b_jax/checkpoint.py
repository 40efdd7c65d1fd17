"""Weights on disk: trees of arrays by Orbax, and the model folder, which is verified before it is used.

A model folder holds `model.json`, a tree for each part, and both tokenizers. It appears whole or
not at all; `model.json` lists the size and sha256 of every file of its parts.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from ssd1b_jax.config import ConfigError, ModelConfig
from ssd1b_jax.models import PARTS, abstract

FORMAT = 1
DTYPES = ("float32", "bfloat16", "float16")
TOKENIZERS = ("tokenizer", "tokenizer_2")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
EMBEDDED = {"emoji": Path(__file__).parent / "embedded" / "emoji"}
AGAIN = "copy or convert the model again"


class ModelError(ValueError):
    """A model folder that is missing, damaged or foreign, or a place where none can be written."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `model.json` says. `files` maps paths below `folder` to their size and sha256."""

    folder: Path
    config: ModelConfig
    dtype: str
    source: str
    revision: str | None
    licence: str
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded model folder; `params` has a pure dict of arrays for each part."""

    manifest: Manifest
    params: dict[str, dict]

    @property
    def config(self) -> ModelConfig:
        return self.manifest.config

    @property
    def folder(self) -> Path:
        return self.manifest.folder


def abstract_params(config: ModelConfig, dtype=jnp.float32) -> dict[str, dict]:
    """Shapes of every part's parameters, as pure dicts."""
    return {part: abstract(part, config, dtype)[1] for part in PARTS}


def save_model(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    tokenizers: str | Path,
    dtype: str,
    source: str,
    revision: str | None = None,
    licence: str = "unknown",
) -> Manifest:
    """Write a model folder with its weights cast to `dtype`; `tokenizers` holds tokenizer/ and tokenizer_2/.

    Raises ModelError where something is in the way, and leaves nothing behind when it fails.
    """
    folder, tokenizers = Path(folder).absolute(), Path(tokenizers)
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ModelError(f"{folder} exists and is not an empty folder: choose another target or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        partial.chmod(0o755)
        for name in TOKENIZERS:
            _copy_tokenizer(tokenizers / name, partial / name)
        for part in PARTS:
            save_tree(partial / part, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)), params[part]))
        about = dict(format=FORMAT, source=source, revision=revision, licence=licence, dtype=dtype)
        listed = {name: _fingerprint(partial / name) for name in _part_files(partial)}
        said = about | dict(config=config.to_dict(), files=listed)
        manifest = json.dumps(said | dict(sha256=_digest(said)), indent=1)
        (partial / "model.json").write_text(manifest + "\n", encoding="utf-8")
        _sync([*partial.rglob("*"), partial])
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
        _sync([folder.parent])
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_manifest(folder)


def load_model(model: str | Path, *, dtype=None, sharding: jax.sharding.Sharding | None = None) -> Model:
    """Verify the model folder, or the embedded model of that name, and load its weights.

    They are cast to `dtype`, one for all parts or a mapping with one for each, by default the one
    they are stored in, and placed by `sharding`.
    """
    manifest = verify(model)
    dtype = manifest.dtype if dtype is None else dtype
    dtypes = {part: jnp.dtype(dtype[part] if isinstance(dtype, Mapping) else dtype) for part in PARTS}
    params = {}
    for part, part_dtype in dtypes.items():
        _, shapes = abstract(part, manifest.config, part_dtype)
        try:
            params[part] = load_tree(manifest.folder / part, shapes, sharding)
        except ValueError as error:
            raise ModelError(f"{manifest.folder / part} does not hold what model.json describes: {AGAIN}") from error
    return Model(manifest=manifest, params=params)


def verify(model: str | Path) -> Manifest:
    """Check every file of a model folder against its manifest; raises ModelError at the first that differs."""
    manifest = read_manifest(model)
    found = _part_files(manifest.folder)
    for name in sorted(found ^ manifest.files.keys()):
        fault = "is not listed in model.json: remove it" if name in found else f"is missing: {AGAIN}"
        raise ModelError(f"{manifest.folder / name} {fault}")
    for name, expected in manifest.files.items():
        if _fingerprint(manifest.folder / name) != expected:
            raise ModelError(f"{manifest.folder / name} is damaged (its size or sha256 is wrong): {AGAIN}")
    return manifest


def read_manifest(model: str | Path) -> Manifest:
    """What a model folder, or the embedded model of that name, says of itself; its weights are not looked at."""
    folder = EMBEDDED.get(str(model), Path(model)).absolute()
    path = folder / "model.json"
    if not path.exists():
        if (folder / "model_index.json").exists():
            raise ModelError(f"{folder} is a diffusers folder: run python -m convert {model} TARGET, and use TARGET")
        names = " or ".join(repr(name) for name in EMBEDDED)
        raise ModelError(f"no model folder at {str(model)!r}: give {names} or a folder that python -m convert wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ModelError(f"{path} has format {data['format']}, this version reads {FORMAT}: convert it again")
        config = ModelConfig.from_dict(data["config"])
        about = {key: data[key] for key in ("dtype", "source", "revision", "licence")}
        files = {name: dict(size=entry["size"], sha256=entry["sha256"]) for name, entry in data["files"].items()}
    except ModelError:
        raise
    except ConfigError as error:
        raise ModelError(f"{path}: {error}: {AGAIN}") from error
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{path} is not a readable manifest of a model: {AGAIN}") from error
    if _digest({key: value for key, value in data.items() if key != "sha256"}) != data.get("sha256"):
        raise ModelError(f"{path} is damaged (its sha256 is wrong): {AGAIN}")
    if about["dtype"] not in DTYPES:
        raise ModelError(f"{path}: dtype must be one of {', '.join(DTYPES)}, got {about['dtype']!r}: {AGAIN}")
    return Manifest(folder=folder, config=config, files=files, **about)


def save_tree(path: str | Path, tree) -> None:
    """Save a pytree of JAX arrays at `path`, which must not exist; a killed save leaves nothing there."""
    context = ocp.Context()
    context.array.saving.enable_write_sharding_file = False  # `load_tree` is always told where arrays go
    context.array.saving.array_metadata_store = None
    with context:
        ocp.save(Path(path).absolute(), tree)


def load_tree(path: str | Path, shapes, sharding: jax.sharding.Sharding | None = None):
    """Load what `save_tree` wrote, cast to the dtypes of `shapes`. Missing, extra and mis-shaped leaves are errors."""
    return ocp.load(Path(path).absolute(), _placed(shapes, sharding))


def load_part(path: str | Path, key: str, shapes):
    """Load one top-level entry of what `save_tree` wrote, and nothing of the others."""
    path = Path(path).absolute()
    skipped = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, ocp.metadata(path).metadata)
    return ocp.load(path, {**skipped, key: _placed(shapes, None)})[key]


def _placed(shapes, sharding):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _copy_tokenizer(source: Path, target: Path) -> None:
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    has_words = {"vocab.json", "merges.txt"} <= {*names} or "tokenizer.json" in names
    if not has_words or "tokenizer_config.json" not in names:
        raise ModelError(f"{source} must hold tokenizer_config.json, and vocab.json with merges.txt or tokenizer.json")
    target.mkdir()
    for name in names:
        shutil.copyfile(source / name, target / name)


def _part_files(folder: Path) -> set[str]:
    """Files below the parts' folders; what else lies beside `model.json`, such as a model card, is free."""
    files = (path for name in (*PARTS, *TOKENIZERS) for path in (folder / name).rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in files}


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return dict(size=os.fstat(file.fileno()).st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _digest(said: Mapping[str, Any]) -> str:
    """Of what a manifest says: sha256 of it as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

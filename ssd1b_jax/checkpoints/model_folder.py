"""The model folder: written, verified and loaded.

It holds `model.json`, a tree for each part, and both tokenizers, and appears whole or not at all;
`model.json` lists the size and sha256 of every file of its parts.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd1b_jax.checkpoints import orbax
from ssd1b_jax.checkpoints.folders import check_free, whole_folder
from ssd1b_jax.checkpoints.memory import release_pages, trim_heap
from ssd1b_jax.checkpoints.model_json import (
    AGAIN,
    FORMAT,
    Manifest,
    check_dtype,
    digest,
    read_manifest,
)
from ssd1b_jax.checkpoints.progress import OnProgress, no_progress
from ssd1b_jax.checkpoints.tensor_names import leaves
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import ModelError
from ssd1b_jax.models import PARTS, abstract, prepack

TOKENIZERS = ("tokenizer", "tokenizer_2")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded model folder: a pure dict of arrays for each part, prepacked for `platform` if there is one."""

    manifest: Manifest
    params: dict[str, dict]
    platform: str | None = None

    @property
    def config(self) -> ModelConfig:
        return self.manifest.config

    @property
    def folder(self) -> Path:
        return self.manifest.folder

    def prepacked(self, platform: str) -> dict[str, dict]:
        """The parameters as programs for `platform` take them; see `models.prepack`."""
        if self.platform == platform:
            return self.params
        if self.platform is not None:
            raise ModelError(f"the weights are prepacked for {self.platform}, not {platform}: load them again")
        return {part: prepack(part, self.config, tree, platform) for part, tree in self.params.items()}


def abstract_params(config: ModelConfig, dtype=jnp.float32) -> dict[str, dict]:
    """Shapes of every part's parameters, as pure dicts; `dtype` is one for all, or a mapping with one for each."""
    dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys(PARTS, dtype)
    return {part: abstract(part, config, jnp.dtype(dtypes[part]))[1] for part in PARTS}


def tokenizer_files(folder: Path) -> list[Path]:
    """A tokenizer's files in its folder. Raises ModelError where some are missing."""
    names = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    has_words = {"vocab.json", "merges.txt"} <= {*names} or "tokenizer.json" in names
    if not has_words or "tokenizer_config.json" not in names:
        raise ModelError(f"{folder} must hold tokenizer_config.json, and vocab.json with merges.txt or tokenizer.json")
    return [folder / name for name in names]


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
    on_progress: OnProgress = no_progress,
) -> Manifest:
    """Write a model folder with its weights cast to `dtype`; `tokenizers` holds tokenizer/ and tokenizer_2/.

    Weights are cast and written a few at a time: arrays that are mapped from disk take little memory.
    `on_progress` hears of "writing" and "hashing". Raises ModelError where something is in the way, and
    leaves nothing behind when it fails.
    """
    folder, tokenizers = Path(folder).absolute(), Path(tokenizers)
    check_dtype(dtype)
    check_free(folder, ModelError)
    with whole_folder(folder) as partial:
        for name in TOKENIZERS:
            (partial / name).mkdir()
            for file in tokenizer_files(tokenizers / name):
                shutil.copyfile(file, partial / name / file.name)
        for part in PARTS:
            named = ((path, _cast(leaf, dtype, on_progress)) for path, leaf in leaves(params[part]))
            orbax.save_leaves(partial / part, named)
            _read_back(partial / part, abstract_params(config, dtype)[part])
        about = dict(format=FORMAT, source=source, revision=revision, licence=licence, dtype=dtype)
        listed = {name: _fingerprint(partial / name, on_progress) for name in sorted(_part_files(partial))}
        content = about | dict(config=config.to_dict(), files=listed)
        manifest = json.dumps(content | dict(sha256=digest(content)), indent=1)
        (partial / "model.json").write_text(manifest + "\n", encoding="utf-8")
    return read_manifest(folder)


def load_model(
    model: str | Path | Manifest,
    *,
    dtype=None,
    sharding: jax.sharding.Sharding | None = None,
    platform: str | None = None,
) -> Model:
    """Verify the model folder, or the embedded model of that name, and load its weights.

    A Manifest is believed; it should come from `verify`. `dtype` is one for all parts or a mapping with one
    for each; the default is the stored one. Weights are placed by `sharding`, and prepacked for `platform`
    if one is given.
    """
    manifest = model if isinstance(model, Manifest) else verify(model)
    params = {}
    for part, shapes in abstract_params(manifest.config, dtype or manifest.dtype).items():
        try:
            tree = orbax.load(manifest.folder / part, shapes, sharding, manifest.dtype)
        except ValueError as error:
            raise ModelError(f"{manifest.folder / part} does not hold what model.json describes: {AGAIN}") from error
        params[part] = prepack(part, manifest.config, tree, platform, take=True)
        trim_heap()
    return Model(manifest=manifest, params=params, platform=platform)


def verify(model: str | Path) -> Manifest:
    """Check every file of a model folder against its manifest; raises ModelError at the first that differs."""
    manifest = read_manifest(model)
    present = _part_files(manifest.folder)
    extra = {name for name in present - manifest.files.keys() if not _is_hidden(name)}
    for name in sorted(extra | (manifest.files.keys() - present)):
        fault = "is not listed in model.json: remove it" if name in present else f"is missing: {AGAIN}"
        raise ModelError(f"{manifest.folder / name} {fault}")

    def check(name: str) -> None:
        with _permitted(manifest.folder):
            fingerprint = _fingerprint(manifest.folder / name)
        if fingerprint != manifest.files[name]:
            raise ModelError(f"{manifest.folder / name} is damaged (its size or sha256 is wrong): {AGAIN}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, manifest.files))  # where one fails, those that wait are cancelled
    return manifest


def _read_back(folder: Path, shapes: dict) -> None:
    """Raise ModelError unless a part that was written can be read, before a manifest vouches for it."""
    try:
        for _ in orbax.read_leaves(folder, shapes):
            pass
    except ValueError as error:
        raise ModelError(f"{folder.name} can't be read back after it was written: choose another target") from error


def _cast(leaf, dtype: str, on_progress: OnProgress) -> np.ndarray:
    copy = np.array(leaf, dtype, order="C")  # also where the dtype is the same: mapped pages are released
    if isinstance(leaf, np.ndarray):
        release_pages(leaf)
    on_progress("writing", copy.nbytes)
    return copy


def _part_files(folder: Path) -> set[str]:
    """Files below the parts' folders. Other files, such as a model card, are nobody's concern."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    with _permitted(folder):
        walks = (os.walk(folder / name, onerror=refuse) for name in (*PARTS, *TOKENIZERS))
        paths = [Path(place, name) for walk in walks for place, _, names in walk for name in names]
    return {path.relative_to(folder).as_posix() for path in paths}


@contextmanager
def _permitted(folder: Path) -> Iterator[None]:
    """Raise ModelError for what this user may not read of a model folder."""
    try:
        yield
    except PermissionError as error:
        remedy = f"ask its owner to run chmod -R a+rX {folder}"
        raise ModelError(f"{error.filename} may not be read by this user: {remedy}") from None


def _is_hidden(name: str) -> bool:
    """Whether a file or a folder in the path begins with a dot: a desktop's, a notebook's or a disk's own."""
    return any(part.startswith(".") for part in name.split("/"))


def _fingerprint(path: Path, on_progress: OnProgress = no_progress) -> dict[str, Any]:
    with open(path, "rb") as file:
        size, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    on_progress("hashing", size)
    return dict(size=size, sha256=digest)

"""The way back: a model folder to a diffusers folder, bit for bit, a few tensors at a time."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convert.diffusers_folder import STEMS
from convert.weights import is_finite
from ssd1b_jax.checkpoints import orbax
from ssd1b_jax.checkpoints.diffusers_config import to_diffusers_configs
from ssd1b_jax.checkpoints.folders import check_free, whole_folder
from ssd1b_jax.checkpoints.model_folder import TOKENIZERS, abstract_params, verify
from ssd1b_jax.checkpoints.model_json import Manifest, check_dtype
from ssd1b_jax.checkpoints.progress import OnProgress, no_progress
from ssd1b_jax.checkpoints.safetensors import write_safetensors
from ssd1b_jax.checkpoints.tensor_names import Entry, table
from ssd1b_jax.errors import ModelError, WeightsError


def to_diffusers(
    model: str | Path, target: str | Path, dtype: str | None = None, on_progress: OnProgress = no_progress
) -> Manifest:
    """Verify a model folder and write what diffusers loads, in `dtype`, by default the one that it is stored in.

    Raises ModelError, ConfigError or WeightsError, and leaves nothing behind when it fails.
    """
    manifest = verify(model)
    target, dtype = Path(target).absolute(), dtype or manifest.dtype
    check_dtype(dtype)
    check_free(target, ModelError)
    configs = to_diffusers_configs(manifest.config)
    with whole_folder(target) as folder:
        for part, stem in STEMS.items():
            (folder / part).mkdir()
            entries = table(part, manifest.config)
            shapes = {name: (entry.shape, np.dtype(dtype)) for name, entry in entries.items()}
            write_safetensors(
                folder / part / f"{stem}.safetensors", shapes, _tensors(manifest, part, entries, dtype, on_progress)
            )
        for path, data in configs.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        for name in TOKENIZERS:
            shutil.copytree(manifest.folder / name, folder / name)
        if manifest.licence != "unknown":
            (folder / "README.md").write_text(f"---\nlicense: {manifest.licence}\n---\n", encoding="utf-8")
    return manifest


def _tensors(
    manifest: Manifest, part: str, entries: dict[str, Entry], dtype: str, on_progress: OnProgress
) -> Iterator[tuple[str, np.ndarray]]:
    names = {entry.path: name for name, entry in entries.items()}
    shapes = abstract_params(manifest.config, manifest.dtype)[part]
    for path, leaf in orbax.read_leaves(manifest.folder / part, shapes):
        name = names[path]
        with np.errstate(over="ignore"):
            tensor = np.ascontiguousarray(leaf.transpose(np.argsort(entries[name].axes)).astype(dtype))
        if dtype != manifest.dtype and not is_finite(tensor, dtype):
            raise WeightsError(f"{part} {name} has numbers too large for {dtype}: choose bfloat16 or float32")
        on_progress("writing", tensor.nbytes)
        yield name, tensor

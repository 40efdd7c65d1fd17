"""Reader of a diffusers folder: where each part's safetensors files are, and the tensors in them."""

import json
import re
from pathlib import Path

import numpy as np

from ssd1b_jax.tensors import WeightsError, read_safetensors

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
VARIANTS = ("", ".fp16")


def read_part(folder: Path, part: str) -> list[tuple[str, np.ndarray]]:
    """Names and tensors of a part, from one file or from shards, mapped from disk and not yet read."""
    return [named for file in _files(folder / part, STEMS[part]) for named in read_safetensors(file)]


def read_licence(folder: Path) -> str:
    """The licence in the header of the folder's model card, or "unknown"."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else "unknown"


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

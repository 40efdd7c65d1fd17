"""Reader of a diffusers folder: where each part's safetensors files are, and the tensors in them."""

import re
from pathlib import Path

import numpy as np

from ssd1b_jax.checkpoints.safetensors import read_safetensors
from ssd1b_jax.errors import FileError, WeightsError
from ssd1b_jax.files import read_json

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


def read_part(folder: Path, part: str, dtype: str = "float32") -> list[tuple[str, np.ndarray]]:
    """Names and tensors of a part, from one file or from shards, mapped from disk and not yet read.

    Of a part in two precisions, `dtype` chooses one.
    """
    for name in candidates(STEMS[part], dtype):
        path = folder / part / name
        if path.is_file():
            return _read_shards(path) if path.suffix == ".json" else read_safetensors(path)
    pickled = sorted(path.name for path in (folder / part).glob("*.bin"))
    raise WeightsError(
        f"{folder / part} has no {STEMS[part]}.safetensors, whole, in shards or as .fp16"
        + (f" ({', '.join(pickled)}: .bin files are not read, they are pickles)" if pickled else "")
    )


def candidates(stem: str, dtype: str) -> list[str]:
    """The names that a part's weights, or the index of their shards, can have. The first that exists counts.

    For a `dtype` of 16 bits the files of 16 bits come first, which are half as large.
    """
    variants = ("", ".fp16") if dtype == "float32" else (".fp16", "")
    return [name for v in variants for name in (f"{stem}{v}.safetensors", f"{stem}.safetensors.index{v}.json")]


def read_licence(folder: Path) -> str:
    """The licence in the header of the folder's model card, or "unknown"."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    with open(card, encoding="utf-8", errors="replace") as file:
        text = file.read(1 << 16)
    match = re.search(r"^license:[ \t]*([\w.+-]{1,64})[ \t]*$", text, re.MULTILINE)
    return match[1] if match else "unknown"


def _read_shards(index: Path) -> list[tuple[str, np.ndarray]]:
    """The tensors of all shards. Raises WeightsError where they differ from the index."""
    named = read_index(index)
    tensors = []
    for shard in sorted({*named.values()}):
        present = read_safetensors(index.parent / shard)
        expected = {name for name, file in named.items() if file == shard}
        differ = {name for name, _ in present} ^ expected
        if differ:
            raise WeightsError(f"{index} and {shard} disagree about {len(differ)} tensors, {min(differ)[:200]!r} first")
        tensors += present
    return tensors


def read_index(index: Path, present: bool = True) -> dict[str, str]:
    """The shard of each tensor. With `present`, the shards must lie in the index's folder."""
    try:
        data = read_json(index)
    except FileError as error:
        raise WeightsError(str(error)) from None
    named = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise WeightsError(f"{index} is no index of safetensors files: download it again")
    for shard in sorted({*named.values()}):
        if not re.fullmatch(r"[\w.-]{1,200}\.safetensors", shard):
            raise WeightsError(f"{index} names {shard[:200]!r}, which is no plain name of a safetensors file")
        if present and not (index.parent / shard).is_file():
            raise WeightsError(f"{index} names {shard!r}, which is not beside it: download it again")
    return named

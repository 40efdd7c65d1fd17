"""Small checkpoints of random weights in every layout that is converted, made without PyTorch."""

import json
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from convert.diffusers_folder import STEMS
from helpers import tiny
from ssd1b_jax.checkpoints.diffusers_config import to_diffusers_configs
from ssd1b_jax.checkpoints.safetensors import write_safetensors
from ssd1b_jax.checkpoints.tensor_names import leaves, sgm_names
from ssd1b_jax.checkpoints.tensor_names import table as names
from ssd1b_jax.config import CLIPTextConfig, ModelConfig, UNetConfig, VAEConfig
from ssd1b_jax.training import vocabulary

VOCABULARY, LENGTH = 520, 16


def small_config() -> ModelConfig:
    """The smallest with what all of the SDXL family share: 64 channels a head, 32 groups."""
    encoder = dict(
        vocab_size=VOCABULARY,
        intermediate_size=32,
        num_hidden_layers=3,
        max_position_embeddings=LENGTH,
    )
    return ModelConfig(
        unet=UNetConfig(
            block_out_channels=(64, 64, 128),
            down_depths=((0, 0), (1, 1), (2, 1)),
            up_depths=((1, 2, 3), (2, 1, 1), (0, 0, 0)),
            mid_depth=0,
            num_attention_heads=(1, 1, 2),
            cross_attention_dim=64 + 128,
            added_cond_dim=128 + 6 * 8,
            added_time_embed_dim=8,
        ),
        vae=VAEConfig(block_out_channels=(32, 64), layers_per_block=1),
        text_encoder=CLIPTextConfig(hidden_size=64, num_attention_heads=1, hidden_act="quick_gelu", **encoder),
        text_encoder_2=CLIPTextConfig(
            hidden_size=128, num_attention_heads=2, hidden_act="gelu", projection_dim=128, **encoder
        ),
    )


def tensors(config: ModelConfig, dtype="float32", seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Each part's tensors under diffusers' names."""
    made = to_torch(config, tiny.random_params(config, seed))
    return {part: {name: np.ascontiguousarray(a, dtype) for name, a in named.items()} for part, named in made.items()}


def to_torch(config: ModelConfig, params: Mapping[str, dict]) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of `to_flax`: each part's tensors under the checkpoint's names, in its layout."""
    arrays = {part: dict(leaves(tree)) for part, tree in params.items()}
    return {
        part: {
            name: np.asarray(arrays[part][entry.path]).transpose(np.argsort(entry.axes))
            for name, entry in names(part, config).items()
        }
        for part in params
    }


def join(config: ModelConfig, parts: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a single file, from those of a diffusers folder: the way that its makers went."""
    for part, named in parts.items():
        fused: dict[str, dict[str, np.ndarray]] = {}
        for name, target in sgm_names(part, config).items():
            tensor = named[name]
            if part == "text_encoder_2" and (found := re.search(r"\.self_attn\.([qkv])_proj\.", name)):
                fused.setdefault(target, {})[found[1]] = tensor
            elif name == "text_projection.weight":
                yield target, tensor.T
            elif part == "vae" and ".attentions." in name and tensor.ndim == 2:
                yield target, tensor[:, :, None, None]
            else:
                yield target, tensor
        yield from ((name, np.concatenate([pieces[third] for third in "qkv"])) for name, pieces in fused.items())


def save(path: Path, named: dict[str, np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {name: (a.shape, a.dtype) for name, a in named.items()}, named.items())
    return path


def diffusers_folder(folder: Path, config: ModelConfig, parts: dict[str, dict[str, np.ndarray]]) -> Path:
    for path, data in to_diffusers_configs(config).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(data))
    for part, named in parts.items():
        save(folder / part / f"{STEMS[part]}.safetensors", named)
    vocabulary.save(folder, ["a red apple"], size=VOCABULARY, length=LENGTH)
    return folder


def single_tensors(config: ModelConfig, parts: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All under SGM's names, with what lies beside the weights in such files."""
    beside = {
        "betas": np.ones(3, np.float32),
        "conditioner.embedders.1.model.logit_scale": np.float32(4.6).reshape(()),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": np.arange(LENGTH)[None],
        "model_ema.decay": np.ones((), np.float32),
    }
    return {name: np.ascontiguousarray(a) for name, a in join(config, parts)} | beside


# What pickles are made of, by hand: PyTorch is not needed, and harm can be written as easily.
PROTO, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 1 << 31 else b"\x8a\x08" + struct.pack("<q", value)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def numbers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(kind: str, key: str, count: int) -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(stored: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    hooks = called(name("collections", "OrderedDict"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return called(rebuild, stored, number(offset), numbers(shape), numbers(strides), b"\x89", hooks)


def table(entries: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


def ckpt(path: Path, named: dict[str, np.ndarray], **beside: bytes) -> Path:
    """As torch.save writes {"state_dict": named, **beside}."""
    entries = {
        key: tensor(storage(KINDS[str(a.dtype)], str(i), a.size), a.shape, strides(a.shape))
        for i, (key, a) in enumerate(named.items())
    }
    data = {str(i): a.tobytes() for i, a in enumerate(named.values())}
    return zipped(path, PROTO + table({"state_dict": table(entries), **beside}) + STOP, data)


def zipped(path: Path, pickle: bytes, data: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", "little")
        for key, held in data.items():
            archive.writestr(f"archive/data/{key}", held)
        archive.writestr("archive/version", "3\n")
    return path

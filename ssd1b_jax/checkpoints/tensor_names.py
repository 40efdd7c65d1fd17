"""The names of tensors in checkpoints, and the parameter of ours that each one is.

`table` has diffusers' names. It follows from the networks: every layer type says how its parameters
are named and laid out, and a few renames bridge the modules that we call otherwise.

`sgm_names` has those of single files: SGM, in which SDXL was trained, A1111, ComfyUI and most downloads
use them, and kohya's LoRA files are named after them. The numbering of blocks follows from the config.
Only names are here. `convert.single_file` knows which tensors are laid out differently in such a file.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig, UNetConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.models.layers import GroupNorm

# Layer type: our leaf, the checkpoint's leaf, and the checkpoint's axis for each of our axes.
_NORM = {"scale": ("weight", (0,)), "bias": ("bias", (0,))}
LAYERS = {
    nnx.Linear: {"kernel": ("weight", (1, 0)), "bias": ("bias", (0,))},
    nnx.Conv: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", (0,))},
    nnx.Embed: {"embedding": ("weight", (0, 1))},
    nnx.LayerNorm: _NORM,
    GroupNorm: _NORM,
}
# Our names and diffusers', where they differ.
RENAMES = {
    "ff.proj_in": "ff.net.0.proj",
    "ff.proj_out": "ff.net.2",
    "to_out": "to_out.0",
    "downsampler": "downsamplers.0",
    "upsampler": "upsamplers.0",
    "layers": "text_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "position_embedding": "text_model.embeddings.position_embedding",
    "final_layer_norm": "text_model.final_layer_norm",
}


class Entry(NamedTuple):
    """A parameter: its path in our tree, the checkpoint's axis for each of ours, the checkpoint's shape."""

    path: tuple[str | int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]


def table(part: str, config: ModelConfig) -> dict[str, Entry]:
    """The parameter behind every diffusers tensor name of a part."""
    graphdef, shapes = abstract(part, config)
    modules = dict(nnx.iter_modules(nnx.merge(graphdef, shapes)))
    entries = {}
    for path, leaf in leaves(shapes):
        module = modules[path[:-1]]
        layer = next(layout for kind, layout in LAYERS.items() if isinstance(module, kind))
        tensor, axes = layer[path[-1]]
        name = rename(".".join(map(str, path[:-1])), RENAMES)
        shape = tuple(leaf.shape[i] for i in np.argsort(axes))
        entries[f"{name}.{tensor}"] = Entry(path, axes, shape)
    return entries


def leaves(tree) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every leaf of a pure dict, with its path."""
    return [(keys(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def keys(path) -> tuple[str | int, ...]:
    """A path of JAX's as a tuple of plain keys."""
    return tuple(part.key for part in path)


def rename(name: str, names: Mapping[str, str]) -> str:
    """A dotted name with its parts replaced by `names`, in one pass; the longest match counts."""
    longest_first = sorted(names, key=len, reverse=True)
    parts = "|".join(map(re.escape, longest_first))
    return re.sub(rf"(?<![^.])(?:{parts})(?![^.])", lambda match: names[match[0]], name)


# SGM's prefix of each part.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
# diffusers' names and SGM's.
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_DOWNSAMPLER = {"conv": "op"}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "down_blocks": "down",
    "resnets": "block",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
# OpenCLIP keeps queries, keys and values in one tensor, in that order.
_OPEN_CLIP = {
    "text_model.encoder.layers": "transformer.resblocks",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
} | {f"self_attn.{x}_proj.{kind}": f"attn.in_proj_{kind}" for x in "qkv" for kind in ("weight", "bias")}
_UNET_BLOCK = re.compile(r"(\w+\.\d+\.\w+\.\d+|mid_block\.\w+\.\d+)\.(.+)")


def sgm_names(part: str, config: ModelConfig) -> dict[str, str]:
    """The SGM name, with its prefix, of each tensor of a part by its diffusers name.

    Queries, keys and values of `text_encoder_2` share one name.
    """
    names = table(part, config)
    if part == "unet":
        blocks = _unet_blocks(config.unet)
        translated = {name: _unet_name(name, blocks) for name in names}
    elif part == "vae":
        top = len(config.vae.block_out_channels) - 1  # SGM counts the blocks up from the other end
        renames = _VAE | {f"up_blocks.{i}": f"up.{top - i}" for i in range(top + 1)}
        translated = {name: rename(name, renames) for name in names}
    elif part == "text_encoder_2":
        translated = {name: rename(name, _OPEN_CLIP) for name in names}
    else:
        translated = {name: name for name in names}
    return {name: PREFIXES[part] + sgm for name, sgm in translated.items()}


def _unet_name(name: str, blocks: Mapping[str, str]) -> str:
    match = _UNET_BLOCK.fullmatch(name)
    if match is None:
        return rename(name, _UNET)
    block, rest = match.groups()
    if ".resnets." in name:
        rest = rename(rest, _RESNET)
    elif ".downsamplers." in name:
        rest = rename(rest, _DOWNSAMPLER)
    return f"{blocks[block]}.{rest}"


def _unet_blocks(config: UNetConfig) -> dict[str, str]:
    """SGM's name of each of diffusers' blocks.

    diffusers nests blocks by level. SGM numbers them through, one for each resnet or downsampler.
    """
    blocks, number, last = {}, 1, len(config.block_out_channels) - 1
    for level, depths in enumerate(config.down_depths):
        blocks |= _level(f"down_blocks.{level}", "input_blocks", number, depths)
        number += len(depths)
        if level < last:
            blocks[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    number = 0
    for level, depths in enumerate(config.up_depths):
        blocks |= _level(f"up_blocks.{level}", "output_blocks", number, depths)
        number += len(depths)
        if level < last:
            position = 2 if depths[-1] else 1
            blocks[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{position}"
    middle = ("resnets.0", "attentions.0", "resnets.1")
    return blocks | {f"mid_block.{name}": f"middle_block.{i}" for i, name in enumerate(middle)}


def _level(diffusers: str, sgm: str, number: int, depths: tuple[int, ...]) -> dict[str, str]:
    """The resnets and transformers of one level, whose first block has that number in SGM."""
    blocks, attentions = {}, 0
    for layer, depth in enumerate(depths):
        blocks[f"{diffusers}.resnets.{layer}"] = f"{sgm}.{number + layer}.0"
        if depth:
            blocks[f"{diffusers}.attentions.{attentions}"] = f"{sgm}.{number + layer}.1"
            attentions += 1
    return blocks

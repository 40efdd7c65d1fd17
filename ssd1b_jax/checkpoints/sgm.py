"""What single-file checkpoints call the tensors: the names of SGM, which SDXL was trained in.

They are what A1111, ComfyUI and most downloads use, and what kohya's LoRA files are named after. The
numbering of blocks follows from the config. Names alone are here; how a tensor is laid out
differently in such a file is known to `convert.single_file`.
"""

import re

from ssd1b_jax.checkpoints.tensor_names import rename, table
from ssd1b_jax.config import ModelConfig, UNetConfig

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
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
}


def sgm_names(part: str, config: ModelConfig) -> dict[str, str]:
    """The SGM name, with its prefix, of each tensor of a part by its diffusers name.

    Queries, keys and values of `text_encoder_2` share one name: OpenCLIP keeps them in one tensor, in
    that order.
    """
    translate = {"unet": _unet_name, "vae": _vae_name, "text_encoder": _same, "text_encoder_2": _open_clip_name}[part]
    return {name: PREFIXES[part] + translate(name, config) for name in table(part, config)}


def _unet_name(name: str, config: ModelConfig) -> str:
    found = re.fullmatch(r"(\w+\.\d+\.\w+\.\d+|mid_block\.\w+\.\d+)\.(.+)", name)
    if found is None:
        return rename(name, _UNET)
    block, rest = found.groups()
    rest = rename(rest, _RESNET) if ".resnets." in name else rest
    return f"{_unet_blocks(config.unet)[block]}.{rest.replace('conv.', 'op.', 1) if '.downsamplers.' in name else rest}"


def _unet_blocks(config: UNetConfig) -> dict[str, str]:
    """diffusers nests blocks by level; SGM numbers them through, one for each resnet or downsampler."""
    blocks, number, last = {}, 1, len(config.block_out_channels) - 1
    for level, depths in enumerate(config.down_depths):
        number = _stage(blocks, f"down_blocks.{level}", "input_blocks", number, depths)
        if level < last:
            blocks[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    number = 0
    for step, depths in enumerate(config.up_depths):
        number = _stage(blocks, f"up_blocks.{step}", "output_blocks", number, depths)
        if step < last:
            blocks[f"up_blocks.{step}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if depths[-1] else 1}"
    middle = ("resnets.0", "attentions.0", "resnets.1")
    return blocks | {f"mid_block.{name}": f"middle_block.{i}" for i, name in enumerate(middle)}


def _stage(blocks: dict[str, str], theirs: str, ours: str, number: int, depths: tuple[int, ...]) -> int:
    attentions = 0
    for layer, depth in enumerate(depths):
        blocks[f"{theirs}.resnets.{layer}"] = f"{ours}.{number + layer}.0"
        if depth:
            blocks[f"{theirs}.attentions.{attentions}"] = f"{ours}.{number + layer}.1"
            attentions += 1
    return number + len(depths)


def _vae_name(name: str, config: ModelConfig) -> str:
    top = len(config.vae.block_out_channels) - 1
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{top - int(found[1])}", name)
    return rename(name, _VAE)


def _open_clip_name(name: str, config: ModelConfig) -> str:
    return re.sub(r"attn\.[qkv]_proj\.", "attn.in_proj_", rename(name, _OPEN_CLIP))


def _same(name: str, config: ModelConfig) -> str:
    return name

"""Reader of a single file in the original layout: SGM's names, and what it lays out differently.

The second text encoder is OpenCLIP's: one tensor holds queries, keys and values, and the projection
is transposed. The VAE's attention is made of convolutions of one pixel.
"""

import re
from pathlib import Path

import numpy as np

from convert.ckpt import read_ckpt
from convert.weights import Slot, Tensors
from ssd1b_jax.checkpoints.lora_file import PICKLES
from ssd1b_jax.checkpoints.safetensors import read_with_metadata
from ssd1b_jax.checkpoints.tensor_names import sgm_names, table
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import WeightsError
from ssd1b_jax.files import foreign

# No weights: the schedule, averages kept while training, buffers, the scale of CLIP's loss.
# The first text encoder has no projection, though some programs save one.
_NO_WEIGHTS = re.compile(
    r"(first_stage_model\.)?(model_ema|loss)\..*|denoiser\.sigmas|v_pred|ztsnr|scale_factor|logvar|lvlb_weights"
    r"|betas|alphas_cumprod(_prev)?|sqrt_(one_minus_|recip_|recipm1_)?alphas_cumprod|log_one_minus_alphas_cumprod"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|conditioner\.embedders\..*(logit_scale|attn_mask|position_ids)"
    r"|conditioner\.embedders\.0\.(transformer\.)?text_projection(\.weight)?"
)
_QKV = ("q", "k", "v")


def read_single_file(path: Path) -> tuple[list[tuple[str, np.ndarray]], dict[str, str]]:
    """Names and mapped tensors of a safetensors file or a .ckpt, as its content shows, and the former's metadata.

    Some tensors are no weights.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if kind := foreign(head):
        raise WeightsError(f"{path} is {kind}")
    is_ckpt = head.startswith(PICKLES) and head[8:9] != b"{"  # where a safetensors header starts
    return (read_ckpt(path), {}) if is_ckpt else read_with_metadata(path)


def weights(tensors: Tensors) -> list[tuple[str, np.ndarray]]:
    """The tensors that are weights."""
    return [(name, tensor) for name, tensor in tensors if not _NO_WEIGHTS.fullmatch(name)]


def slots(config: ModelConfig) -> dict[str, Slot]:
    """The tensors of a single file of that model, and the parameters in each."""
    slots: dict[str, Slot] = {}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        names = sgm_names(part, config)
        for name, entry in table(part, config).items():
            take, shape = _layout(part, name, entry.shape)
            slot = slots.setdefault(names[name], Slot(shape, {}))
            slot.views[part, *entry.path] = lambda tensor, take=take, axes=entry.axes: take(tensor).transpose(axes)
    return slots


def _layout(part: str, name: str, shape: tuple[int, ...]):
    """A function from the file's tensor to diffusers' tensor of that shape, and the shape of the file's."""
    third = _fused(part, name)
    if third is not None:
        rows = shape[0]
        return lambda tensor: tensor[third * rows : (third + 1) * rows], (3 * rows, *shape[1:])
    if part == "text_encoder_2" and name == "text_projection.weight":
        return lambda tensor: tensor.T, shape[::-1]
    if part == "vae" and ".attentions." in name and len(shape) == 2:
        return lambda tensor: tensor[:, :, 0, 0], (*shape, 1, 1)
    return lambda tensor: tensor, shape


def _fused(part: str, name: str) -> int | None:
    """The third of OpenCLIP's fused tensor that this is: 0, 1, 2, or None for a tensor of its own."""
    match = re.search(r"\.self_attn\.([qkv])_proj\.", name) if part == "text_encoder_2" else None
    return _QKV.index(match[1]) if match else None

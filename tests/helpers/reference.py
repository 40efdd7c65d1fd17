"""Small random models in PyTorch, the reference that our numbers are held against."""

import json
import warnings
from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

torch.set_num_threads(1)
diffusers.logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

UNETS = {
    "ssd_1b": dict(
        mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=[1, [1, 2], [2, 2]],
        reverse_transformer_layers_per_block=[[1, 2, 3], [2, 1, 1], 1],
    ),
    "vega": dict(
        mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=[1, [1, 1], [2, 2]],
        reverse_transformer_layers_per_block=[[2, 2, 2], [1, 1, 1], 1],
    ),
    "sdxl": dict(transformer_layers_per_block=[1, 1, 2]),
}
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 24


def randomize(module: "torch.nn.Module", seed: int = 0) -> "torch.nn.Module":
    """Give every parameter values that matter: norms and biases too, which start as ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        is_bias_or_scale = parameter.ndim == 1
        scale = 0.2 if is_bias_or_scale else parameter[0].numel() ** -0.5
        is_scale = is_bias_or_scale and bool((parameter == 1).all())
        parameter.data = draw * scale + float(is_scale)
    return module.eval().requires_grad_(False)


def unet(kind: str = "ssd_1b") -> "diffusers.UNet2DConditionModel":
    return randomize(
        diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=[1, 2, 4],
            cross_attention_dim=32 + 48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=40 + 6 * 8,
            use_linear_projection=True,
            norm_num_groups=8,
            **UNETS[kind],
        )
    )


def vae() -> "diffusers.AutoencoderKL":
    return randomize(
        diffusers.AutoencoderKL(
            block_out_channels=(16, 32, 32),
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            layers_per_block=2,
            norm_num_groups=8,
            scaling_factor=0.13025,
        )
    )


def text_encoder(eos_token_id: int = 2, hidden_act: str = "quick_gelu") -> "transformers.CLIPTextModel":
    return _clip(transformers.CLIPTextModel, 32, 2, hidden_act, eos_token_id)


def text_encoder_2(eos_token_id: int = 2, hidden_act: str = "gelu") -> "transformers.CLIPTextModelWithProjection":
    return _clip(transformers.CLIPTextModelWithProjection, 48, 3, hidden_act, eos_token_id, projection_dim=40)


def _clip(kind, width: int, heads: int, hidden_act: str, eos_token_id: int, **more):
    size = len(vocabulary()[0])
    config = transformers.CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        num_attention_heads=heads,
        hidden_act=hidden_act,
        max_position_embeddings=LENGTH,
        bos_token_id=size - 2,
        eos_token_id=eos_token_id,
        **more,
    )
    return randomize(kind(config))


def tensors(module: "torch.nn.Module") -> list[tuple[str, np.ndarray]]:
    """Names and values of a module's weights."""
    return [(name, tensor.numpy()) for name, tensor in module.state_dict().items()]


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's layout with three merges: bytes, bytes that end a word, merges, the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    merges = ["c a", "ca t</w>", "r e"]
    entries = [
        *alphabet,
        *(byte + "</w>" for byte in alphabet),
        *(merge.replace(" ", "") for merge in merges),
        BEGIN,
        END,
    ]
    return {entry: index for index, entry in enumerate(entries)}, merges


def save_tokenizer(folder: Path, pad_token: str) -> Path:
    """A tokenizer's folder as the released models have it."""
    folder.mkdir(parents=True)
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = dict(bos_token=BEGIN, eos_token=END, unk_token=END, pad_token=pad_token)
    config = dict(tokenizer_class="CLIPTokenizer", model_max_length=LENGTH, **special)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def tiny_pipeline_folder(folder: Path, kind: str = "ssd_1b") -> Path:
    """Save a small random StableDiffusionXLImg2ImgPipeline at `folder`, with weights in float32."""
    made = folder.with_name(folder.name + "_tokenizers")
    tokenizers = {
        name: transformers.CLIPTokenizer.from_pretrained(save_tokenizer(made / name, pad))
        for name, pad in (("tokenizer", END), ("tokenizer_2", "!"))
    }
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(
        unet=unet(kind),
        vae=vae(),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder_2(),
        scheduler=scheduler,
        add_watermarker=False,
        **tokenizers,
    )
    pipeline.save_pretrained(folder)
    for name in tokenizers:  # newer tokenizers save one file; the released folders have these
        for file in (made / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    return folder


def nchw(image: np.ndarray) -> "torch.Tensor":
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 1)))


def nhwc(image: "torch.Tensor") -> np.ndarray:
    return np.moveaxis(image.numpy(), 1, -1)

"""Configs from the `config.json` files that released diffusers folders carry."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssd1b_jax.config import (
    CLIPTextConfig,
    ConfigError,
    ModelConfig,
    ScheduleConfig,
    UNetConfig,
    VAEConfig,
    require,
)


def read_config(folder: str | Path) -> ModelConfig:
    """The config of a released diffusers folder, from the JSON files of its parts.

    Raises ConfigError where a file is missing or no JSON, or describes a network of another family.
    """
    folder = Path(folder)
    return ModelConfig(
        unet=_read(_read_unet, folder / "unet" / "config.json"),
        vae=_read(_read_vae, folder / "vae" / "config.json"),
        text_encoder=_read(_read_clip, folder / "text_encoder" / "config.json"),
        text_encoder_2=_read(_read_clip, folder / "text_encoder_2" / "config.json"),
        schedule=_read(_read_schedule, folder / "scheduler" / "scheduler_config.json"),
        force_zeros_for_empty_prompt=_load(folder / "model_index.json").get("force_zeros_for_empty_prompt", True),
    )


def _read(reader: Callable[[dict[str, Any]], Any], path: Path) -> Any:
    data = _load(path)
    try:
        return reader(data)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, AttributeError) as error:
        raise ConfigError(f"{path} lacks a key or has one of the wrong kind: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: not a diffusers folder of the SDXL family") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not readable JSON: {error}") from None
    require(isinstance(data, dict), f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


def _expect(part: str, data: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse values that this project's networks do not implement; absent keys have these values."""
    for key, allowed in expected.items():
        got = data.get(key, allowed)
        require(got == allowed, f"{part} config: {key} must be {allowed!r}, got {got!r}")


def _read_unet(data: Mapping[str, Any]) -> UNetConfig:
    _expect(
        "unet",
        {"addition_embed_type": None, "use_linear_projection": False, **data},
        dict(
            addition_embed_type="text_time",
            use_linear_projection=True,
            act_fn="silu",
            flip_sin_to_cos=True,
            freq_shift=0,
            time_cond_proj_dim=None,
            encoder_hid_dim=None,
            class_embed_type=None,
            conv_in_kernel=3,
            norm_eps=1e-5,
            resnet_time_scale_shift="default",
            time_embedding_type="positional",
            downsample_padding=1,
            center_input_sample=False,
            only_cross_attention=False,
            dual_cross_attention=False,
            conv_out_kernel=3,
        ),
    )
    channels = tuple(data["block_out_channels"])
    levels, layers = len(channels), data["layers_per_block"]
    down_types, up_types = data["down_block_types"], data["up_block_types"]
    per_block = data.get("transformer_layers_per_block", 1)
    down = [per_block] * levels if isinstance(per_block, int) else list(per_block)
    up = data.get("reverse_transformer_layers_per_block") or down[::-1]

    def depths(types, per_level, count, with_attention):
        rows = []
        for kind, entry in zip(types, per_level, strict=True):
            attends = kind == with_attention
            require(attends or kind == with_attention.replace("CrossAttn", ""), f"unet config: block type {kind!r}")
            row = (entry,) * count if isinstance(entry, int) else tuple(entry)
            rows.append(row if attends else (0,) * count)
        return tuple(rows)

    mid_type = data.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    require(mid_type in ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"), f"unet config: mid_block_type {mid_type!r}")
    mid = down[-1] if isinstance(down[-1], int) else down[-1][0]
    heads = data.get("num_attention_heads") or data["attention_head_dim"]
    return UNetConfig(
        block_out_channels=channels,
        down_depths=depths(down_types, down, layers, "CrossAttnDownBlock2D"),
        up_depths=depths(up_types, up, layers + 1, "CrossAttnUpBlock2D"),
        mid_depth=mid if mid_type == "UNetMidBlock2DCrossAttn" else 0,
        num_attention_heads=(heads,) * levels if isinstance(heads, int) else tuple(heads),
        cross_attention_dim=data["cross_attention_dim"],
        added_cond_dim=data["projection_class_embeddings_input_dim"],
        added_time_embed_dim=data["addition_time_embed_dim"],
        in_channels=data["in_channels"],
        out_channels=data["out_channels"],
        norm_num_groups=data["norm_num_groups"],
    )


def _read_vae(data: Mapping[str, Any]) -> VAEConfig:
    _expect(
        "vae",
        data,
        dict(act_fn="silu", out_channels=data["in_channels"], mid_block_add_attention=True, shift_factor=None)
        | dict(use_quant_conv=True, use_post_quant_conv=True, latents_mean=None, latents_std=None),
    )
    return VAEConfig(
        block_out_channels=tuple(data["block_out_channels"]),
        layers_per_block=data["layers_per_block"],
        latent_channels=data["latent_channels"],
        in_channels=data["in_channels"],
        norm_num_groups=data["norm_num_groups"],
        scaling_factor=data["scaling_factor"],
        force_upcast=bool(data.get("force_upcast", True)),
    )


def _read_clip(data: Mapping[str, Any]) -> CLIPTextConfig:
    _expect("text encoder", data, dict(layer_norm_eps=1e-5))
    with_projection = "CLIPTextModelWithProjection" in data.get("architectures", ())
    return CLIPTextConfig(
        **{
            f.name: data[f.name]
            for f in dataclasses.fields(CLIPTextConfig)
            if f.name in data and f.name != "projection_dim"
        },
        projection_dim=data["projection_dim"] if with_projection else None,
    )


def _read_schedule(data: Mapping[str, Any]) -> ScheduleConfig:
    _expect("scheduler", data, dict(trained_betas=None, rescale_betas_zero_snr=False))
    return ScheduleConfig(**{f.name: data[f.name] for f in dataclasses.fields(ScheduleConfig) if f.name in data})

"""Configs from the `config.json` files that released diffusers folders carry, and such files from configs."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssd1b_jax.checkpoints import schedules
from ssd1b_jax.config import CLIPTextConfig, Defaults, ModelConfig, UNetConfig, VAEConfig, require
from ssd1b_jax.errors import ConfigError, FileError
from ssd1b_jax.files import read_json

# What a number may be at most, so that a damaged config can't ask for more than any machine has.
_LIMITS = {
    "layers_per_block": 16,
    "transformer_layers_per_block": 64,
    "reverse_transformer_layers_per_block": 64,
    "num_hidden_layers": 64,
    "block_out_channels": 1 << 14,
    "cross_attention_dim": 1 << 16,
    "attention_head_dim": 1 << 10,
    "num_attention_heads": 1 << 10,
    "projection_class_embeddings_input_dim": 1 << 16,
    "addition_time_embed_dim": 1 << 12,
    "norm_num_groups": 1 << 10,
    "in_channels": 64,
    "out_channels": 64,
    "latent_channels": 64,
    "vocab_size": 1 << 20,
    "hidden_size": 1 << 14,
    "intermediate_size": 1 << 16,
    "projection_dim": 1 << 14,
    "max_position_embeddings": 1 << 12,
    "num_train_timesteps": 1 << 16,
}
_MOST_TRANSFORMERS = 512  # layers in one UNet; SDXL has 70
_PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")


def read_config(folder: str | Path) -> ModelConfig:
    """The config of a released diffusers folder, from the JSON files of its parts.

    Raises ConfigError where a file is missing or no JSON, or describes a network of another family.
    """
    folder = Path(folder)
    index = _load(folder / "model_index.json")
    kind = index.get("_class_name", _PIPELINES[0])
    require(kind in _PIPELINES, f"{folder / 'model_index.json'} is of a {kind}: not of the SDXL family")
    require(
        not index.get("requires_aesthetics_score"),
        f"{folder / 'model_index.json'} asks for an aesthetic score: the SDXL refiner, which can't be converted",
    )
    zeros = index.get("force_zeros_for_empty_prompt", True)
    require(
        isinstance(zeros, bool), f"{folder / 'model_index.json'}: force_zeros_for_empty_prompt must be true or false"
    )
    parts = dict(
        unet=_read(_read_unet, folder / "unet" / "config.json"),
        vae=_read(_read_vae, folder / "vae" / "config.json"),
        text_encoder=_read(_read_clip, folder / "text_encoder" / "config.json"),
        text_encoder_2=_read(_read_clip, folder / "text_encoder_2" / "config.json"),
        schedule=_read(schedules.read, folder / "scheduler" / "scheduler_config.json"),
    )
    try:
        config = ModelConfig(**parts, force_zeros_for_empty_prompt=zeros)
        return dataclasses.replace(config, defaults=_defaults(config, _load(folder / "unet" / "config.json")))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def to_diffusers_configs(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """The inverse of `read_config`: the JSON files of a diffusers folder, by their paths in it.

    `defaults` have no place there but the size. Raises ConfigError for a UNet that diffusers can't express.
    """
    encoders = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": config.force_zeros_for_empty_prompt,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    } | {part: ["transformers", kind] for part, kind in encoders.items()}
    schedule = {"_class_name": "EulerDiscreteScheduler"} | dataclasses.asdict(config.schedule)
    files = {"model_index.json": index, "scheduler/scheduler_config.json": schedule}
    files["unet/config.json"] = _write_unet(config.unet) | {"sample_size": config.defaults.width // config.vae.factor}
    levels = len(config.vae.block_out_channels)
    files["vae/config.json"] = dataclasses.asdict(config.vae) | {
        "_class_name": "AutoencoderKL",
        "out_channels": config.vae.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": config.defaults.width,
        "act_fn": "silu",
    }
    for part, kind in encoders.items():
        clip = dataclasses.asdict(getattr(config, part))
        clip["projection_dim"] = clip["projection_dim"] or clip["hidden_size"]
        about = {"architectures": [kind], "model_type": "clip_text_model", "layer_norm_eps": 1e-5}
        files[f"{part}/config.json"] = clip | about | {"bos_token_id": 0, "pad_token_id": 1}
    return files


def _write_unet(config: UNetConfig) -> dict[str, Any]:
    def kinds(rows, kind):
        for row in rows:
            require(all(row) or not any(row), f"diffusers can't express a level with depths {row}")
        return [kind if any(row) else kind.replace("CrossAttn", "") for row in rows]

    down = [list(row) if any(row) else 1 for row in config.down_depths]
    up = [list(row) if any(row) else 1 for row in config.up_depths]
    plain = [row[0] if isinstance(row, list) and len({*row}) == 1 else row for row in down]
    if plain[::-1] == [row[0] if isinstance(row, list) and len({*row}) == 1 else row for row in up]:
        down, up = plain, None  # as SDXL's folders have it
    bottom = config.down_depths[-1][0] or 1
    require(config.mid_depth in (0, bottom), f"diffusers can't express a mid block of depth {config.mid_depth}")
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.block_out_channels),
        "layers_per_block": config.layers_per_block,
        "down_block_types": kinds(config.down_depths, "CrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if config.mid_depth else "UNetMidBlock2D",
        "up_block_types": kinds(config.up_depths, "CrossAttnUpBlock2D"),
        "transformer_layers_per_block": down,
        "reverse_transformer_layers_per_block": up,
        "attention_head_dim": list(config.num_attention_heads),  # the number of heads, whatever its name
        "cross_attention_dim": config.cross_attention_dim,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": config.added_time_embed_dim,
        "projection_class_embeddings_input_dim": config.added_cond_dim,
        "use_linear_projection": True,
        "norm_num_groups": config.norm_num_groups,
    }


def _defaults(config: ModelConfig, unet: Mapping[str, Any]) -> Defaults:
    """The size that the UNet's config says it was trained at, where that is one; the rest is nowhere in a folder."""
    latents = unet.get("sample_size")
    size = latents * config.vae.factor if isinstance(latents, int) and not isinstance(latents, bool) else 0
    fits = 0 < size <= 1 << 12 and size % config.size_multiple == 0
    return Defaults(width=size, height=size) if fits else Defaults()


def _read(reader: Callable[[dict[str, Any]], Any], path: Path) -> Any:
    data = _load(path)
    try:
        _check_numbers(data)
        return reader(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError, AttributeError) as error:
        raise ConfigError(f"{path} lacks a key or has one of the wrong kind: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: not a diffusers folder of the SDXL family") from None
    except FileError as error:
        raise ConfigError(str(error)) from None
    require(isinstance(data, dict), f"{path} must hold a JSON object, got {type(data).__name__}")
    return data


def _check_numbers(data: Mapping[str, Any]) -> None:
    for key, limit in _LIMITS.items():
        for value in _flat(data.get(key)):
            ok = value is None or (type(value) is int and 1 <= value <= limit)
            require(ok, f"{key} must be a whole number from 1 to {limit}, got {str(value)[:80]}")
    for key in ("scaling_factor", "beta_start", "beta_end"):
        value = data.get(key, 1)
        ok = type(value) in (int, float) and 0 < value < 1000
        require(ok, f"{key} must be a number above 0 and below 1000, got {str(value)[:80]}")
    for key in ("eos_token_id", "steps_offset"):
        value = data.get(key, 0)
        ok = type(value) is int and 0 <= value < 1 << 20
        require(ok, f"{key} must be a whole number from 0 up, got {str(value)[:80]}")


def _flat(value: Any) -> list[Any]:
    return [item for row in value[:100] for item in _flat(row)] if isinstance(value, list) else [value]


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

    count = sum(map(sum, depths(down_types, down, layers, "CrossAttnDownBlock2D")))
    require(count <= _MOST_TRANSFORMERS, f"{count} transformer layers are too many")
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

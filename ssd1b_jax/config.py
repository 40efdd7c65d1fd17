"""What the models are: frozen configs, whose presets are in `presets`.

A field is named after the thing it sets, not after the file it comes from; `checkpoints.diffusers_config` translates
the `config.json` files of released folders. Two descriptions of the same network are equal configs.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ssd1b_jax.errors import ConfigError

Depths = tuple[tuple[int, ...], ...]
SPACINGS = ("leading", "trailing", "linspace")  # of inference timesteps over the trained ones


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The SDXL family's UNet (Podell et al., 2307.01952) with a depth for every transformer.

    `down_depths[i][j]` is the number of transformer layers behind resnet j of down block i, 0
    for none; `up_depths` likewise, in the order the blocks run. `mid_depth` 0 is SSD-1B's mid
    block of one resnet; above 0 it is SDXL's resnet, transformer, resnet.
    `num_attention_heads` is per level, top to bottom. `added_cond_dim` is the width of pooled
    text and embedded time ids together.
    """

    block_out_channels: tuple[int, ...]
    down_depths: Depths
    up_depths: Depths
    mid_depth: int
    num_attention_heads: tuple[int, ...]
    cross_attention_dim: int
    added_cond_dim: int
    added_time_embed_dim: int = 256
    in_channels: int = 4
    out_channels: int = 4
    norm_num_groups: int = 32

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name in ("down_depths", "up_depths", "num_attention_heads"):
            got = len(getattr(self, name))
            require(got == levels, f"{name} must have one entry per level ({levels}), got {got}")
        resnets = {len(depths) for depths in self.down_depths}
        require(len(resnets) == 1, f"all down blocks must have the same number of resnets, got {self.down_depths}")
        require(
            all(len(depths) == self.layers_per_block + 1 for depths in self.up_depths),
            f"up blocks must have {self.layers_per_block + 1} resnets each, got {self.up_depths}",
        )
        require(self.pooled_dim > 0, f"added_cond_dim {self.added_cond_dim} leaves no room for pooled text")
        for channels, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            require(
                channels % self.norm_num_groups == 0 and channels % heads == 0,
                f"{channels} channels must divide into {self.norm_num_groups} groups and {heads} heads",
            )

    @property
    def layers_per_block(self) -> int:
        return len(self.down_depths[0])

    @property
    def time_embed_dim(self) -> int:
        return 4 * self.block_out_channels[0]

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text: what six embedded time ids leave of `added_cond_dim`."""
        return self.added_cond_dim - 6 * self.added_time_embed_dim


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """AutoencoderKL. Latents are multiplied by `scaling_factor` after encoding."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int = 2
    latent_channels: int = 4
    in_channels: int = 3
    norm_num_groups: int = 32
    scaling_factor: float = 0.13025
    force_upcast: bool = True

    def __post_init__(self):
        bad = [c for c in self.block_out_channels if c % self.norm_num_groups]
        require(not bad, f"VAE channels {bad} must divide into {self.norm_num_groups} groups")
        require(self.scaling_factor > 0, f"scaling_factor must be positive, got {self.scaling_factor}")

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """A causal CLIP text encoder; `projection_dim` None is the one without a projection.

    `eos_token_id` marks the position that is pooled: its first occurrence, or, for the legacy
    value 2 that the released SDXL folders carry, the first occurrence of the highest id.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    max_position_embeddings: int = 77
    projection_dim: int | None = None
    eos_token_id: int = 2

    def __post_init__(self):
        require(
            self.hidden_act in ("quick_gelu", "gelu"),
            f"hidden_act must be quick_gelu or gelu, got {self.hidden_act!r}",
        )
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size} must divide into {self.num_attention_heads} heads",
        )
        require(self.num_hidden_layers >= 2, "a penultimate hidden state needs at least 2 layers")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The noise schedule a model was trained on, and how inference timesteps are spread over it.

    `rescale_betas_zero_snr`: the betas are rescaled so that the last timestep has no signal (Lin et al., 2305.08891,
    Algorithm 1).
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 1
    rescale_betas_zero_snr: bool = False

    def __post_init__(self):
        for name, allowed in (
            ("beta_schedule", ("scaled_linear", "linear")),
            ("prediction_type", ("epsilon", "v_prediction")),
            ("timestep_spacing", SPACINGS),
        ):
            got = getattr(self, name)
            require(got in allowed, f"{name} must be one of {', '.join(allowed)}, got {got!r}")
        require(
            not self.rescale_betas_zero_snr or self.prediction_type == "v_prediction",
            "rescale_betas_zero_snr needs prediction_type v_prediction: at a timestep without signal the noise is "
            "the input itself, and predicting it tells nothing",
        )
        require(0 < self.beta_start < self.beta_end < 1, "betas must satisfy 0 < beta_start < beta_end < 1")


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """The values of a request's settings that a model decides where the request leaves them out."""

    width: int = 1024
    height: int = 1024
    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    strength: float = 0.6


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything a model folder says about its networks; the weights follow from it."""

    unet: UNetConfig
    vae: VAEConfig
    text_encoder: CLIPTextConfig
    text_encoder_2: CLIPTextConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    defaults: Defaults = field(default_factory=Defaults)
    force_zeros_for_empty_prompt: bool = True

    def __post_init__(self):
        context = self.text_encoder.hidden_size + self.text_encoder_2.hidden_size
        require(
            context == self.unet.cross_attention_dim,
            f"the text encoders give {context} channels, the UNet expects {self.unet.cross_attention_dim}",
        )
        require(
            self.text_encoder_2.projection_dim == self.unet.pooled_dim,
            f"text_encoder_2 projects to {self.text_encoder_2.projection_dim}, "
            f"the UNet expects pooled text of {self.unet.pooled_dim}",
        )
        require(
            self.vae.latent_channels == self.unet.in_channels == self.unet.out_channels,
            f"the VAE has {self.vae.latent_channels} latent channels, "
            f"the UNet takes {self.unet.in_channels} and gives {self.unet.out_channels}",
        )

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: the pixels along a latent's side."""
        return self.vae.factor

    @property
    def max_clip_skip(self) -> int:
        """The largest `clip_skip` that both text encoders have layers for."""
        return min(self.text_encoder.num_hidden_layers, self.text_encoder_2.num_hidden_layers) - 1

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`, also after JSON has made lists of the tuples. Unknown keys are errors."""
        parts = {f.name: f.type for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(parts))
        require(not unknown, f"unknown config keys: {', '.join(unknown)}")
        kwargs = {}
        for name, value in data.items():
            part = parts[name]
            if dataclasses.is_dataclass(part):
                try:
                    value = part(**{key: _tuples(item) for key, item in value.items()})
                except TypeError as error:
                    raise ConfigError(f"config part {name!r}: {error}") from None
            kwargs[name] = value
        try:
            return cls(**kwargs)
        except TypeError as error:
            raise ConfigError(str(error)) from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value

"""The models that are known by name, one row each: `plan` plans for them, `convert` recognizes them."""

from collections.abc import Callable
from dataclasses import dataclass

from ssd1b_jax.config import CLIPTextConfig, Defaults, Depths, ModelConfig, UNetConfig, VAEConfig

_CLIP_L = CLIPTextConfig(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_act="quick_gelu",
)
_CLIP_BIGG = CLIPTextConfig(
    vocab_size=49408,
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
)
_SDXL_VAE = VAEConfig(block_out_channels=(128, 256, 512, 512))


def _sdxl_family(down_depths: Depths, up_depths: Depths, mid_depth: int) -> ModelConfig:
    return ModelConfig(
        unet=UNetConfig(
            block_out_channels=(320, 640, 1280),
            down_depths=down_depths,
            up_depths=up_depths,
            mid_depth=mid_depth,
            num_attention_heads=(5, 10, 20),
            cross_attention_dim=2048,
            added_cond_dim=2816,
        ),
        vae=_SDXL_VAE,
        text_encoder=_CLIP_L,
        text_encoder_2=_CLIP_BIGG,
    )


def ssd_1b() -> ModelConfig:
    """segmind/SSD-1B: SDXL with fewer transformer layers and a mid block without attention."""
    return _sdxl_family(((0, 0), (2, 2), (4, 4)), ((4, 4, 10), (2, 1, 1), (0, 0, 0)), 0)


def vega() -> ModelConfig:
    """segmind/Segmind-Vega: SSD-1B's family at 0.74 billion parameters."""
    return _sdxl_family(((0, 0), (1, 1), (2, 2)), ((2, 2, 2), (1, 1, 1), (0, 0, 0)), 0)


def sdxl_base() -> ModelConfig:
    """stabilityai/stable-diffusion-xl-base-1.0, the model SSD-1B was distilled from."""
    return _sdxl_family(((0, 0), (2, 2), (10, 10)), ((10, 10, 10), (2, 2, 2), (0, 0, 0)), 10)


def emoji() -> ModelConfig:
    """The embedded model: SSD-1B's topology at 128 x 128 pixels, small enough to train on a laptop."""
    text = dict(vocab_size=1024, num_hidden_layers=2, max_position_embeddings=32, eos_token_id=1023)
    return ModelConfig(
        unet=UNetConfig(
            block_out_channels=(32, 64, 128),
            down_depths=((0, 0), (1, 1), (1, 1)),
            up_depths=((1, 1, 1), (1, 1, 1), (0, 0, 0)),
            mid_depth=0,
            num_attention_heads=(1, 2, 4),
            cross_attention_dim=160,
            added_cond_dim=96 + 6 * 16,
            added_time_embed_dim=16,
            norm_num_groups=8,
        ),
        vae=VAEConfig(
            block_out_channels=(16, 16, 32, 64), layers_per_block=1, norm_num_groups=8, scaling_factor=0.34716
        ),
        text_encoder=CLIPTextConfig(
            hidden_size=64, intermediate_size=256, num_attention_heads=2, hidden_act="quick_gelu", **text
        ),
        text_encoder_2=CLIPTextConfig(
            hidden_size=96, intermediate_size=384, num_attention_heads=3, hidden_act="gelu", projection_dim=96, **text
        ),
        defaults=Defaults(width=128, height=128, guidance_scale=4.0, strength=0.7),
    )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model's config, the title that people know it by, and its id on the Hugging Face hub, if it is there.

    `few_steps` is the id of the LoRA of its consistency distillation (2311.05556). A model folder may have its own.
    """

    config: Callable[[], ModelConfig]
    title: str
    hub: str | None = None
    few_steps: str | None = None


PRESETS = {
    "ssd_1b": Preset(
        config=ssd_1b, title="SSD-1B", hub="segmind/SSD-1B", few_steps="latent-consistency/lcm-lora-ssd-1b"
    ),
    "vega": Preset(config=vega, title="Segmind Vega", hub="segmind/Segmind-Vega", few_steps="segmind/Segmind-VegaRT"),
    "sdxl_base": Preset(
        config=sdxl_base,
        title="SDXL base",
        hub="stabilityai/stable-diffusion-xl-base-1.0",
        few_steps="latent-consistency/lcm-lora-sdxl",
    ),
    "emoji": Preset(config=emoji, title="the embedded model"),
}


def few_steps(config: ModelConfig) -> str | None:
    """The id of the few-step LoRA for models of the same UNet, if there is one."""
    return next((row.few_steps for row in PRESETS.values() if row.few_steps and row.config().unet == config.unet), None)

"""The models that are known by name, one row each: `plan` plans for them, `convert` recognizes them."""

from collections.abc import Callable
from dataclasses import dataclass

from ssd1b_jax import config
from ssd1b_jax.config import ModelConfig


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
        config=config.ssd_1b, title="SSD-1B", hub="segmind/SSD-1B", few_steps="latent-consistency/lcm-lora-ssd-1b"
    ),
    "vega": Preset(
        config=config.vega, title="Segmind Vega", hub="segmind/Segmind-Vega", few_steps="segmind/Segmind-VegaRT"
    ),
    "sdxl_base": Preset(
        config=config.sdxl_base,
        title="SDXL base",
        hub="stabilityai/stable-diffusion-xl-base-1.0",
        few_steps="latent-consistency/lcm-lora-sdxl",
    ),
    "emoji": Preset(config=config.emoji, title="the embedded model"),
}


def few_steps(config: ModelConfig) -> str | None:
    """The id of the few-step LoRA for models of the same UNet, if there is one."""
    return next((row.few_steps for row in PRESETS.values() if row.few_steps and row.config().unet == config.unet), None)

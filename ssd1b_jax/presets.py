"""The models that are known by name, one row each: `plan` plans for them, `convert` recognizes them."""

from collections.abc import Callable
from dataclasses import dataclass

from ssd1b_jax import config
from ssd1b_jax.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model's config, the title that people know it by, and its id on the Hugging Face hub, if it is there."""

    config: Callable[[], ModelConfig]
    title: str
    hub: str | None = None


PRESETS = {
    "ssd_1b": Preset(config=config.ssd_1b, title="SSD-1B", hub="segmind/SSD-1B"),
    "vega": Preset(config=config.vega, title="Segmind Vega", hub="segmind/Segmind-Vega"),
    "sdxl_base": Preset(config=config.sdxl_base, title="SDXL base", hub="stabilityai/stable-diffusion-xl-base-1.0"),
    "emoji": Preset(config=config.emoji, title="the embedded model"),
}

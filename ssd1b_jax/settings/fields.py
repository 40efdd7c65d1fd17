"""The keyword arguments that settings are, for type checkers: the same names and types as the rows have."""

from collections.abc import Mapping
from typing import Required, TypedDict

from ssd1b_jax.images import Source
from ssd1b_jax.settings.types import Format, Noise, Pair, ResizeMode, Size, Spacing


class RequestFields(TypedDict, total=False):
    """A Request's fields, as keyword arguments of a call."""

    image: Required[Source | None]
    prompt: Required[str]
    negative_prompt: str | None
    prompt_2: str | None
    negative_prompt_2: str | None
    prompt_weights: bool
    clip_skip: int
    strength: float | None
    num_inference_steps: int | None
    exact_steps: bool
    scheduler: str
    fast: bool
    timestep_spacing: Spacing | None
    guidance_scale: float | None
    guidance_rescale: float
    guidance_interval: Pair
    seed: int | None
    noise: Noise
    variation_seed: int | None
    variation_strength: float
    mask: Source | None
    mask_blur: int
    mask_invert: bool
    loras: Mapping[str, float]
    width: int | None
    height: int | None
    resize_mode: ResizeMode
    original_size: Size | None
    crops_coords_top_left: Size
    target_size: Size | None
    negative_original_size: Size | None
    negative_crops_coords_top_left: Size | None
    negative_target_size: Size | None


class OutputFields(TypedDict, total=False):
    """The options of written files, as keyword arguments of `Result.save` and `Output`."""

    format: Format | None
    quality: int
    upscale: int
    metadata: bool
    sidecar: bool
    embed_input: bool
    overwrite: bool

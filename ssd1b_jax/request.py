"""What a picture depends on (Request), what comes of it (Result), and every check between them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from ssd1b_jax import images, noise
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.schedule import noise_levels
from ssd1b_jax.solvers import SAMPLERS

MAX_SIDE = 4096
MAX_AREA = 4  # times the model's own; beyond, attention needs more memory than there is
MAX_GUIDANCE = 100.0


class RequestError(ValueError):
    """A setting out of range: what was got, what is allowed."""


@no_type_check  # of values, at run time: `resolve` does that, in sentences
@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One picture to make. None means the model's own default, or for `seed` a drawn one.

    - `image`: a path, the bytes of a file, a Pillow image, or uint8 (height, width[, 3 or 4]).
    - `negative_prompt`: None is the absence of a prompt; "" is an empty prompt, which is not the same.
    - `strength` in (0, 1]: how much of the picture is remade; see `schedule.noise_levels`.
    - `guidance_scale` at least 1; 1 is off and takes half the time.
    - `seed` in [0, 2**64).
    - `width`, `height` in pixels, multiples of the model's `size_multiple`; the image is brought to
      that size by `resize_mode`: crop, pad or stretch.
    - `noise`: jax, torch or nv; see `noise`.
    - `exact_steps`: run all steps whatever the strength.
    - `guidance_rescale` in [0, 1] (Lin et al., 2305.08891).
    """

    image: Any
    prompt: str
    negative_prompt: str | None = None
    strength: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    scheduler: str = "euler"
    width: int | None = None
    height: int | None = None
    resize_mode: str = "crop"
    noise: str = "jax"
    exact_steps: bool = False
    guidance_rescale: float = 0.0

    def resolve(self, config: ModelConfig) -> "Request":
        """This request with every default filled in and every value checked; only `image` is left unread.

        Raises RequestError with one sentence. A resolved request resolves to itself.
        """
        defaults = dataclasses.asdict(config.defaults)
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        if self.seed is None:
            filled["seed"] = noise.draw_seed()
        request = dataclasses.replace(self, **filled)
        request = dataclasses.replace(request, **{name: request._checked(name) for name in _KINDS})
        request._check_choices()
        request._check_size(config)
        try:
            grid = SAMPLERS[request.scheduler].grid
            noise_levels(config.schedule, grid, request.num_inference_steps, request.strength, request.exact_steps)
        except ValueError as error:
            raise RequestError(str(error)) from None
        return request

    @property
    def guided(self) -> bool:
        """Whether a resolved request uses guidance."""
        return self.guidance_scale > 1

    def _checked(self, name: str) -> Any:
        """The field as a plain Python value of its kind, in its range."""
        kind, low, high, allowed = _KINDS[name]
        value = getattr(self, name)
        if isinstance(value, np.generic):
            value = value.item()
        whole_float = kind is int and isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, (int, kind)) or whole_float):
            raise RequestError(f"{name} must be {allowed}, got {value!r}")
        try:
            value = kind(value)
        except OverflowError:
            value = float("inf")
        if not low <= value <= high:  # false for NaN too
            raise RequestError(f"{name} must be {allowed}, got {value}")
        return value

    def _check_choices(self) -> None:
        choices = dict(scheduler=tuple(SAMPLERS), resize_mode=images.RESIZE_MODES, noise=noise.KINDS)
        for name, allowed in choices.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise RequestError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not isinstance(self.image, images.Source):
            raise RequestError(
                f"image must be a path, bytes, a Pillow image or an array, got {type(self.image).__name__}"
            )
        if not isinstance(self.prompt, str):
            raise RequestError(f"prompt must be text, got {type(self.prompt).__name__}")
        if not isinstance(self.negative_prompt, str | None):
            raise RequestError(f"negative_prompt must be text or None, got {type(self.negative_prompt).__name__}")
        if not isinstance(self.exact_steps, bool):
            raise RequestError(f"exact_steps must be True or False, got {self.exact_steps!r}")

    def _check_size(self, config: ModelConfig) -> None:
        multiple = config.size_multiple
        for name in ("width", "height"):
            value = getattr(self, name)
            if value % multiple:
                down, up = value // multiple * multiple, -(-value // multiple) * multiple
                near = f"{down} or {up}" if down else up
                raise RequestError(f"{name} must be a multiple of {multiple}, got {value}: try {near}")
        most = MAX_AREA * config.defaults.width * config.defaults.height
        if self.width * self.height > most:
            raise RequestError(
                f"width x height must be at most {MAX_AREA} times the model's own size, {most} pixels, "
                f"got {self.width} x {self.height}"
            )


def repeat(request: Request, count: int) -> list[Request]:
    """`count` copies of a resolved request with successive seeds, from its own."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise RequestError(f"num_images must be a whole number from 1, got {count!r}")
    return [dataclasses.replace(request, seed=(request.seed + i) % 2**64) for i in range(count)]


_KINDS: Mapping[str, tuple[type, float, float, str]] = {
    "strength": (float, 0.0, 1.0, "in (0, 1]"),
    "num_inference_steps": (int, 1, 1000, "a whole number from 1 to 1000"),
    "guidance_scale": (float, 1.0, MAX_GUIDANCE, f"from 1 (off) to {MAX_GUIDANCE:g}"),
    "guidance_rescale": (float, 0.0, 1.0, "in [0, 1]"),
    "seed": (int, 0, 2**64 - 1, "a whole number from 0 to 2**64 - 1"),
    "width": (int, 1, MAX_SIDE, f"a whole number up to {MAX_SIDE}"),
    "height": (int, 1, MAX_SIDE, f"a whole number up to {MAX_SIDE}"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A picture, and the resolved request that made it.

    `pixels` is uint8 (height, width, 3); `steps_run` counts the steps that ran, fewer than asked
    where strength is below 1; `seconds` is its share of its batch's wall time, compilation
    included; `notes` are sentences for the user about what was dropped or cut.
    """

    pixels: np.ndarray
    request: Request
    steps_run: int
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return self.request.seed

    @property
    def image(self):
        """The picture as a Pillow image."""
        return images.to_pil(self.pixels)

    def save(self, path: str | Path, *, upscale: int = 1) -> None:
        """Write a PNG, JPEG or WebP by the suffix, whole or not at all; `upscale` enlarges it (Lanczos)."""
        images.save(images.upscale(self.pixels, upscale), path)

"""What a picture depends on, and every check on it."""

import dataclasses
import functools
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, no_type_check

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.choices import NOISES, SHORT, nearest
from ssd1b_jax.config import SPACINGS, ModelConfig
from ssd1b_jax.errors import RequestError
from ssd1b_jax.prompts import parse
from ssd1b_jax.samplers import Table, build, canonical

MAX_SIDE = 4096
MAX_AREA = 4  # times the model's own; beyond, attention needs more memory than there is
MAX_GUIDANCE = 100.0
MAX_SCALE = 10.0  # of a LoRA
PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
_SIZES = ("original_size", "crops_coords_top_left", "target_size")
_Class = TypeVar("_Class", bound=type)


# Of a number: its type, lowest and highest value, and both in words.
_SEED = (int, 0, 2**64 - 1, "a whole number from 0 to 2**64 - 1")
_SIDE = (int, 1, MAX_SIDE, f"a whole number up to {MAX_SIDE}")
_SIZE = (int, 1, 2**16, f"whole numbers from 1 to {2**16}")
_CROP = (int, 0, 2**16, f"whole numbers from 0 to {2**16}")
_FRACTION = (float, 0.0, 1.0, "in [0, 1]")
_NUMBERS: Mapping[str, tuple[type, float, float, str]] = {
    "strength": (float, 0.0, 1.0, "in (0, 1]"),
    "num_inference_steps": (int, 1, 1000, "a whole number from 1 to 1000"),
    "guidance_scale": (float, 1.0, MAX_GUIDANCE, f"from 1 (off) to {MAX_GUIDANCE:g}"),
    "guidance_rescale": _FRACTION,
    "clip_skip": (int, 0, 100, "a whole number from 0"),
    "variation_strength": _FRACTION,
    "mask_blur": (int, 0, 256, "a whole number of pixels up to 256"),
    "seed": _SEED,
    "width": _SIDE,
    "height": _SIDE,
}


def _told_in_sentences(cls: _Class) -> _Class:
    """The class, whose constructor raises RequestError for names that are unknown or missing; its signature stays."""
    init = cls.__init__
    needed = [
        field.name for field in dataclasses.fields(cls) if field.default is field.default_factory is dataclasses.MISSING
    ]

    @functools.wraps(init)
    def told(self, *values, **settings):
        check_names(settings)
        if not values and (missing := [name for name in needed if name not in settings]):
            raise RequestError(f"{' and '.join(missing)} must be given")
        init(self, *values, **settings)

    cls.__init__ = told
    return cls


def check_names(names: Iterable[str], *others: str) -> None:
    """Raise RequestError for a name that is neither a Request's nor one of the others."""
    known = {name: name for name in (*(field.name for field in dataclasses.fields(Request)), *others)}
    for name in names:
        if name not in known:
            spelled = known | {short: field for field, short in SHORT.items()}
            near = nearest(name, spelled)
            hint = f"did you mean {spelled[near]}?" if near else "see help(ssd1b_jax.Request)"
            raise RequestError(f"no setting is named {name!r}: {hint}")


@no_type_check  # of values, at run time: `resolve` does that, in sentences
@_told_in_sentences
@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One picture to make. None means the model's own default, or for a seed a drawn one.

    The picture and its prompt:

    - `image`: a path, the bytes of a file, a Pillow image, or uint8 (height, width[, 3 or 4]).
    - `negative_prompt`: None is the absence of a prompt; "" is an empty prompt, which is not the same.
    - `prompt_2`, `negative_prompt_2`: for the second text encoder; None is the first one's.
    - `prompt_weights`: whether brackets weigh words; see `prompts.parse`.
    - `clip_skip`: how many more of the text encoders' last layers are left out for the prompt; as in
      diffusers, the negative prompt skips none.

    How it is made:

    - `strength` in (0, 1]: how much of the picture is remade; see `schedule.noise_levels`.
    - `exact_steps`: run all steps whatever the strength.
    - `scheduler`: a name that `solvers.canonical` knows; `timestep_spacing`: leading, trailing, linspace.
    - `guidance_scale` at least 1; 1 is off and takes half the time.
    - `guidance_rescale` in [0, 1] (Lin et al., 2305.08891).
    - `guidance_interval`: from and to which fraction of the steps that run to guide
      (Kynkäänniemi et al., 2404.07724); the other steps take half the time.
    - `seed` in [0, 2**64); `noise`: jax, torch or nv; see `noise`.
    - `variation_strength` in [0, 1]: how far the starting noise is turned to that of `variation_seed`.
    - `mask`: a picture like `image`; white is remade, black is kept to the pixel. Over
      `mask_blur` pixels on the white side the one fades into the other.
    - `loras`: the scales of LoRAs that the pipeline has loaded, by name.

    Its size, in pixels:

    - `width`, `height`: multiples of the model's `size_multiple`; the image is brought to that size
      by `resize_mode`: crop, pad or stretch.
    - `original_size`, `target_size` (height, width), `crops_coords_top_left`: what the model is told
      of the picture (Podell et al., 2307.01952); None is the size made. The negative prompt's are
      the same unless given.
    """

    image: Any
    prompt: str
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    prompt_weights: bool = True
    clip_skip: int = 0
    strength: float | None = None
    num_inference_steps: int | None = None
    exact_steps: bool = False
    scheduler: str = "euler"
    timestep_spacing: str | None = None
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    seed: int | None = None
    noise: str = "jax"
    variation_seed: int | None = None
    variation_strength: float = 0.0
    mask: Any = None
    mask_blur: int = 0
    loras: Mapping[str, float] = field(default_factory=dict)
    width: int | None = None
    height: int | None = None
    resize_mode: str = "crop"
    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] | None = None
    negative_target_size: tuple[int, int] | None = None

    def resolve(self, config: ModelConfig) -> "Request":
        """This request with every default filled in and every value checked; only pictures are left unread.

        Raises RequestError with one sentence. A resolved request resolves to itself.
        """
        defaults = dataclasses.asdict(config.defaults) | dict(timestep_spacing=config.schedule.timestep_spacing)
        if self.seed is None:
            defaults["seed"] = draw_seed()
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        request = dataclasses.replace(self, **filled)
        request = dataclasses.replace(
            request, **{name: _number(name, getattr(request, name), *allowed) for name, allowed in _NUMBERS.items()}
        )
        request._check_choices()
        request._check_size(config)
        checked = dict(
            variation_seed=request._variation(),
            guidance_interval=request._interval(),
            loras=request._scales(),
            **request._sizes(),
        )
        request = dataclasses.replace(request, **checked)
        most = config.max_clip_skip
        if request.clip_skip > most:
            raise RequestError(f"clip_skip must be at most {most} with this model, got {request.clip_skip}")
        request = dataclasses.replace(request, scheduler=canonical(request.scheduler))
        request.table(config)
        for name in PROMPTS if request.prompt_weights else ():
            parse(getattr(request, name) or "")
        return request

    def table(self, config: ModelConfig) -> Table:
        """What the sampler does for this request, which is resolved."""
        steps, spacing = self.num_inference_steps, self.timestep_spacing
        return build(self.scheduler, config.schedule, steps, self.strength, self.exact_steps, spacing)

    @property
    def guided(self) -> bool:
        """Whether a resolved request uses guidance in any step."""
        return self.guidance_scale > 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about settings of a resolved request that were given, and have no effect beside the others."""
        said = []
        if self.mask is None and self.mask_blur:
            said.append("mask_blur has no effect without a mask")
        if self.variation_seed is not None and not self.variation_strength:
            said.append("variation_seed has no effect at variation_strength 0")
        if not self.guided:
            given = [
                name for name in ("negative_prompt", "negative_prompt_2", "guidance_rescale") if getattr(self, name)
            ]
            given += ["guidance_interval"] if self.guidance_interval != (0.0, 1.0) else []
            given += [name for size in _SIZES if getattr(self, name := f"negative_{size}") != getattr(self, size)]
            said += [f"{name} has no effect at guidance_scale 1" for name in given]
        return tuple(said)

    def _check_choices(self) -> None:
        choices = dict(resize_mode=images.RESIZE_MODES, noise=NOISES, timestep_spacing=SPACINGS)
        for name, allowed in choices.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise RequestError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        pictures = "a path, bytes, a Pillow image or an array"
        kinds = {
            "image": (images.Source, pictures),
            "mask": (images.Source | None, f"{pictures}, or None"),
            **dict.fromkeys(("prompt", "scheduler"), (str, "text")),
            **dict.fromkeys(PROMPTS[1:], (str | None, "text or None")),
            **dict.fromkeys(("exact_steps", "prompt_weights"), (bool, "True or False")),
        }
        for name, (kind, allowed) in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                got = repr(value) if kind is bool else type(value).__name__
                raise RequestError(f"{name} must be {allowed}, got {got}")

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

    def _variation(self) -> int | None:
        """The variation's seed, drawn where one is needed and none given."""
        if self.variation_seed is None:
            return draw_seed() if self.variation_strength else None
        return _number("variation_seed", self.variation_seed, *_SEED)

    def _interval(self) -> tuple[float, float]:
        begin, end = interval = _pair("guidance_interval", self.guidance_interval, *_FRACTION)
        if not begin < end:
            raise RequestError(f"guidance_interval must end after it begins, got {interval}; guidance_scale 1 is off")
        return interval

    def _scales(self) -> dict[str, float]:
        if not isinstance(self.loras, Mapping) or not all(isinstance(name, str) for name in self.loras):
            raise RequestError(f"loras must map names to scales, got {self.loras!r}")
        allowed = (float, -MAX_SCALE, MAX_SCALE, f"from {-MAX_SCALE:g} to {MAX_SCALE:g}")
        return {name: _number(f"the scale of LoRA {name!r}", self.loras[name], *allowed) for name in sorted(self.loras)}

    def _sizes(self) -> dict[str, tuple[int, int]]:
        made, sizes = (self.height, self.width), {}
        for name, kind in (("original_size", _SIZE), ("crops_coords_top_left", _CROP), ("target_size", _SIZE)):
            value, negative = getattr(self, name), getattr(self, f"negative_{name}")
            sizes[name] = made if value is None else _pair(name, value, *kind)
            sizes[f"negative_{name}"] = sizes[name] if negative is None else _pair(f"negative_{name}", negative, *kind)
        return sizes


def _number(name: str, value: Any, kind: type, low: int | float, high: int | float, allowed: str) -> int | float:
    """The value as a plain Python number of its kind, in its range."""
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


def _pair(name: str, values: Any, *kind: Any) -> tuple[Any, Any]:
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise RequestError(f"{name} must be two numbers, got {values!r}")
    first, second = (_number(name, value, *kind) for value in values)
    return first, second


def draw_seed() -> int:
    """A fresh seed from the operating system, below 2**32.

    So small because `torch` reads no more bits, and because JSON clients hold integers exactly
    only below 2**53.
    """
    return secrets.randbits(32)


def repeat(request: Request, count: int) -> list[Request]:
    """`count` copies of a resolved request with successive seeds, from its own.

    With a variation it is the variation's seed that counts up, as in A1111.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise RequestError(f"num_images must be a whole number from 1, got {count!r}")
    name = "variation_seed" if request.variation_strength else "seed"
    first = getattr(request, name)
    return [dataclasses.replace(request, **{name: (first + i) % 2**64}) for i in range(count)]

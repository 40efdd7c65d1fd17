"""A Request: everything that a picture depends on, but the model."""

import dataclasses
import functools
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeVar

from ssd1b_jax import images, settings
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import RequestError
from ssd1b_jax.images import Source, sources
from ssd1b_jax.prompts import parse
from ssd1b_jax.samplers import Table, build
from ssd1b_jax.settings import default
from ssd1b_jax.settings.types import Noise, Pair, ResizeMode, Size, Spacing, unchecked

PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
PICTURES = ("image", "mask")
SIDES = ("width", "height")
SEEDS = ("seed", "variation_seed")
DRAWN = -1  # as a seed, what None is: other programs write it so
# A model's few-step LoRA by its name, and the sampler and the steps that it is distilled for.
FAST = "fast"  # the name of a model's few-step LoRA
FEW_STEPS = dict(scheduler="lcm", num_inference_steps=4, exact_steps=True, guidance_scale=1.0)  # what it is made for
_OWN = ("num_inference_steps", "guidance_scale")  # of these, what a request may say otherwise
TORCH_SEED = 2**32 - 1  # the bits of a seed that torch reads
_CONFIG = "_config"  # where a resolved request keeps the config that it was resolved with
_SIZES = ("original_size", "crops_coords_top_left", "target_size")
_NEEDS_GUIDANCE = (
    "negative_prompt",
    "negative_prompt_2",
    "guidance_rescale",
    "guidance_interval",
    *(f"negative_{size}" for size in _SIZES),
)
_Class = TypeVar("_Class", bound=type)


def _with_sentences(cls: _Class) -> _Class:
    """The class, whose constructor raises RequestError for names that are unknown or missing; its signature stays."""
    init = cls.__init__
    needed = [
        field.name for field in dataclasses.fields(cls) if field.default is field.default_factory is dataclasses.MISSING
    ]

    @functools.wraps(init)
    def checked(self, *values, **fields):
        check_names(fields)
        if not values and (missing := [name for name in needed if name not in fields]):
            raise RequestError(f"{' and '.join(missing)} must be given")
        init(self, *values, **fields)

    cls.__init__ = checked
    return cls


def check_names(names: Iterable[str], *others: str) -> None:
    """Raise RequestError for a name that is neither a Request's field nor one of the others."""
    known = (*(field.name for field in dataclasses.fields(Request)), *others)
    for name in names:
        if name not in known:
            meant = settings.meant(name, known)
            hint = f"did you mean {meant}?" if meant else "see help(ssd1b_jax.Request)"
            raise RequestError(f"no setting is named {name!r}: {hint}")


@unchecked
@_with_sentences
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Request:
    """One picture to make. None is the model's own default, or for a seed (like -1) a drawn one.

    What each setting does, its range and its default stand in docs/settings.md, and in the rows of
    `settings.SETTINGS`. Values are checked by `resolve`. `image` and `mask` are paths, the bytes of a file,
    files that are open, Pillow images, or arrays (height, width[, 1, 3 or 4]), uint8 or bool. An `image` of
    None is text to image: the picture is made from noise alone.
    """

    image: Source | None
    prompt: str
    negative_prompt: str | None = default("negative_prompt")
    prompt_2: str | None = default("prompt_2")
    negative_prompt_2: str | None = default("negative_prompt_2")
    prompt_weights: bool = default("prompt_weights")
    clip_skip: int = default("clip_skip")
    strength: float | None = default("strength")
    num_inference_steps: int | None = default("num_inference_steps")
    exact_steps: bool = default("exact_steps")
    scheduler: str = default("scheduler")
    fast: bool = default("fast")
    timestep_spacing: Spacing | None = default("timestep_spacing")
    guidance_scale: float | None = default("guidance_scale")
    guidance_rescale: float = default("guidance_rescale")
    guidance_interval: Pair = default("guidance_interval")
    seed: int | None = default("seed")
    noise: Noise = default("noise")
    variation_seed: int | None = default("variation_seed")
    variation_strength: float = default("variation_strength")
    mask: Source | None = default("mask")
    mask_blur: int = default("mask_blur")
    mask_invert: bool = default("mask_invert")
    loras: Mapping[str, float] = field(default_factory=lambda: dict(default("loras")))
    width: int | None = default("width")
    height: int | None = default("height")
    resize_mode: ResizeMode = default("resize_mode")
    original_size: Size | None = default("original_size")
    crops_coords_top_left: Size = default("crops_coords_top_left")
    target_size: Size | None = default("target_size")
    negative_original_size: Size | None = default("negative_original_size")
    negative_crops_coords_top_left: Size | None = default("negative_crops_coords_top_left")
    negative_target_size: Size | None = default("negative_target_size")

    def __post_init__(self):
        for name in PICTURES:
            object.__setattr__(self, name, sources.receive(getattr(self, name)))
        for name in SEEDS:
            if isinstance(seed := getattr(self, name), Real) and seed == DRAWN:
                object.__setattr__(self, name, None)

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal; pictures are compared by `sources.same`."""
        if not isinstance(other, Request):
            return NotImplemented
        return all(
            sources.same(mine, theirs) if name in PICTURES else mine == theirs
            for name, mine, theirs in ((name, value, getattr(other, name)) for name, value in self._settings().items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The fields that are not at their defaults; pictures by their kind and size, long text by its beginning."""
        values = self._settings().items()
        shown = {
            name: sources.show(value) if name in PICTURES else _short(value)
            for name, value in values
            if (value is not None if name in PICTURES else name == "prompt" or value != default(name))
        }
        return f"Request({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON. Pictures are paths, or data URIs in base64; see `images.sources`."""
        plain = {name: settings.plain(value) for name, value in self._settings().items() if name not in PICTURES}
        return {name: sources.to_json(getattr(self, name)) for name in PICTURES} | plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Request":
        """Inverse of `to_dict`, for bytes and paths; arrays and Pillow images come back as the bytes of a PNG.

        Raises RequestError for names that are unknown or missing, ImageError for a damaged data URI.
        """
        if not isinstance(data, Mapping):
            raise RequestError(f"a request must be an object with its settings, got {type(data).__name__}")
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        fields |= {name: sources.from_json(data[name]) for name in PICTURES if name in data}
        return cls(**fields)

    def resolve(self, config: ModelConfig) -> "Request":
        """This request with every default filled in and every value checked; no picture is read.

        `fast` becomes the settings that it stands for; of the image the size is read, where "fit" needs it.
        Raises RequestError with one sentence, ImageError for that image. A resolved request resolves to itself.
        """
        if settings.SETTINGS["fast"].check(self.fast):
            return self._in_few_steps().resolve(config)
        defaults = dataclasses.asdict(config.defaults) | dict(timestep_spacing=config.schedule.timestep_spacing)
        if self.seed is None:
            defaults["seed"] = draw_seed()
        if self.image is None:
            if self.mask is not None:
                raise RequestError("mask needs an image that it is laid over: give the image too")
            defaults["strength"] = 1.0
        elif self.resize_mode == "fit" and isinstance(self.image, Source):
            defaults |= images.sides(self.image, self.width, self.height, config)
        filled = self._settings() | {name: value for name, value in defaults.items() if getattr(self, name) is None}
        checked = {row.name: row.check(filled[row.name]) for row in settings.of("request")}
        request = dataclasses.replace(self, **checked)
        if self.image is None and request.strength != 1:
            raise RequestError(f"strength must be 1 without an image, as nothing is kept, got {request.strength:g}")
        images.check_size(request.width, request.height, config)
        request._check_interval()
        request = dataclasses.replace(request, variation_seed=request._variation(), **request._sizes())
        if request.clip_skip > config.max_clip_skip:
            raise RequestError(
                f"clip_skip must be at most {config.max_clip_skip} with this model, got {request.clip_skip}"
            )
        try:
            request.table(config)
            for name in PROMPTS if request.prompt_weights else ():
                parse(getattr(request, name) or "")
        except ValueError as error:
            raise RequestError(str(error)) from None
        return request._resolved_for(config)

    def is_resolved(self, config: ModelConfig) -> bool:
        """Whether `resolve` made it, or `repeat` of what it made, for a model of this config."""
        return vars(self).get(_CONFIG) == config

    def _resolved_for(self, config: ModelConfig | None) -> "Request":
        object.__setattr__(self, _CONFIG, config)  # no field: a changed copy is not resolved
        return self

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != _CONFIG}

    def _in_few_steps(self) -> "Request":
        """The settings of latent consistency (Luo et al., 2310.04378), where nothing else was asked for."""
        sampler = FEW_STEPS["scheduler"]
        if self.scheduler not in (default("scheduler"), sampler):
            raise RequestError(f"scheduler must be {sampler} with fast, got {self.scheduler!r}: leave one out")
        return dataclasses.replace(
            self,
            fast=False,
            **FEW_STEPS | {name: value for name in _OWN if (value := getattr(self, name)) is not None},
            loras={FAST: 1.0} | settings.SETTINGS["loras"].check(self.loras),
        )

    def table(self, config: ModelConfig) -> Table:
        """What the sampler does for this request, which is resolved."""
        steps, spacing = self.num_inference_steps, self.timestep_spacing
        from_noise = self.image is None
        return build(self.scheduler, config.schedule, steps, self.strength, self.exact_steps, spacing, from_noise)

    @property
    def guided(self) -> bool:
        """Whether a resolved request uses guidance in any step."""
        return self.guidance_scale > 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about settings of a resolved request that were given, and have no effect with the others."""
        notes = []
        if self.mask is None and self.mask_blur:
            notes.append("mask_blur has no effect without a mask")
        if self.mask is None and self.mask_invert:
            notes.append("mask_invert has no effect without a mask")
        if self.variation_seed is not None and not self.variation_strength:
            notes.append("variation_seed has no effect at variation_strength 0")
        if not self.guided:
            notes += [f"{name} has no effect at guidance_scale 1" for name in _NEEDS_GUIDANCE if self._has(name)]
        if self.noise == "torch" and self.seed > TORCH_SEED:
            notes.append(f"torch's noise reads 32 bits of a seed: {self.seed} is {self.seed & TORCH_SEED} to it")
        return tuple(notes)

    def _has(self, name: str) -> bool:
        """Whether a resolved request has another value than it would without the setting."""
        value = getattr(self, name)
        if name.removeprefix("negative_") in _SIZES:
            return value != getattr(self, name.removeprefix("negative_"))
        return bool(value) and value != default(name)

    def _check_interval(self) -> None:
        begin, end = self.guidance_interval
        if not begin < end:
            raise RequestError(
                f"guidance_interval must end after it begins, got {self.guidance_interval}; guidance_scale 1 is off"
            )

    def _variation(self) -> int | None:
        """The variation's seed, drawn where one is needed and none is given."""
        if self.variation_seed is None and self.variation_strength:
            return draw_seed()
        return self.variation_seed

    def _sizes(self) -> dict[str, Size]:
        """The sizes that the model is told: by default the size made, and for the negative prompt the same."""
        sizes = {}
        for name in _SIZES:
            value = getattr(self, name)
            negative = getattr(self, f"negative_{name}")
            sizes[name] = (self.height, self.width) if value is None else value
            sizes[f"negative_{name}"] = sizes[name] if negative is None else negative
        return sizes


def _short(value: Any) -> str:
    return f"{value[:80]!r}…" if isinstance(value, str) and len(value) > 80 else repr(value)


def draw_seed() -> int:
    """A fresh seed from the operating system, below 2**32.

    It is small because `torch` reads no more bits, and because JSON clients hold integers exactly only below 2**53.
    """
    return secrets.randbits(32)


def repeat(request: Request, count: int) -> list[Request]:
    """`count` copies of a resolved request with successive seeds, from its own.

    With a variation it is the variation's seed that counts up, as in A1111.
    """
    count = settings.SETTINGS["num_images"].check(count)
    name = "variation_seed" if request.variation_strength else "seed"
    first = getattr(request, name)
    copies = (dataclasses.replace(request, **{name: (first + i) % 2**64}) for i in range(count))
    return [copy._resolved_for(vars(request).get(_CONFIG)) for copy in copies]

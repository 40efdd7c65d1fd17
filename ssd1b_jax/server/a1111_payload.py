"""What A1111's clients send for pictures, as settings of ours."""

from dataclasses import dataclass
from typing import Any

import msgspec

from ssd1b_jax.errors import RequestError
from ssd1b_jax.prompts.notations import take_loras
from ssd1b_jax.server import fields, masks, pictures
from ssd1b_jax.server.bodies import BodyError
from ssd1b_jax.server.fields import Fields
from ssd1b_jax.server.inpainting import MAX_BLUR, Region, region
from ssd1b_jax.server.options import MAX_SIDE
from ssd1b_jax.server.pictures import Sizing
from ssd1b_jax.server.service import Service
from ssd1b_jax.settings import named

RESIZE_MODES = ("stretch", "crop", "pad", "stretch")  # by A1111's numbers; 3 stretches latents there
KARRAS, NO_SCHEDULES = "karras", ("", "automatic", "uniform", "normal")
DEFAULT_SAMPLER = "Euler a"
PASSED = ("negative_prompt", "steps", "cfg_scale", "seed", "subseed", "subseed_strength")
WITHOUT_EFFECT = ("enable_hr", "restore_faces", "tiling")
# Of override_settings; all others have no effect here.
OVERRIDES = {
    "CLIP_stop_at_last_layers": "clip_skip",
    "samples_format": "format",
    "jpeg_quality": "quality",
    "enable_pnginfo": "metadata",
    "randn_source": "noise",
    "img2img_fix_steps": "exact_steps",
}
WORDS = {"samples_format": {"jpg": "jpeg"}, "randn_source": {"GPU": "jax", "CPU": "torch", "NV": "nv"}}
CHECKPOINT = "sd_model_checkpoint"
KNOWN = {**named("a1111"), "loras": "loras", **{name.lower(): setting for name, setting in OVERRIDES.items()}}


class TextToImage(msgspec.Struct):
    """The fields of txt2img that have an effect here, or none though they should; all others are ignored."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = -1
    subseed: int | None = -1
    subseed_strength: float | None = 0.0
    batch_size: int = 1
    n_iter: int = 1
    steps: int | None = 50
    cfg_scale: float | None = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    override_settings: dict[str, Any] | None = None
    send_images: bool = True
    enable_hr: bool | None = False
    restore_faces: bool | None = False
    tiling: bool | None = False


class ImageToImage(TextToImage):
    """The same of img2img."""

    init_images: list[str] = []
    mask: str | None = None
    mask_blur: float = 4
    inpainting_mask_invert: int = 0
    inpaint_full_res: bool | int = False
    inpaint_full_res_padding: int | None = 0
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
    include_init_images: bool = False


@dataclass(frozen=True)
class Asked:
    """What a payload asks for; `notes` are sentences about what of it has no effect."""

    fields: Fields
    sizing: Sizing
    notes: tuple[str, ...]


async def read(service: Service, payload: TextToImage) -> Asked:
    """Raises BodyError or FieldError."""
    for name in ("batch_size", "n_iter"):
        if getattr(payload, name) < 1:
            raise BodyError(f"{name} must be at least 1, got {getattr(payload, name)}", field=name)
    try:
        prompt, loras = take_loras(payload.prompt)
    except RequestError as error:
        raise BodyError(error.sentence, field="prompt") from None
    sent = {name: getattr(payload, name) for name in PASSED}
    sent |= dict(
        prompt=prompt,
        sampler_name=_sampler(payload),
        batch_size=payload.batch_size * payload.n_iter,
        loras=loras,
    )
    if not payload.subseed_strength:
        del sent["subseed"]
    notes = [f"{name} has no effect here" for name in WITHOUT_EFFECT if getattr(payload, name)]
    sent |= _overrides(payload.override_settings or {}, service.model_names, notes)
    sizing = service.nearest_size(*_size(payload))
    needed = fields.FROM_TEXT
    if isinstance(payload, ImageToImage):
        needed = fields.NEEDED
        sizing = await _add_pictures(service, payload, sizing, sent)
    return Asked(fields.read(sent, KNOWN, needed), sizing, tuple(notes))


async def _add_pictures(service: Service, payload: ImageToImage, sizing: Sizing, sent: dict[str, Any]) -> Sizing:
    """Put the image and the mask into what is sent; how large the picture is made then."""
    if len(payload.init_images) != 1:
        raise BodyError(f"init_images must be one picture, got {len(payload.init_images)}", field="init_images")
    if not 0 <= payload.resize_mode < len(RESIZE_MODES):
        raise BodyError(f"resize_mode must be from 0 to 3, got {payload.resize_mode}", field="resize_mode")
    sent["denoising_strength"] = payload.denoising_strength
    sent["resize_mode"] = RESIZE_MODES[payload.resize_mode]
    image = sent["init_images"] = await service.picture(payload.init_images[0], "init_images")
    if not payload.mask:
        return sizing
    mask = await service.mask(await service.picture(payload.mask, "mask"), "mask", masks.of_a1111)
    invert, blur = bool(payload.inpainting_mask_invert), round(payload.mask_blur)
    if payload.inpaint_full_res:
        padding = payload.inpaint_full_res_padding or 0
        for name, value, most in (("inpaint_full_res_padding", padding, MAX_SIDE), ("mask_blur", blur, MAX_BLUR)):
            if not 0 <= value <= most:
                raise BodyError(f"{name} must be from 0 to {most}, got {value}", field=name)
        part = await service.in_thread(lambda: _part(service, image, mask, invert, blur, padding, sizing))
        if part is not None:
            sent |= dict(init_images=part.image, mask=part.mask, resize_mode="stretch")
            height, width, _ = part.whole.shape
            return Sizing(sizing.computed, (width, height), part)
    sent |= dict(mask=mask, mask_blur=blur, inpainting_mask_invert=invert)
    return sizing


def _part(
    service: Service, image: bytes, mask: Any, invert: bool, blur: int, padding: int, sizing: Sizing
) -> Region | None:
    pictures.check_input(image, "init_images", service.options.limits)
    with pictures.naming("init_images"):
        return region(image, mask, invert, blur, padding, sizing.computed)


def _overrides(given: dict[str, Any], models: tuple[str, ...], notes: list[str]) -> dict[str, Any]:
    """Those of override_settings that are settings here; of the rest there are notes."""
    sent = {}
    for name, value in given.items():
        if name in OVERRIDES:
            sent[name] = WORDS[name].get(value, value) if name in WORDS and isinstance(value, str) else value
        elif name != CHECKPOINT:
            notes.append(f"override_settings: {name[:80]} has no effect here")
        elif value not in models:
            notes.append(f"override_settings: the model here is {models[0]}, whatever {CHECKPOINT} says")
    skip = sent.get("CLIP_stop_at_last_layers")
    if isinstance(skip, int):  # counts from the last layer there, from the last but one here
        sent["CLIP_stop_at_last_layers"] = max(skip - 2, 0)
    return sent


def _sampler(payload: TextToImage) -> str:
    """Sampler and schedule are two fields there, and one name here."""
    name = payload.sampler_name or payload.sampler_index or DEFAULT_SAMPLER
    schedule = (payload.scheduler or "").lower()
    if schedule in NO_SCHEDULES or name.lower().endswith(KARRAS):
        return name
    if schedule != KARRAS:
        raise BodyError(f"scheduler must be automatic or karras, got {schedule[:40]!r}", field="scheduler")
    return f"{name} Karras"


def _size(payload: TextToImage) -> tuple[int, int]:
    for name in ("width", "height"):
        value = getattr(payload, name)
        if not 1 <= value <= MAX_SIDE:
            raise BodyError(f"{name} must be from 1 to {MAX_SIDE}, got {value}", field=name)
    return payload.width, payload.height

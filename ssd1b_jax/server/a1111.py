"""AUTOMATIC1111's API below /sdapi/v1: pictures, progress, interruption. `a1111_lists` has the rest."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import images, samplers
from ssd1b_jax.images.metadata import PARAMETERS
from ssd1b_jax.records.a1111 import parameters
from ssd1b_jax.server import a1111_lists, answers, fields, masks
from ssd1b_jax.server.bodies import BodyError, decode_picture
from ssd1b_jax.server.fields import Fields
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.options import MAX_SIDE
from ssd1b_jax.server.pictures import Picture, check_input
from ssd1b_jax.server.service import Service
from ssd1b_jax.settings import named

PREFIXES = ("/sdapi", "/controlnet", "/config", "/user")
RESIZE_MODES = ("stretch", "crop", "pad", "stretch")  # by A1111's numbers; 3 stretches latents there
KARRAS, NO_SCHEDULES = "karras", ("", "automatic", "uniform")
DEFAULT_SAMPLER = "Euler a"
KNOWN = {**named("a1111"), "loras": "loras"}
PASSED = ("negative_prompt", "denoising_strength", "steps", "cfg_scale", "seed", "subseed", "subseed_strength")
_LORA = re.compile(r"<lora:([^:<>]{1,200})(?::([-+]?[0-9.]{1,10}))?(?::[^<>]{0,20})?>")


class Payload(msgspec.Struct):
    """The fields of img2img that have an effect here; all others are ignored."""

    prompt: str = ""
    negative_prompt: str = ""
    init_images: list[str] = []
    mask: str | None = None
    mask_blur: float = 4
    inpainting_mask_invert: int = 0
    inpaint_full_res: bool | int = False
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
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
    include_init_images: bool = False
    send_images: bool = True


class Upload(msgspec.Struct):
    """The body of png-info."""

    image: str


def error(status: int, sentence: str, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error in A1111's form, which webuiapi and Open WebUI show."""
    body = {"error": "HTTPException", "detail": sentence, "body": "", "errors": field or ""}
    return answers.as_json(body, status, headers)


def routes(service: Service) -> list[Route]:
    a1111 = A1111(service)
    base = "/sdapi/v1"
    return [
        Route(f"{base}/img2img", a1111.img2img, methods=["POST"]),
        Route(f"{base}/txt2img", a1111.txt2img, methods=["POST"]),
        Route(f"{base}/progress", a1111.progress),
        Route(f"{base}/interrupt", a1111.interrupt, methods=["POST"]),
        Route(f"{base}/skip", a1111.interrupt, methods=["POST"]),
        Route(f"{base}/png-info", a1111.png_info, methods=["POST"]),
        *a1111_lists.routes(service),
    ]


class A1111:
    """The routes, for one server. Progress and interruption are of the caller's newest job."""

    def __init__(self, service: Service):
        self._service = service
        self._jobs: dict[str, Job] = {}  # that run, by caller

    async def img2img(self, request: HTTPRequest) -> Response:
        payload = await self._service.bodies.read_json(request, Payload)
        asked = await self._read(payload)
        sizing = self._service.nearest_size(*_size(payload))
        job = await self._service.start(request, asked, sizing)
        caller = request.state.caller
        self._jobs[caller] = job
        try:
            pictures = await job.answer(request)
        finally:
            if self._jobs.get(caller) is job:
                del self._jobs[caller]
        echoed = msgspec.to_builtins(payload) | {"mask": None}
        if not payload.include_init_images:
            echoed["init_images"] = None
        body = {
            "images": [picture.file.base64 for picture in pictures] if payload.send_images else [],
            "parameters": echoed,
            "info": json.dumps(_info(pictures, payload, self._service.model)),
        }
        return answers.as_json(body, headers=answers.headers_of(pictures))

    async def txt2img(self, request: HTTPRequest) -> Response:
        raise BodyError("pictures are made from pictures here: send one to /sdapi/v1/img2img", status=404)

    async def progress(self, request: HTTPRequest) -> Response:
        job = self._jobs.get(request.state.caller)
        is_quick = request.query_params.get("skip_current_image", "false").lower() == "true"
        pixels = None if job is None or is_quick else job.preview
        preview = None if pixels is None else await self._service.preview(pixels, self._service.sizes[0])
        calls, done = (job.calls, job.calls_done) if job else (0, 0)
        state = {
            "skipped": False,
            "interrupted": False,
            "job": job.id if job else "",
            "job_count": job.count if job else 0,
            "job_no": len(job.pictures) if job else 0,
            "sampling_step": done,
            "sampling_steps": calls,
        }
        body = {
            "progress": done / calls if calls else 0.0,
            "eta_relative": job.expected_seconds if job else 0.0,
            "state": state,
            "current_image": preview.base64 if preview else None,
            "textinfo": None,
        }
        return answers.as_json(body)

    async def interrupt(self, request: HTTPRequest) -> Response:
        if job := self._jobs.get(request.state.caller):
            job.cancel()
        return answers.as_json(None)

    async def png_info(self, request: HTTPRequest) -> Response:
        upload = await self._service.bodies.read_json(request, Upload)
        data = decode_picture(upload.image, "image")
        check_input(data, "image", self._service.options.limits)
        text = await self._service.in_thread(lambda: images.read_text(data))
        return answers.as_json({"info": text.get(PARAMETERS, ""), "items": text, "parameters": {}})

    async def _read(self, payload: Payload) -> Fields:
        if len(payload.init_images) != 1:
            raise BodyError(f"init_images must be one picture, got {len(payload.init_images)}", field="init_images")
        if not 0 <= payload.resize_mode < len(RESIZE_MODES):
            raise BodyError(f"resize_mode must be from 0 to 3, got {payload.resize_mode}", field="resize_mode")
        for name in ("batch_size", "n_iter"):
            if getattr(payload, name) < 1:
                raise BodyError(f"{name} must be at least 1, got {getattr(payload, name)}", field=name)
        prompt, loras = take_loras(payload.prompt)
        sent = {name: getattr(payload, name) for name in PASSED}
        sent |= dict(
            init_images=payload.init_images[0],
            prompt=prompt,
            sampler_name=_sampler(payload),
            resize_mode=RESIZE_MODES[payload.resize_mode],
            batch_size=payload.batch_size * payload.n_iter,
            loras=loras,
        )
        if not payload.subseed_strength:
            del sent["subseed"]
        if payload.mask:
            data = decode_picture(payload.mask, "mask")
            sent["mask"] = await self._service.mask(data, "mask", masks.of_a1111)
            sent["mask_blur"] = round(payload.mask_blur)
            sent["inpainting_mask_invert"] = bool(payload.inpainting_mask_invert)
        return fields.read(sent, KNOWN)


def take_loras(prompt: str) -> tuple[str, dict[str, float]]:
    """The prompt without its `<lora:NAME:SCALE>`, and the scales by name; a scale that is left out is 1."""
    loras = {}
    for name, scale in _LORA.findall(prompt):
        try:
            loras[name] = float(scale or 1)
        except ValueError:
            sentence = f"prompt: the scale of lora {name!r} must be a number, got {scale!r}"
            raise BodyError(sentence, field="prompt") from None
    return (_LORA.sub("", prompt).strip() if loras else prompt), loras


def _sampler(payload: Payload) -> str:
    """Sampler and schedule are two fields there, and one name here."""
    name = payload.sampler_name or payload.sampler_index or DEFAULT_SAMPLER
    schedule = (payload.scheduler or "").lower()
    if schedule in NO_SCHEDULES or name.lower().endswith(KARRAS):
        return name
    if schedule != KARRAS:
        raise BodyError(f"scheduler must be automatic or karras, got {schedule[:40]!r}", field="scheduler")
    return f"{name} Karras"


def _size(payload: Payload) -> tuple[int, int]:
    for name in ("width", "height"):
        value = getattr(payload, name)
        if not 1 <= value <= MAX_SIDE:
            raise BodyError(f"{name} must be from 1 to {MAX_SIDE}, got {value}", field=name)
    return payload.width, payload.height


def _info(pictures: Sequence[Picture], payload: Payload, model: str) -> dict[str, Any]:
    """What clients parse out of `info`."""
    first, count = pictures[0].request, len(pictures)
    notes = dict.fromkeys(note for picture in pictures for note in picture.notes)
    if payload.mask and payload.inpaint_full_res:
        notes["inpaint_full_res has no effect here: the whole picture is made"] = None
    return {
        "prompt": payload.prompt,
        "all_prompts": [payload.prompt] * count,
        "negative_prompt": payload.negative_prompt,
        "all_negative_prompts": [payload.negative_prompt] * count,
        "seed": first["seed"],
        "all_seeds": [picture.seed for picture in pictures],
        "subseed": first["variation_seed"] or first["seed"],
        "all_subseeds": [picture.request["variation_seed"] or picture.seed for picture in pictures],
        "subseed_strength": first["variation_strength"],
        "width": payload.width,
        "height": payload.height,
        "sampler_name": samplers.row(first["scheduler"]).label,
        "cfg_scale": first["guidance_scale"],
        "steps": first["num_inference_steps"],
        "batch_size": count,
        "denoising_strength": first["strength"],
        "sd_model_name": model,
        "infotexts": [parameters(picture.record) for picture in pictures],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "index_of_first_image": 0,
        "notes": [*notes],
    }

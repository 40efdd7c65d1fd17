"""AUTOMATIC1111's API below /sdapi/v1: pictures, progress, interruption.

`a1111_payload` reads what clients send, `a1111_extras` enlarges, `a1111_lists` has what clients ask for at their start.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from ssd1b_jax import samplers
from ssd1b_jax.records.a1111 import parameters
from ssd1b_jax.server import a1111_extras, a1111_lists, answers
from ssd1b_jax.server.a1111_payload import ImageToImage, TextToImage, read
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.pictures import Picture
from ssd1b_jax.server.service import Service

PREFIXES = ("/sdapi", "/controlnet", "/config", "/user")


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
        *a1111_extras.routes(service),
        *a1111_lists.routes(service),
    ]


class A1111:
    """The routes, for one server. Progress and interruption are of the caller's newest job."""

    def __init__(self, service: Service):
        self._service = service
        self._jobs: dict[str, Job] = {}  # that run, by caller

    async def img2img(self, request: HTTPRequest) -> Response:
        return await self._make(request, await self._service.bodies.read_json(request, ImageToImage))

    async def txt2img(self, request: HTTPRequest) -> Response:
        return await self._make(request, await self._service.bodies.read_json(request, TextToImage))

    async def _make(self, request: HTTPRequest, payload: TextToImage) -> Response:
        asked = await read(self._service, payload)
        job = await self._service.start(request, asked.fields, asked.sizing)
        caller = request.state.caller
        self._jobs[caller] = job
        try:
            pictures = await job.answer(request)
        finally:
            if self._jobs.get(caller) is job:
                del self._jobs[caller]
        body = {
            "images": [picture.file.base64 for picture in pictures] if payload.send_images else [],
            "parameters": _echoed(payload),
            "info": json.dumps(_info(pictures, payload, asked.notes, self._service.model)),
        }
        return answers.as_json(body, headers=answers.headers_of(pictures))

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


def _echoed(payload: TextToImage) -> dict[str, Any]:
    """The payload as clients read it back, without its pictures unless they are asked for."""
    echoed = msgspec.to_builtins(payload)
    if isinstance(payload, ImageToImage):
        echoed["mask"] = None
        if not payload.include_init_images:
            echoed["init_images"] = None
    return echoed


def _info(pictures: Sequence[Picture], payload: TextToImage, notes: Sequence[str], model: str) -> dict[str, Any]:
    """What clients parse out of `info`."""
    first, count = pictures[0].request, len(pictures)
    notes = dict.fromkeys([*(note for picture in pictures for note in picture.notes), *notes])
    return {
        "prompt": payload.prompt,
        "all_prompts": [payload.prompt] * count,
        "negative_prompt": payload.negative_prompt,
        "all_negative_prompts": [payload.negative_prompt] * count,
        "seed": first["seed"],
        "all_seeds": [picture.seed for picture in pictures],
        "subseed": _subseed(pictures[0]),
        "all_subseeds": [_subseed(picture) for picture in pictures],
        "subseed_strength": first["variation_strength"],
        "width": pictures[0].size[0],
        "height": pictures[0].size[1],
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


def _subseed(picture: Picture) -> int:
    """The variation seed; the seed where there is none."""
    seed = picture.request["variation_seed"]
    return picture.seed if seed is None else seed

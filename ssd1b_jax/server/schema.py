"""The description of our own routes, as OpenAPI 3.1, from the setting rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssd1b_jax import __version__, settings
from ssd1b_jax.request import FAST
from ssd1b_jax.server.service import Service

VERSION = "3.1.0"
OWNERS = ("request", "call", "output")
NOT_HERE = ("sidecar", "overwrite")  # of files on a disk
REFUSED = {"description": "one sentence, and the field that it is about"}
ALWAYS = ("401", "403", "503")
READING = ("400", "408", "413", "415")  # a body
SUBMITTING = (*READING, "422", "429")
UNKNOWN = ("404",)
EVENTS = {
    "200": {"description": "progress and preview events, then one that is named by the state that the job ends in"}
}
PICTURE = {"200": {"description": "a picture's file, with its record", "content": {"image/*": {}}}}
REPLAYED = {"200": {"description": "whether the pixels are identical, and what else differs"}}
RECORDED = {"200": {"description": "the settings in the file, and the pictures that it embeds, in base64"}}
HERE = {"200": {"description": "the settings as JSON Schema, and what this server has: model, sizes, samplers, LoRAs"}}
JOB = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["waiting", "running", "done", "failed", "cancelled"]},
        "position": {"type": ["integer", "null"], "description": "pictures in front of it"},
        "expected_seconds": {"type": "number"},
        "calls_done": {"type": "integer", "description": "of the model"},
        "calls": {"type": "integer"},
        "error": {"type": ["string", "null"]},
        "field": {"type": ["string", "null"], "description": "what the error is about"},
        "pictures": {"type": "array", "items": {"type": "object"}},
    },
}


def taken() -> tuple[str, ...]:
    """The settings that our own routes take, by name."""
    return tuple(row.name for owner in OWNERS for row in settings.of(owner) if row.name not in NOT_HERE)


def describe(service: Service) -> dict[str, Any]:
    """The settings that our own routes take, as JSON Schema, with the model's defaults once it is loaded."""
    pipe = service.pipe
    described = settings.schema(pipe.config if pipe else None, owners=OWNERS)
    for name in (*NOT_HERE, *(["fast"] if pipe and FAST not in pipe.loras else [])):
        group = described["properties"].pop(name)["group"]
        described["groups"][group]["settings"].remove(name)
    described["required"] = ["prompt"]  # without an image a picture is made from text alone
    return described


def openapi(service: Service) -> dict[str, Any]:
    """Our own routes; the dialects are described by their owners."""
    described = describe(service)
    described["properties"]["priority"] = {"enum": ["interactive", "batch"], "default": "interactive"}
    by_id = [_in_path("id", "string")]
    by_index = [*by_id, _in_path("index", "integer")]
    job, taken = {"200": _body("Job")}, {"202": _body("Job")}
    one_file, files = _form("file"), _form("file", "image", "mask")
    return {
        "openapi": VERSION,
        "info": {"title": "ssd1b_jax", "version": __version__},
        "paths": {
            "/jobs": {"post": _operation("submit", taken, SUBMITTING, body=_body("Settings"))},
            "/jobs/{id}": {
                "get": _operation("show", job, UNKNOWN, by_id),
                "delete": _operation("cancel", job, UNKNOWN, by_id),
            },
            "/jobs/{id}/events": {"get": _operation("watch", EVENTS, UNKNOWN, by_id)},
            "/jobs/{id}/pictures/{index}": {"get": _operation("picture", PICTURE, UNKNOWN, by_index)},
            "/pictures": {"post": _operation("make", PICTURE, (*SUBMITTING, "504"), body=_body("Settings"))},
            "/replay": {"post": _operation("replay", REPLAYED, (*SUBMITTING, "504"), body=files)},
            "/records": {"post": _operation("records", RECORDED, READING, body=one_file)},
            "/settings": {"get": _operation("settings", HERE, ())},
        },
        "components": {"schemas": {"Settings": described, "Job": JOB}},
    }


def _operation(
    name: str,
    answers: Mapping[str, Any],
    refusals: Sequence[str],
    parameters: Sequence[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A method of a route: its answers by status, the statuses of its refusals, and what it takes."""
    operation = {"operationId": name, "responses": {**answers, **dict.fromkeys((*ALWAYS, *refusals), REFUSED)}}
    if parameters:
        operation["parameters"] = [*parameters]
    if body is not None:
        operation["requestBody"] = {"required": True, **body}
    return operation


def _in_path(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": kind}}


def _form(needed: str, *others: str) -> dict[str, Any]:
    """A form of files, the first of which must be there."""
    file = {"type": "string", "format": "binary"}
    schema = {"type": "object", "properties": dict.fromkeys((needed, *others), file), "required": [needed]}
    return {"content": {"multipart/form-data": {"schema": schema}}}


def _body(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": name.lower(), "content": {"application/json": {"schema": schema}}}

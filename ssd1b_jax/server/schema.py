"""The description of our own routes, as OpenAPI 3.1, from the setting rows."""

from typing import Any

from ssd1b_jax import __version__, settings
from ssd1b_jax.server.service import Service

VERSION = "3.1.0"
OWNERS = ("request", "call", "output")
NOT_HERE = ("sidecar", "overwrite")  # of files on a disk
REFUSED = {"description": "one sentence, and the field that it is about"}
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
    described = settings.schema(service.pipe.config if service.pipe else None, owners=OWNERS)
    for name in NOT_HERE:
        group = described["properties"].pop(name)["group"]
        described["groups"][group]["settings"].remove(name)
    described["required"] = ["prompt"]  # without an image a picture is made from text alone
    return described


def openapi(service: Service) -> dict[str, Any]:
    """Our own routes; the dialects are described by their owners."""
    described = describe(service)
    described["properties"]["priority"] = {"enum": ["interactive", "batch"], "default": "interactive"}
    by_id = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    one = {"parameters": by_id, "responses": {"200": _body("Job"), "404": REFUSED}}
    statuses = ("400", "408", "413", "415", "422", "429", "503")
    submit = {
        "operationId": "submit",
        "requestBody": {"required": True} | _body("Settings"),
        "responses": {"202": _body("Job")} | dict.fromkeys(statuses, REFUSED),
    }
    events = {"description": "progress and preview events, then one that is named by the state that the job ends in"}
    return {
        "openapi": VERSION,
        "info": {"title": "ssd1b_jax", "version": __version__},
        "paths": {
            "/jobs": {"post": submit},
            "/jobs/{id}": {"get": {"operationId": "show"} | one, "delete": {"operationId": "cancel"} | one},
            "/jobs/{id}/events": {"get": {"operationId": "watch", "parameters": by_id, "responses": {"200": events}}},
        },
        "components": {"schemas": {"Settings": described, "Job": JOB}},
    }


def _body(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": name.lower(), "content": {"application/json": {"schema": schema}}}

"""The settings as JSON Schema, for HTTP servers and pages."""

from collections.abc import Sequence
from typing import Any

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.settings.setting import GROUPS, Owner, Setting
from ssd1b_jax.settings.table import SETTINGS, plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(config: ModelConfig | None = None, *, owners: Sequence[Owner] = ("request",)) -> dict[str, Any]:
    """A JSON Schema (2020-12) of an object with the settings of these owners.

    With a model's config, defaults are the model's own. Each property has a `group`; `groups`, which is no
    keyword of JSON Schema, has the title, the description and the properties of each group in order.
    """
    rows = [row for row in SETTINGS.values() if row.of in owners]
    own = {} if config is None else _of_model(config)
    groups = {
        group: dict(title=title, description=description, settings=[row.name for row in rows if row.group == group])
        for group, (title, description) in GROUPS.items()
    }
    return {
        "$schema": DIALECT,
        "title": "Settings of a picture",
        "type": "object",
        "properties": {row.name: _property(row) | own.get(row.name, {}) for row in rows},
        "required": [row.name for row in rows if row.required],
        "additionalProperties": False,
        "groups": {name: group for name, group in groups.items() if group["settings"]},
    }


def _property(row: Setting) -> dict[str, Any]:
    described = {
        "title": row.name.replace("_", " ").capitalize(),
        "description": f"{row.words}; none: {row.absent}" if row.absent else row.words,
        "group": row.group,
    }
    if not row.required:
        described["default"] = plain(row.default)
    kind = row.kind.schema()
    if row.optional:
        kind["type"] = [kind["type"], "null"]
        if "enum" in kind:
            kind["enum"] = [*kind["enum"], None]
    return kind | described


def _of_model(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """What a model's config adds to the properties."""
    defaults = config.defaults
    names = ("strength", "num_inference_steps", "guidance_scale", "width", "height")
    own = {name: {"default": getattr(defaults, name)} for name in names}
    for side in ("width", "height"):
        own[side]["multipleOf"] = config.size_multiple
    own["timestep_spacing"] = {"default": config.schedule.timestep_spacing}
    own["clip_skip"] = {"maximum": config.max_clip_skip}
    return own

"""Calls of OpenAI's batches as lines of a manifest."""

from collections.abc import Mapping
from typing import Any

from ssd1b_jax import openai_batch

SPELLED = ("image_url",)  # a run has no files of a server, which have ids
LEFT_OUT = (*openai_batch.WITHOUT_EFFECT, *openai_batch.OF_ANSWERS)


def settings_of(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call, by the names that it has for them. Raises CallError."""
    call = openai_batch.read(sent)
    others, pictures = openai_batch.parts(call, SPELLED)
    body = {name: value for name, value in others.items() if name not in LEFT_OUT}
    size = openai_batch.size_of(body.pop("size", None))
    sides = {} if size is None else dict(zip(("width", "height"), size, strict=True))
    return {"id": call.custom_id, **body, **pictures, **sides}

"""The lines of an OpenAI batch: a call of the Images API each, as `custom_id`, `method`, `url` and `body`."""

from collections.abc import Mapping
from typing import Any

from ssd1b_jax.errors import RequestError
from ssd1b_jax.request import PICTURES

KEYS = {"custom_id", "method", "url", "body"}
URLS = ("/v1/images/edits", "/v1/images/generations")
WITHOUT_EFFECT = (
    "background", "input_fidelity", "model", "moderation", "partial_images", "quality", "response_format", "stream",
    "style", "user",
)  # fmt: skip


def is_batch_line(sent: Mapping[str, Any]) -> bool:
    """Whether an object is a call of OpenAI's."""
    return "custom_id" in sent and "body" in sent


def settings_of(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call, by the names that it has for them. Raises RequestError."""
    if unknown := sent.keys() - KEYS:
        raise RequestError(f"a line of an OpenAI batch has {', '.join(sorted(KEYS))}, got {min(unknown)!r} too")
    if sent.get("method", "POST") != "POST" or sent.get("url") not in URLS:
        asked = f"{sent.get('method')} {sent.get('url')}"
        raise RequestError(f"a line of an OpenAI batch must be a POST to {' or '.join(URLS)}, got {asked[:80]!r}")
    if not isinstance(sent["body"], Mapping):
        raise RequestError(f"body must be an object, got {type(sent['body']).__name__}")
    body = {name: value for name, value in sent["body"].items() if name not in WITHOUT_EFFECT}
    if "images" in body:
        body["image"] = _only(body.pop("images"))
    for name in PICTURES:
        if body.get(name) is not None:
            body[name] = _picture(name, body[name])
    if sent["url"].endswith("edits") and body.get("image") is None:
        raise RequestError("an edit needs an image: give a path or a data URL, or use /v1/images/generations")
    size = body.pop("size", "auto")
    if size != "auto":
        body["width"], body["height"] = _size(size)
    return {"id": sent["custom_id"], **body}


def _only(images: Any) -> Any:
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else "none"
        raise RequestError(f"a picture is made from one picture, got {count}: give images one entry")
    return images[0]


def _picture(name: str, given: Any) -> str:
    """The path or URL that a call gives for a picture."""
    picture = given.get("image_url") if isinstance(given, Mapping) else given
    if not isinstance(picture, str):
        told = f"an object with {', '.join(given) or 'nothing'}" if isinstance(given, Mapping) else type(given).__name__
        raise RequestError(f"{name} must be a path or a URL, alone or as image_url, got {told[:80]}")
    return picture


def _size(size: Any) -> tuple[int, int]:
    width, _, height = str(size).partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise RequestError(f"size must be auto or WIDTHxHEIGHT, got {str(size)[:40]!r}")
    return int(width), int(height)

"""The lines of an OpenAI batch: a call of the Images API each, as `custom_id`, `method`, `url` and `body`.

Runs read them from manifests, the server from files that were sent to it. What a picture's text means, a path, base64,
an address or the id of a file, is theirs to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssd1b_jax.errors import RequestError
from ssd1b_jax.request import PICTURES

KEYS = ("custom_id", "method", "url", "body")
EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"
URLS = (EDITS, GENERATIONS)
# Fields of the API that no picture depends on here; and those that say how a server answers.
WITHOUT_EFFECT = ("background", "input_fidelity", "model", "moderation", "quality", "style", "user")
OF_ANSWERS = ("partial_images", "response_format", "stream")
MAX_QUOTE = 80  # characters of a value that a sentence quotes
MAX_DIGITS = 5  # of a side


class CallError(RequestError):
    """A line that is no call, and the field that is at fault."""

    def __init__(self, sentence: str, field: str | None = None):
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True)
class Call:
    """A call: its id, which is the caller's own, where it goes, and what it says."""

    custom_id: str
    url: str
    body: Mapping[str, Any]


def is_call(sent: Mapping[str, Any]) -> bool:
    """Whether an object is meant as a call."""
    return "custom_id" in sent and "body" in sent


def read(sent: Mapping[str, Any], urls: tuple[str, ...] = URLS) -> Call:
    """The call of an object, which must go to one of these addresses. Raises CallError."""
    if unknown := sent.keys() - set(KEYS):
        name = min(unknown)
        raise CallError(f"a line of an OpenAI batch has {', '.join(sorted(KEYS))}, got {name!r} too", name)
    if not isinstance(id := sent.get("custom_id"), str):
        raise CallError(f"custom_id must be text, got {type(id).__name__}", "custom_id")
    if sent.get("method", "POST") != "POST" or sent.get("url") not in urls:
        asked = f"{sent.get('method', 'POST')} {sent.get('url')}"[:MAX_QUOTE]
        raise CallError(f"a line of an OpenAI batch must be a POST to {' or '.join(urls)}, got {asked!r}", "url")
    if not isinstance(body := sent.get("body"), Mapping):
        raise CallError(f"body must be an object, got {type(body).__name__}", "body")
    return Call(id, sent["url"], body)


def parts(call: Call, spelled: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """A call's body without its pictures, and the text of each picture by the name of its setting.

    A picture is text, or an object that has it under one of the names `spelled`. Raises CallError.
    """
    body = call.body
    given = {name: body[name] for name in PICTURES if body.get(name) is not None}
    if body.get("images") is not None:
        given["image"] = _only(body["images"])
    pictures = {name: _text(name, value, spelled) for name, value in given.items()}
    if call.url == EDITS and "image" not in pictures:
        raise CallError(f"an edit needs an image: give one, or use {GENERATIONS}", "image")
    if call.url == GENERATIONS and "image" in pictures:
        raise CallError(f"image: pictures are remade at {EDITS}", "image")
    others = {name: value for name, value in body.items() if name not in (*PICTURES, "images")}
    return others, pictures


def _only(images: Any) -> Any:
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else "none"
        raise CallError(f"a picture is made from one picture, got {count}: give images one entry", "images")
    return images[0]


def _text(name: str, given: Any, spelled: Sequence[str]) -> str:
    text = given
    if isinstance(given, Mapping):
        text = next((given[key] for key in spelled if given.get(key)), None)
    if not isinstance(text, str):
        told = f"an object with {', '.join(given) or 'nothing'}" if isinstance(given, Mapping) else type(given).__name__
        raise CallError(f"{name} must be text, alone or as {' or '.join(spelled)}, got {told[:MAX_QUOTE]}", name)
    return text


def size_of(size: Any) -> tuple[int, int] | None:
    """Width and height of "WIDTHxHEIGHT"; None of "auto". Raises CallError."""
    if size in (None, "", "auto"):
        return None
    sides = str(size).split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) <= MAX_DIGITS for side in sides):
        raise CallError(f"size must be auto or WIDTHxHEIGHT, got {str(size)[:MAX_QUOTE]!r}", "size")
    return int(sides[0]), int(sides[1])

"""The settings of a picture that comes back: from its record, or from the text that A1111 writes."""

import json
from collections.abc import Mapping
from typing import Any

from ssd1b_jax import images, settings
from ssd1b_jax.errors import RequestError
from ssd1b_jax.images.metadata import PARAMETERS
from ssd1b_jax.prompts.notations import take_loras
from ssd1b_jax.records import KEY, SOURCES, a1111
from ssd1b_jax.request import FAST, FEW_STEPS, SEEDS
from ssd1b_jax.server import schema
from ssd1b_jax.server.pictures import File, check_input, naming
from ssd1b_jax.server.service import Service


def read(service: Service, data: bytes) -> dict[str, Any]:
    """The settings in a picture's file by their names, and the pictures that it embeds, in base64.

    `source` is "ssd1b_jax", "a1111" or None, where the file has no settings. Seeds are text. Settings that this server
    can't use are left out, each with a note. Raises FieldError for what is no picture.
    """
    check_input(data, "file", service.options.limits)
    with naming("file"):
        text = images.read_text(data)
        attached = images.read_attached(data) if KEY in text else {}
    source, written = _settings(text)
    kept, notes = _usable(service, written)
    pictures = {name: attached[chunk] for name, chunk in SOURCES.items() if chunk in attached}
    encoded = {name: File(picture, "").base64 for name, picture in pictures.items()}
    return {"source": source, "settings": kept, "pictures": encoded, "notes": notes}


def _settings(text: Mapping[str, str]) -> tuple[str | None, dict[str, Any]]:
    """Where a file's settings come from, and all that it has."""
    try:
        request = json.loads(text[KEY])["request"]
        return "ssd1b_jax", dict(request)
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    written = a1111.settings_of(text.get(PARAMETERS, ""))
    if not written:
        return None, {}
    try:
        prompt, loras = take_loras(written["prompt"])
    except RequestError:
        return "a1111", written
    return "a1111", written | ({"prompt": prompt, "loras": loras} if loras else {})


def _usable(service: Service, written: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings that this server takes, checked, and a note for each that it does not."""
    kept: dict[str, Any] = {}
    notes = []
    for name, value in written.items():
        if name in SOURCES or value is None or name not in schema.taken():
            continue
        try:
            checked = settings.plain(settings.SETTINGS[name].check(value))
        except RequestError as error:
            notes.append(str(error))
            continue
        kept[name] = str(checked) if name in SEEDS else checked
    notes += _without_foreign_size(service, kept) + _without_foreign_loras(service, kept)
    return _as_fast(kept), notes


def _as_fast(kept: dict[str, Any]) -> dict[str, Any]:
    """The settings that `fast` stands for, by that name: where it was asked for, it is what comes back."""
    loras = dict(kept.get("loras", {}))
    if kept.get("scheduler") != FEW_STEPS["scheduler"] or loras.pop(FAST, None) != 1:
        return kept
    others = {name: value for name, value in kept.items() if FEW_STEPS.get(name) != value and name != "loras"}
    return others | dict(fast=True) | (dict(loras=loras) if loras else {})


def _without_foreign_size(service: Service, kept: dict[str, Any]) -> list[str]:
    size = kept.get("width"), kept.get("height")
    if None in size or service.options.any_size or size in service.sizes:
        return []
    del kept["width"], kept["height"]
    return [f"its size, {size[0]}x{size[1]}, is not among this server's"]


def _without_foreign_loras(service: Service, kept: dict[str, Any]) -> list[str]:
    known = service.pipe.loras if service.pipe else {}
    missing = [name for name in kept.get("loras", {}) if name not in known]
    for name in missing:
        del kept["loras"][name]
    return [f"the server has no LoRA named {name}" for name in missing]

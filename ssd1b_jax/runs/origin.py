"""run.json: what makes a run. The same again goes on with it; anything else is refused, with what differs."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from ssd1b_jax import settings
from ssd1b_jax.errors import RunError
from ssd1b_jax.records import PACKAGES
from ssd1b_jax.runs.items import OUTPUT, Defaults
from ssd1b_jax.runs.manifest import Manifest
from ssd1b_jax.runs.place import Place

NAME = "run.json"
FORMAT = 1
MAX_TOLD = 5  # differences in one sentence

Origin = dict[str, Any]


def describe(manifest: Manifest, defaults: Defaults, model: Mapping[str, Any], loras: Mapping[str, str]) -> Origin:
    """All that the pictures of a run depend on but the devices. `loras` are digests of files by their names."""
    wildcards = dict(wildcards=f"{defaults.templates.sha256} {version('dynamicprompts')}") if defaults.templates else {}
    output = {name: getattr(defaults.output, name) for name in OUTPUT if name != "overwrite"}
    return dict(
        format=FORMAT,
        manifest=dict(name=manifest.path.name, sha256=manifest.sha256),
        settings=settings.plain({**defaults.request, "num_images": defaults.count, **wildcards}),
        output=output,
        model=dict(model),
        loras=dict(loras),
        versions={name: version(name) for name in PACKAGES},
    )


def read(folder: Place) -> Origin | None:
    """What makes the run in a folder, None where there is none. Raises RunError."""
    data = folder.read(NAME)
    if data is None:
        return None
    path = f"{folder.root}/{NAME}"
    try:
        origin = json.loads(data)
        if origin["format"] != FORMAT:
            raise RunError(
                f"{path} has format {origin['format']!r}, this version reads {FORMAT}: choose another folder"
            )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RunError(f"{path} does not describe a run: choose another folder, or remove that file") from None
    return origin


def dump(origin: Origin) -> bytes:
    return (json.dumps(origin, indent=1) + "\n").encode()


def check(then: Origin, now: Origin, folder: Place) -> None:
    """Raise RunError with what differs."""
    differences = [*_differences(then, now)]
    if differences:
        told = "; ".join(differences[:MAX_TOLD])
        more = f"; and {len(differences) - MAX_TOLD} more" if len(differences) > MAX_TOLD else ""
        raise RunError(
            f"{folder.root} has another run: {told}{more}: choose another folder, --add to keep its pictures and make "
            "what is missing, or --restart to remove them and begin anew"
        )


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], outer: str = "") -> Iterator[str]:
    for name in dict.fromkeys((*then, *now)):
        old, new = then.get(name), now.get(name)
        if old == new or (outer, name) == ("manifest", "name") or (outer, name) == ("model", "name"):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, name)
        else:
            yield f"{f'{outer} {name}'.removeprefix('settings ').strip()} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = str(value)
    return f"{text[:10]}…" if len(text) == 64 else text[:60]

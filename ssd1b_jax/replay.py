"""A picture made again from what its file says, and held against it."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssd1b_jax import images, records
from ssd1b_jax.checkpoints import lora_file
from ssd1b_jax.checkpoints.model_json import read_manifest
from ssd1b_jax.errors import ModelError, RecordError
from ssd1b_jax.pipeline import Pipeline, Progress
from ssd1b_jax.records import SOURCES
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What it takes to make a file's picture again, found and checked; `picture` is None where it is lost.

    `embedded` says that the input came from the file itself, `notes` are sentences for the user. `edited` says that the
    picture is not as it was written, None where that can't be told: JPEG and WebP don't keep pixels, and only a sidecar
    knows their files.
    """

    path: Path
    picture: Path | None
    record: records.Record
    request: Request
    model: str
    loras: Mapping[str, Path]
    embedded: bool
    edited: bool | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A picture made again.

    `identical` says that all pixels are those recorded, and that the file is not known to have others. Where they are
    not, `differences` are phrases about what else is not as recorded, and `worst` and `mean` measure 8-bit values
    against the file, if that is a PNG as it was written. `edited` is the recipe's.
    """

    result: Result
    identical: bool
    edited: bool | None
    differences: tuple[str, ...]
    worst: int | None
    mean: float | None


def read(
    path: str | Path,
    *,
    model: str | Path | None = None,
    image: str | Path | None = None,
    mask: str | Path | None = None,
    loras: Mapping[str, str | Path] | None = None,
) -> Recipe:
    """Read a picture or its sidecar, and find what it was made from; no weights are read.

    The input is the one embedded, or else lies where its name says, seen from the file or from
    here; so do the model, and the LoRAs, which may be in the model's folder too. What is given is
    taken instead. All must have the sha256 recorded; only a model that is given may be another,
    with a note. Raises RecordError, ImageError, ModelError, WeightsError or RequestError.
    """
    path = Path(path)
    record = records.read(path)
    is_sidecar = path.suffix.lower() == ".json"
    picture = path.parent / record["written"]["name"] if is_sidecar else path
    picture = picture if picture.is_file() else None
    model, folder, config, notes = _model(record, path, model)
    # What is embedded belongs together: a mask was laid over its image.
    embedded = records.embedded(picture) if picture and image is mask is None else {}
    recorded = {source: entry for source in SOURCES if (entry := record["request"].get(source))}
    given = dict(image=image, mask=mask)
    sources = {
        source: embedded.get(source) or _locate(path, source, entry, given[source], _picture_sha256)
        for source, entry in recorded.items()
    }
    files = {
        name: _locate(path, f"LoRA {name}", entry, (loras or {}).get(name), _lora_sha256, folder)
        for name, entry in record["loras"].items()
    }
    held = records.holds(record, picture) if picture else None
    return Recipe(
        path=path,
        picture=picture,
        record=record,
        request=_request(path, record["request"], sources).resolve(config),
        model=model,
        loras=files,
        embedded=any(isinstance(source, bytes) for source in sources.values()),
        edited=None if held is None else not held,
        notes=notes,
    )


def run(recipe: Recipe, *, on_progress: Callable[[Progress], None] | None = None) -> Replay:
    """Make the picture again, in the dtype and in the row of the per-device batch recorded, and compare."""
    record = recipe.record
    options = dict(dtype=record["dtype"]["unet"], per_device=record["per_device"], loras=recipe.loras)
    options |= dict(lora_partial=any(said.get("partial") is True for said in record["loras"].values()))
    pipe = Pipeline.from_pretrained(recipe.model, **options, requests=[recipe.request])
    result = pipe.remake(recipe.request, row=record.get("row", 0), on_progress=on_progress)
    now = result.record
    identical = now["pixels"]["sha256"] == record["pixels"]["sha256"] and not recipe.edited
    apart, upscale = None, record["written"]["upscale"]
    if recipe.edited is False and recipe.picture.suffix.lower() == ".png":
        pixels = images.load(recipe.picture).pixels
        if pixels.shape == tuple(side * upscale for side in result.pixels.shape[:2]) + (3,):
            apart = np.abs(images.upscale(result.pixels, upscale).astype(np.int16) - pixels)
    return Replay(
        result=result,
        identical=identical,
        edited=recipe.edited,
        differences=differences(record, now),
        worst=None if apart is None else int(apart.max()),
        mean=None if apart is None else float(apart.mean()),
    )


def differences(then: records.Record, now: records.Record) -> tuple[str, ...]:
    """A phrase for each thing that was recorded and is not so now.

    Inputs are left out: they were checked when the recipe was read, and one that was embedded is another file of the
    same picture.
    """
    inputs = {name: value for name, value in then["request"].items() if name in SOURCES}
    return tuple(records.differences(then, {**now, "request": now["request"] | inputs}))


def _model(record: Mapping[str, Any], path: Path, given: str | Path | None):
    """Name, folder and config of the model, and notes."""
    asked = record["model"]["name"]
    sibling = path.parent / asked
    name = str(given or (sibling if (sibling / "model.json").is_file() else asked))
    try:
        manifest = read_manifest(name)
    except ModelError as error:
        if given:
            raise
        raise RecordError(f"{path}: its model {asked!r} is not to be had: give another as model ({error})") from error
    if manifest.sha256 == record["model"]["sha256"]:
        return name, manifest.folder, manifest.config, ()
    words = f"{record['model']['sha256'][:10]}… made the picture, {name} is {manifest.sha256[:10]}…"
    if given is None:
        raise RecordError(f"{path}: its model has changed (sha256 {words}): give the one it was as model")
    return name, manifest.folder, manifest.config, (f"another model (sha256 {words})",)


def _locate(
    path: Path,
    what: str,
    entry: Mapping[str, Any],
    given: str | Path | None,
    sha256: Callable[[Path], tuple[str, ...]],
    *folders: Path,
) -> Path:
    """The file that a record means, given or where its name says; `sha256` tells those that it goes by.

    That is seen from the record's file, from here, and from the other folders.
    """
    if given is not None:
        if entry["sha256"] not in sha256(Path(given)):
            raise RecordError(f"{given} is not the {what} of {path}: its sha256 is not {entry['sha256'][:10]}…")
        return Path(given)
    setting = what.partition(" ")[0].lower()
    if entry["name"] is None:
        raise RecordError(f"{path}: its {what} was no file: save it as a PNG and give it as {setting}")
    name = entry["name"]
    possible = (path.parent / name, Path(name), *(folder / name for folder in folders))
    places = [place for place in possible if place.exists()]
    for place in places:
        if entry["sha256"] in sha256(place):
            return place
    fault = f"has changed ({places[0]})" if places else f"is neither beside it nor at {entry['name']!r}"
    raise RecordError(f"{path}: its {what} {fault}: give it as {setting}")


def _picture_sha256(path: Path) -> tuple[str, ...]:
    loaded = images.load(path)
    return loaded.sha256, images.sha256(loaded.pixels)


def _lora_sha256(path: Path) -> tuple[str, ...]:
    with lora_file.find(path).open("rb") as file:
        return (hashlib.file_digest(file, "sha256").hexdigest(),)


def _request(path: Path, fields: Mapping[str, Any], sources: Mapping[str, Path | bytes]) -> Request:
    known = {field.name for field in dataclasses.fields(Request)}
    if unknown := sorted(fields.keys() - known):
        raise RecordError(f"{path}: has settings that this version does not know: {', '.join(unknown)}")
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Request(**{**settings, **sources})

"""A picture that someone sends, made again: what it was made from must come with it.

A record names files. None of them is looked up on the server's disk: inputs come in the picture's file or beside it,
the model and the LoRAs are the server's own.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd1b_jax import records
from ssd1b_jax.errors import Error
from ssd1b_jax.request import PICTURES
from ssd1b_jax.server.bodies import BodyError
from ssd1b_jax.server.fields import FROM_TEXT, Fields
from ssd1b_jax.server.pictures import Picture, check_input
from ssd1b_jax.server.service import Service

if TYPE_CHECKING:
    from ssd1b_jax.replay import Recipe  # imports JAX


def read(service: Service, file: bytes, image: bytes | None = None, mask: bytes | None = None) -> "Recipe":
    """What it takes to make a picture again. Raises BodyError, FieldError or RecordError."""
    from ssd1b_jax import replay

    given = {name: data for name, data in dict(image=image, mask=mask).items() if data is not None}
    for name, data in (("file", file), *given.items()):
        check_input(data, name, service.options.limits)
    pipe = service.loaded()
    loras = pipe.loras
    with tempfile.TemporaryDirectory(prefix="ssd1b-replay-") as folder:
        paths = {name: _write(folder, name, data) for name, data in given.items()}
        path = _write(folder, "file", file)
        try:
            record = records.read(path)
            _check_inputs(record, given or records.embedded(path))
            if missing := sorted(record["loras"].keys() - loras.keys()):
                raise BodyError(
                    f"the server has no LoRA named {', '.join(missing)}: start it with --lora", field="file"
                )
            used = {name: loras[name] for name in record["loras"]}
            recipe = replay.read(path, model=pipe.manifest.folder, loras=used, **paths)
        except BodyError:
            raise
        except Error as error:
            raise BodyError(error.sentence.replace(f"{folder}/", ""), field="file") from None
    request = dataclasses.replace(recipe.request, **given)  # the folder is gone
    return dataclasses.replace(recipe, request=request)


def fields_of(recipe: "Recipe") -> Fields:
    """The settings of a recipe, with the bytes of its pictures."""
    names = [field.name for field in dataclasses.fields(recipe.request)]
    settings = {name: value for name in names if (value := getattr(recipe.request, name)) is not None}
    return Fields(settings=settings, needed=FROM_TEXT)


def compare(recipe: "Recipe", picture: Picture) -> dict[str, Any]:
    """Whether the picture is the same to the bit, and what else is not as recorded.

    `edited` says that the file has other pixels than those recorded, None where that can't be told.
    """
    from ssd1b_jax import replay

    then, now = recipe.record, picture.record
    return {
        "identical": now["pixels"]["sha256"] == then["pixels"]["sha256"] and not recipe.edited,
        "edited": recipe.edited,
        "differences": replay.differences(then, now),
        "notes": [*recipe.notes, *picture.notes],
        "seconds": round(picture.seconds, 3),
    }


def _check_inputs(record: records.Record, there: dict[str, bytes]) -> None:
    """Raise BodyError where an input is neither in the file nor sent."""
    for name in PICTURES:
        if record["request"].get(name) and name not in there:
            raise BodyError(f"the {name} that it was made from is not in the file: send it as {name}", field=name)


def _write(folder: str, name: str, data: bytes) -> Path:
    path = Path(folder, f"{name}.png")
    path.write_bytes(data)
    return path

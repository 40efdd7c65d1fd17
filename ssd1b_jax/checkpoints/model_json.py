"""A model folder's `model.json`: what the folder holds, read without JAX, for programs that only plan work."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.errors import ConfigError, ModelError
from ssd1b_jax.settings import DTYPES, nearest

FORMAT = 1
EMBEDDED = {"emoji": Path(__file__).parents[1] / "embedded" / "emoji"}
FEW_STEPS = "fast.safetensors"
AGAIN = "copy or convert the model again"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `model.json`. `files` maps paths below `folder` to their size and sha256.

    `name` is the name or path that the model was asked for by. Folders of equal `sha256` are the same model.
    """

    name: str
    folder: Path
    config: ModelConfig
    dtype: str
    source: str
    revision: str | None
    licence: str
    files: dict[str, dict[str, Any]]
    sha256: str

    @property
    def few_steps(self) -> Path | None:
        """The LoRA for few steps that the folder holds beside its parts, if it does."""
        file = self.folder / FEW_STEPS
        return file if file.is_file() else None


def check_dtype(dtype: str, kind: type[ValueError] = ModelError) -> None:
    """Raise `kind` for a dtype that weights can't be stored or computed in."""
    if dtype not in DTYPES:
        raise kind(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")


def read_manifest(model: str | Path) -> Manifest:
    """The manifest of a model folder, or of the embedded model of that name. Weights are not read."""
    folder = EMBEDDED.get(str(model), Path(model)).absolute()
    path = folder / "model.json"
    if not path.exists():
        if (folder / "model_index.json").exists():
            raise ModelError(f"{folder} is a diffusers folder: run ssd1b convert {model} TARGET, and use TARGET")
        names = " or ".join(repr(name) for name in EMBEDDED)
        near = nearest(str(model), EMBEDDED)
        hint = f" (did you mean {near}?)" if near else ""
        raise ModelError(f"no model folder at {str(model)!r}: give {names} or a folder that ssd1b convert wrote{hint}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ModelError(f"{path} has format {data['format']}, this version reads {FORMAT}: convert it again")
        config = ModelConfig.from_dict(data["config"])
        about = {key: data[key] for key in ("dtype", "source", "revision", "licence")}
        check_dtype(about["dtype"], ConfigError)
        files = {name: dict(size=entry["size"], sha256=entry["sha256"]) for name, entry in data["files"].items()}
    except ModelError:
        raise
    except ConfigError as error:
        raise ModelError(f"{path}: {error}: {AGAIN}") from error
    except PermissionError:
        raise ModelError(f"{path} may not be read by this user: ask its owner to run chmod -R a+rX {folder}") from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{path} is not a readable manifest of a model: {AGAIN}") from error
    if digest({key: value for key, value in data.items() if key != "sha256"}) != data.get("sha256"):
        raise ModelError(f"{path} is damaged (its sha256 is wrong): {AGAIN}")
    return Manifest(name=str(model), folder=folder, config=config, files=files, sha256=data["sha256"], **about)


def digest(content: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's content as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""The way in: a diffusers folder, a hub id or a single file to a model folder, a few tensors at a time."""

import dataclasses
from pathlib import Path

from convert import family, hub, single_file, vocabularies
from convert.diffusers_folder import STEMS, read_licence, read_part
from convert.weights import fill, to_flax
from ssd1b_jax.checkpoints import schedules
from ssd1b_jax.checkpoints.diffusers_config import read_config
from ssd1b_jax.checkpoints.folders import check_free
from ssd1b_jax.checkpoints.model_folder import save_model
from ssd1b_jax.checkpoints.model_json import Manifest, check_dtype
from ssd1b_jax.checkpoints.progress import OnProgress, no_progress
from ssd1b_jax.errors import ConfigError, HubError, ModelError, WeightsError


def convert(
    source: str | Path,
    target: Path,
    dtype: str = "bfloat16",
    *,
    revision: str | None = None,
    tokenizers: Path | None = None,
    prediction_type: str | None = None,
    zero_snr: bool = False,
    on_progress: OnProgress = no_progress,
) -> Manifest:
    """Write a model folder at `target` from a diffusers folder, a hub id or a single file.

    `prediction_type`, with `zero_snr`, is what the model predicts, whatever its files say.
    Raises ConfigError, WeightsError or ModelError and writes nothing where something is wrong.
    """
    path, target = Path(source), Path(target)
    check_dtype(dtype)
    check_free(target, ModelError)
    if revision is not None and path.exists():
        raise WeightsError(f"--revision is of a hub id, and {path} is on this machine: leave it out")
    if zero_snr and prediction_type is None:
        prediction_type = "v_prediction"
    told = None if prediction_type is None else (prediction_type, zero_snr)
    about = dict(dtype=dtype, on_progress=on_progress, source=path.resolve().name)
    if path.is_file():
        return _convert_file(path, target, tokenizers, told, about)
    if not path.is_dir():
        if not hub.is_hub_id(str(source)):
            raise WeightsError(
                f"no file or folder at {str(source)!r}: give a diffusers folder, a single file or a hub id"
            )
        path, commit = hub.fetch(str(source), revision, dtype)
        about |= dict(source=str(source), revision=commit)
    config = read_config(path)
    if told is not None:
        config = dataclasses.replace(config, schedule=schedules.chosen(config.schedule, *told))
    parts = {part: read_part(path, part, dtype) for part in STEMS}
    vocabularies.check(tokenizers or path, config)
    try:
        params = to_flax(config, parts, dtype, on_progress)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return save_model(target, config, params, tokenizers=tokenizers or path, licence=read_licence(path), **about)


def _convert_file(
    path: Path, target: Path, tokenizers: Path | None, told: tuple[str, bool] | None, about: dict
) -> Manifest:
    tensors, metadata = single_file.read_single_file(path)
    try:
        config = family.infer(tensors)
        names = {name for name, _ in tensors}
        schedule = schedules.of_file(names, metadata) if told is None else schedules.chosen(config.schedule, *told)
        config = dataclasses.replace(config, schedule=schedule)
        if tokenizers is None:
            known = family.family(config)
            if known is None:
                raise WeightsError(
                    "it has no tokenizers, and is of no size that is on the hub: give --tokenizers FOLDER"
                )
            tokenizers = hub.fetch_tokenizers(known.hub)
        vocabularies.check(tokenizers, config)
        slots = single_file.slots(config)
        params = fill(slots, single_file.weights(tensors), config, about["dtype"], about["on_progress"])
    except HubError as error:
        raise WeightsError(f"{path} has no tokenizers, and {error}; or give --tokenizers FOLDER") from None
    except (WeightsError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from None
    return save_model(target, config, params, tokenizers=tokenizers, **about)

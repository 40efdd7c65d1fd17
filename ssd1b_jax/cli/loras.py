"""The LoRAs of a command: files, folders, or ids of the hub."""

import argparse
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from ssd1b_jax.cli.convert import load_package
from ssd1b_jax.errors import RequestError

# OWNER/NAME, or with a file of it; a NAME that ends as a file's does is one that is not there.
HUB_ID = re.compile(
    r"([\w-][\w.-]{0,95}/(?![\w.-]*\.(?:safetensors|bin|ckpt|pt)$)[\w.-]{1,96})(?:/([\w.-]{1,200}\.safetensors))?"
)


def lora_scales(arguments: argparse.Namespace) -> dict[str, float]:
    """The scale of each LoRA that was given, by its name."""
    given = arguments.loras or ()
    return dict(zip(by_name(place for place, _ in given), (scale for _, scale in given), strict=True))


def lora_files(arguments: argparse.Namespace) -> dict[str, str]:
    """Each LoRA's file by the name that requests call it by, with the model's for few steps where that is asked for."""
    few_steps = fast_file(arguments.model) if arguments.fast else {}
    return few_steps | by_name(place for place, _ in arguments.loras or ())


def fast_file(model: str) -> dict[str, str]:
    """The model's few-step LoRA, by the name that `fast` has for it: its folder's own, or else its family's on the hub.

    Raises RequestError where there is neither, HubError where it can't be fetched.
    """
    from ssd1b_jax import presets
    from ssd1b_jax.checkpoints.model_json import read_manifest
    from ssd1b_jax.request import FAST

    manifest = read_manifest(model)
    if manifest.few_steps is not None:
        return {FAST: str(manifest.few_steps)}
    if found := presets.few_steps(manifest.config):
        return {FAST: _fetched(found, None)}
    raise RequestError(f"fast has no few-step LoRA for {model}: give one by --lora, with --scheduler lcm --exact-steps")


def own_fast_file(model: str) -> dict[str, str]:
    """The few-step LoRA in the model's folder, by its name, if there is one."""
    from ssd1b_jax.checkpoints.model_json import read_manifest
    from ssd1b_jax.request import FAST

    file = read_manifest(model).few_steps
    return {} if file is None else {FAST: str(file)}


def by_name(places: Iterable[str]) -> dict[str, str]:
    """LoRA files by their names without suffix, or by the last word of an id of the hub, from which they are fetched.

    Raises RequestError for two of one name, HubError for what is not on the hub.
    """
    found: dict[str, tuple[str, re.Match | None]] = {}
    for place in places:
        # What begins with a folder that is here is a file that is not.
        hub_id = None if Path(place).exists() or Path(Path(place).parts[0]).is_dir() else HUB_ID.fullmatch(place)
        name = Path(hub_id[2]).stem if hub_id and hub_id[2] else hub_id[1].split("/")[1] if hub_id else Path(place).stem
        if name in found:
            raise RequestError(f"two LoRAs are named {name!r}: rename one of the files")
        found[name] = place, hub_id
    return {name: _fetched(hub_id[1], hub_id[2]) if hub_id else place for name, (place, hub_id) in found.items()}


@cache
def _fetched(repo: str, file: str | None) -> str:
    load_package()
    return str(import_module("convert.hub").fetch_lora(repo, file))

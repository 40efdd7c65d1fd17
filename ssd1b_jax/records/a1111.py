"""Settings as the text that AUTOMATIC1111 writes into pictures, and many programs read: written and read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd1b_jax import samplers

NEGATIVE = "Negative prompt: "
NUMBERS = {  # A1111's name: ours, and its type
    "Steps": ("num_inference_steps", int),
    "CFG scale": ("guidance_scale", float),
    "Seed": ("seed", int),
    "Denoising strength": ("strength", float),
    "Variation seed": ("variation_seed", int),
    "Variation seed strength": ("variation_strength", float),
    "Mask blur": ("mask_blur", int),
}
_PAIR = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def parameters(record: Mapping[str, Any]) -> str:
    """The settings as A1111 writes them, with its names, its quotes and its choice of what to leave out.

    Its clip skip counts from the last layer, ours from the last but one; its sampler and schedule
    are two settings, ours is one.
    """
    request = record["request"]
    sampler = samplers.row(request["scheduler"])
    varied = request.get("variation_strength") or None
    hashes = ", ".join(f"{name}: {lora['sha256'][:10]}" for name, lora in record["loras"].items())
    settings = {
        "Steps": request["num_inference_steps"],
        "Sampler": sampler.label,
        "Schedule type": sampler.schedule or None,
        "CFG scale": request["guidance_scale"],
        "Seed": request["seed"],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": record["model"]["sha256"][:10],
        "Model": Path(record["model"]["name"]).name,
        "Variation seed": request.get("variation_seed") if varied else None,
        "Variation seed strength": varied,
        "Denoising strength": request["strength"] if request["image"] else None,
        "Clip skip": request["clip_skip"] + 2 if request.get("clip_skip") else None,
        "RNG": {"torch": "CPU"}.get(request["noise"], request["noise"].upper()),
        "Mask blur": request.get("mask_blur") or None,
        "Lora hashes": hashes or None,
        "Version": f"ssd1b_jax {record['versions']['ssd1b_jax']}",
    }
    listed = ", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None)
    listed += f", Hashes: {json.dumps(_hashes(record))}"  # not quoted: so its readers, of whom Civitai is one, have it
    negative = request["negative_prompt"]
    lines = [request["prompt"], *([f"Negative prompt: {negative}"] if negative else []), listed]
    return "\n".join(lines).encode("utf-8", "replace").decode()


def _hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """The model's and the LoRAs' digests."""
    hashes = {"model": record["model"]["sha256"][:10]}
    return hashes | {f"lora:{name}": lora["sha256"][:10] for name, lora in record["loras"].items()}


def _quoted(value: object) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",:\n") else text


def settings_of(text: str) -> dict[str, Any]:
    """The settings in such a text, by our names and unchecked; nothing where it is another text.

    What we have no setting for is left out, and so is a number that can't be read.
    """
    prompts, _, last = text.strip().rpartition("\n")
    listed = {name: _unquoted(value.strip()) for name, value in _PAIR.findall(last)}
    if "Steps" not in listed:
        return {}
    prompt, _, negative = f"\n{prompts}".partition(f"\n{NEGATIVE}")
    settings: dict[str, Any] = {"prompt": prompt.strip(), "negative_prompt": negative.strip() or None}
    for name, (setting, number) in NUMBERS.items():
        try:
            settings[setting] = number(listed[name])
        except (KeyError, ValueError):
            continue
    if "Sampler" in listed:
        schedule = "Karras" if listed.get("Schedule type") == "Karras" else ""
        settings["scheduler"] = f"{listed['Sampler']} {schedule}".strip()
    settings["noise"] = {"CPU": "torch", "NV": "nv", "JAX": "jax"}.get(listed.get("RNG", ""))
    settings |= _size(listed.get("Size", ""))
    return settings


def _size(text: str) -> dict[str, int]:
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    return {"width": int(match[1]), "height": int(match[2])} if match else {}


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text

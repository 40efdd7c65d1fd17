"""A record's settings as the text that AUTOMATIC1111 writes into pictures, and many programs read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd1b_jax.samplers import SAMPLERS


def parameters(record: Mapping[str, Any]) -> str:
    """The settings as A1111 writes them, with its names, its quotes and its choice of what to leave out.

    Its clip skip counts from the last layer, ours from the last but one; its sampler and schedule
    are two settings, ours is one.
    """
    request = record["request"]
    sampler = SAMPLERS[request["scheduler"]]
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

"""Requests of the tiny model, and the digests of what they give."""

import hashlib

import numpy as np

from helpers import tiny
from ssd1b_jax import Request


def picture(seed: int = 0, height: int = tiny.SIZE, width: int = tiny.SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mixture() -> list[Request]:
    """Requests that differ in everything a batch may mix, some in what it may not."""
    common = dict(image=picture(), prompt="a red apple")
    return [
        Request(**common, seed=0),
        Request(**common, seed=1, scheduler="euler_a", strength=0.9),
        Request(**common, seed=2, scheduler="heun", num_inference_steps=4),
        Request(**common, seed=3, guidance_scale=1.0),
        Request(**common, seed=4, negative_prompt="a blue apple", guidance_scale=7.0),
        Request(image=picture(1, 50, 40), prompt="", seed=5, scheduler="dpmpp_2m_karras", num_inference_steps=9),
        Request(**common, seed=6, scheduler="euler_a", noise="torch"),
        Request(**common, seed=7, noise="nv", scheduler="ddim", exact_steps=True, num_inference_steps=3),
        Request(**common, seed=8, guidance_rescale=0.7),
        Request(**common, seed=9, height=48),
        Request(**common, seed=2**63 + 10, strength=0.35),
        Request(**common, seed=11, guidance_interval=(0.3, 0.8), num_inference_steps=9),
        Request(**common, seed=12, mask=np.tri(tiny.SIZE, dtype=np.uint8) * 255, mask_blur=3),
        Request(**common, seed=13, variation_seed=5, variation_strength=0.4, clip_skip=1),
        Request(image=picture(2), prompt="a (red:1.3) apple " * 5, prompt_2="a cat", seed=14, original_size=(64, 64)),
        Request(**common, seed=15, scheduler="dpmpp_2m_sde", timestep_spacing="trailing"),
    ]


def digest(results) -> list[str]:
    return [hashlib.sha256(result.pixels.tobytes()).hexdigest() for result in results]

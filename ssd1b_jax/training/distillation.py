"""A LoRA for few steps: latent consistency distillation (Luo et al., 2310.04378; as a LoRA, 2311.05556).

The student, the UNet with the LoRA, learns to give the same clean latents from two neighbouring
points of the teacher's guided way; so one call leads from anywhere to the end of that way.
"""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.checkpoints.safetensors import write_safetensors
from ssd1b_jax.checkpoints.tensor_names import Entry, table
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.samplers import schedule
from ssd1b_jax.samplers.schedule import LCM_STEPS
from ssd1b_jax.training.captions import Writer
from ssd1b_jax.training.denoiser import TextEncoders, Tokenizers, batches
from ssd1b_jax.training.latents import Latents
from ssd1b_jax.training.loop import Recipe, train

RECIPE = Recipe(steps=1500, batch_size=32, learning_rate=1e-3, adam_learning_rate=1e-3, cooldown=0.5, ema_decay=0.99)
RANK = 16
GUIDANCE = 2.5, 5.0  # of the teacher: the student learns the mean of it
HUBER = 1e-3
OUTER = {"conv_in", "conv_out", "time_embedding", "add_embedding"}  # layers that stay as they are


@cache
def _entries(config: ModelConfig) -> dict[str, Entry]:
    """The kernels that the LoRA changes, by their layers' names in diffusers."""
    named = table("unet", config).items()
    kernels = {name.removesuffix(".weight"): entry for name, entry in named if entry.path[-1] == "kernel"}
    return {name: entry for name, entry in kernels.items() if entry.path[0] not in OUTER}


def initial(config: ModelConfig, rank: int = RANK, seed: int = 0) -> dict:
    """By a layer's name in diffusers, its `down` and `up`; so that nothing changes yet."""
    rng, factors = np.random.default_rng(seed), {}
    _, shapes = abstract("unet", config)
    for name, entry in _entries(config).items():
        *window, inputs, outputs = _at(shapes, entry.path).shape
        down = rng.standard_normal((*window, inputs, rank)) / np.sqrt(np.prod(window, dtype=int) * inputs)
        factors[name] = dict(down=jnp.asarray(down, jnp.float32), up=jnp.zeros((rank, outputs), jnp.float32))
    return factors


def merged(config: ModelConfig, params: dict, factors: dict) -> dict:
    """The UNet's parameters with the LoRA merged in."""
    paths = {name: entry.path for name, entry in _entries(config).items()}
    changes = {paths[name]: factor["down"] @ factor["up"] for name, factor in factors.items()}

    def change(node, path):
        if isinstance(node, dict):
            return {key: change(value, (*path, key)) for key, value in node.items()}
        return node + changes[path] if path in changes else node

    return change(params, ())


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def clean(config: ModelConfig, output, latents, alpha):
    """The clean latents that a UNet's output stands for; `alpha` is the cumulative product."""
    if config.schedule.prediction_type == "epsilon":
        return (latents - jnp.sqrt(1 - alpha) * output) / jnp.sqrt(alpha)
    return jnp.sqrt(alpha) * latents - jnp.sqrt(1 - alpha) * output


def distil(
    config: ModelConfig, params: dict, tokenizers: Tokenizers, writer: Writer, data: Latents, run: Path, recipe=RECIPE
) -> dict:
    """Train the LoRA on latents and captions; returns its averaged factors. `params` are the teacher's, by part."""
    text_def = nnx.graphdef(nnx.eval_shape(lambda: TextEncoders(config, rngs=nnx.Rngs(0))))
    unet_def, _ = abstract("unet", config)
    teacher = params["unet"]
    text = {part: params[part] for part in ("text_encoder", "text_encoder_2")}
    alphas_cumprod = jnp.asarray(np.append(schedule.alphas_cumprod(config.schedule), 1.0), jnp.float32)
    stride = config.schedule.num_train_timesteps // LCM_STEPS
    size = config.defaults
    time_ids = jnp.array([size.height, size.width, 0, 0, size.height, size.width], jnp.float32)

    def loss(factors, key, latents, sources, mixes, timesteps, kept, tokens, tokens_2):
        noise_key, guidance_key = jax.random.split(key)
        before = timesteps // stride * stride + stride - 1  # of the LCM_STEPS
        after = before - stride  # -1 is the clean end
        alpha, next_alpha = (alphas_cumprod[times][:, None, None, None] for times in (before, after))
        begun = latents + mixes[:, None, None, None] * (sources - latents)
        noisy = jnp.sqrt(alpha) * begun + jnp.sqrt(1 - alpha) * jax.random.normal(noise_key, latents.shape)
        context, pooled = nnx.merge(text_def, text)(tokens, tokens_2)
        ids = jnp.broadcast_to(time_ids, (len(latents), 6))
        low, high = GUIDANCE
        guidance = jax.random.uniform(guidance_key, (len(latents), 1, 1, 1), minval=low, maxval=high)

        def predict(unet_params, at, times, share=1.0):
            output = nnx.merge(unet_def, unet_params)(at, times, context * share, pooled * share, ids)
            return clean(config, output, at, alphas_cumprod[times][:, None, None, None])

        # One guided step of DDIM along the teacher's way.
        without, given = (predict(teacher, noisy, before, share) for share in (0.0, 1.0))
        guided = without + guidance * (given - without)
        noise = (noisy - jnp.sqrt(alpha) * guided) / jnp.sqrt(1 - alpha)
        nearer = jnp.sqrt(next_alpha) * guided + jnp.sqrt(1 - next_alpha) * noise
        student = merged(config, teacher, factors)
        ahead = predict(student, nearer, jnp.maximum(after, 0))
        target = jax.lax.stop_gradient(jnp.where(after[:, None, None, None] < 0, guided, ahead))
        errors = jnp.square(predict(student, noisy, before) - target)
        huber = jnp.sqrt(errors + HUBER**2) - HUBER  # Song & Dhariwal, 2310.14189
        return huber.mean(), dict(error=errors.mean())

    batch = batches(config, tokenizers, writer, data, recipe)
    return train(run, recipe, initial(config), loss, batch)


def save(path: Path, factors: dict, config: ModelConfig) -> None:
    """Write the LoRA as diffusers does, in float16."""
    tensors = {}
    for name, factor in factors.items():
        entry = _entries(config)[name]
        down, up = (np.asarray(factor[role], np.float16) for role in ("down", "up"))
        # From our axes, inputs and rank last, to the checkpoint's, rank first.
        tensors[f"unet.{name}.lora_A.weight"] = np.ascontiguousarray(down.transpose(np.argsort(entry.axes)))
        window = (1,) * (down.ndim - 2)
        tensors[f"unet.{name}.lora_B.weight"] = np.ascontiguousarray(up.T).reshape(*up.T.shape, *window)
    entries = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    write_safetensors(path, entries, tensors.items())

"""The UNet and both text encoders of the embedded model, trained together on cached latents.

First the text encoders alone learn to tell captions apart (a classifier of thing and background
on what the UNet will see of them); random encoders would give the UNet nearly equal prompts for
its first thousands of pictures. Then everything learns to predict the noise.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.models.clip import CLIPTextEncoder
from ssd1b_jax.models.layers import Linear
from ssd1b_jax.models.unet import UNet
from ssd1b_jax.prompts.tokenizer import PromptTokenizer
from ssd1b_jax.samplers import schedule
from ssd1b_jax.training.loop import Recipe, train
from ssd1b_jax.training.things import COLORS, THINGS, Caption, caption

TEXT_RECIPE = Recipe(steps=150, batch_size=128, learning_rate=2e-3, adam_learning_rate=3e-3, warmup=50, ema_decay=0.9)
RECIPE = Recipe(steps=2150, batch_size=64, learning_rate=4e-3, adam_learning_rate=2e-3, cooldown=0.35, ema_decay=0.998)
PROMPT_DROPOUT = 0.1
MAX_WEIGHT = 16.0

Tokenizers = tuple[PromptTokenizer, PromptTokenizer]


class TextEncoders(nnx.Module):
    """Both encoders as the UNet sees them: joined penultimate states, and the second one's pooled text."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.text_encoder = CLIPTextEncoder(config.text_encoder, rngs=rngs)
        self.text_encoder_2 = CLIPTextEncoder(config.text_encoder_2, rngs=rngs)

    def __call__(self, tokens, tokens_2):
        first, second = self.text_encoder(tokens), self.text_encoder_2(tokens_2)
        return jnp.concatenate([first.hidden, second.hidden], axis=-1), second.pooled


class Classifier(nnx.Module):
    """Thing and background, or that none was named, from pooled text and from the context's mean."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.classes = len(THINGS) + 1
        outputs = self.classes + len(COLORS) + 1
        self.pooled = Linear(config.unet.pooled_dim, outputs, dtype=jnp.float32, rngs=rngs)
        self.context = Linear(config.unet.cross_attention_dim, outputs, dtype=jnp.float32, rngs=rngs)

    def __call__(self, context, pooled):
        return [
            (logits[:, : self.classes], logits[:, self.classes :])
            for logits in (self.pooled(pooled), self.context(context.mean(1)))
        ]


def tokenize(tokenizers: Tokenizers, captions: list[Caption]) -> dict[str, np.ndarray]:
    ids = [np.stack([tokenizer(caption.text).ids for caption in captions]) for tokenizer in tokenizers]
    return dict(tokens=ids[0], tokens_2=ids[1])


def train_text(config: ModelConfig, tokenizers: Tokenizers, run: Path, recipe: Recipe = TEXT_RECIPE):
    """Train the text encoders to name what a caption names; returns their averaged parameters."""
    rngs = nnx.Rngs(recipe.seed)
    text_def, text = nnx.split(TextEncoders(config, rngs=rngs))
    head_def, head = nnx.split(Classifier(config, rngs=rngs))

    def batch(rng: np.random.Generator) -> dict:
        things = rng.integers(0, len(THINGS), recipe.batch_size)
        colors = rng.integers(0, len(COLORS), recipe.batch_size)
        captions = [caption(rng, thing, color) for thing, color in zip(things.tolist(), colors.tolist(), strict=True)]
        # What a caption leaves out can't be read from it: the last class of each kind.
        things = np.where([said.says_thing for said in captions], things, len(THINGS))
        colors = np.where([said.says_color for said in captions], colors, len(COLORS))
        return dict(things=things, colors=colors, **tokenize(tokenizers, captions))

    def loss(params, key, things, colors, tokens, tokens_2):
        features = nnx.merge(text_def, params["text"])(tokens, tokens_2)
        losses, right = [], []
        for answers in nnx.merge(head_def, params["head"])(*features):
            for logits, labels in zip(answers, (things, colors), strict=True):
                losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())
                right.append((logits.argmax(1) == labels).mean())
        return sum(losses), dict(accuracy=jnp.stack(right).mean())

    params = dict(text=nnx.to_pure_dict(text), head=nnx.to_pure_dict(head))
    return train(run, recipe, params, loss, batch)["text"]


def cache_latents(config: ModelConfig, vae_params, pictures: Path, target: Path, batch_size: int = 64) -> float:
    """Encode every training picture once into `target`; returns the scaling factor, 1 / their deviation."""
    graphdef, _ = abstract("vae", config)
    labels = np.load(pictures / "labels.npy")
    pixels = np.load(pictures / "pixels.npy", mmap_mode="r")[: int((labels[:, 0] >= 0).sum())]

    @jax.jit
    def encode(params, key, pixels):
        posterior = nnx.merge(graphdef, params).encode(pixels.astype(jnp.float32) / 127.5 - 1)
        return posterior.sample(jax.random.normal(key, posterior.mean.shape))

    chunks = []
    for start in range(0, len(pixels), batch_size):
        chunk = pixels[start : start + batch_size]
        padded = np.pad(chunk, ((0, batch_size - len(chunk)), (0, 0), (0, 0), (0, 0)))
        chunks.append(np.asarray(encode(vae_params, jax.random.key(start), padded))[: len(chunk)])
    latents = np.concatenate(chunks)
    np.save(target, latents.astype(np.float16))
    return float(1 / latents.std())


def train_denoiser(
    config: ModelConfig, text_params, tokenizers: Tokenizers, pictures: Path, latents: Path, run: Path, recipe=RECIPE
):
    """Predict the noise in latents of pictures, given captions of them; returns averaged parameters.

    The loss weighs squared errors of epsilon by 1 + sigma^2, at most 16, which is the error of the
    velocity (Salimans & Ho, 2202.00512): with equal weights the high noise levels, where it is
    decided what is drawn, would hardly count.
    """
    text_def = nnx.graphdef(nnx.eval_shape(lambda: TextEncoders(config, rngs=nnx.Rngs(0))))
    unet_def, unet = nnx.split(UNet(config.unet, rngs=nnx.Rngs(recipe.seed)))
    data = np.load(latents, mmap_mode="r")
    labels = np.load(pictures / "labels.npy")[: len(data)]
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod(config.schedule), jnp.float32)
    size = config.defaults
    time_ids = jnp.array([size.height, size.width, 0, 0, size.height, size.width], jnp.float32)

    def batch(rng: np.random.Generator) -> dict:
        chosen = np.sort(rng.choice(len(data), recipe.batch_size, replace=False))
        captions = [caption(rng, thing, color) for thing, color in labels[chosen].tolist()]
        timesteps = (rng.random() + np.arange(recipe.batch_size) / recipe.batch_size) % 1.0  # stratified
        return dict(
            latents=data[chosen].astype(np.float32) * np.float32(config.vae.scaling_factor),
            timesteps=rng.permutation((timesteps * config.schedule.num_train_timesteps).astype(np.int32)),
            kept=rng.random(recipe.batch_size) >= PROMPT_DROPOUT,
            **tokenize(tokenizers, captions),
        )

    def loss(params, key, latents, timesteps, kept, tokens, tokens_2):
        noise = jax.random.normal(key, latents.shape)
        alpha = alphas_cumprod[timesteps][:, None, None, None]
        noisy = jnp.sqrt(alpha) * latents + jnp.sqrt(1 - alpha) * noise
        context, pooled = nnx.merge(text_def, params["text"])(tokens, tokens_2)
        # An absent prompt is zeros, as force_zeros_for_empty_prompt has it.
        context, pooled = context * kept[:, None, None], pooled * kept[:, None]
        ids = jnp.broadcast_to(time_ids, (len(latents), 6))
        eps = nnx.merge(unet_def, params["unet"])(noisy, timesteps, context, pooled, ids)
        errors = jnp.square(eps - noise).mean((1, 2, 3))
        return (errors * jnp.minimum(1 / alpha[:, 0, 0, 0], MAX_WEIGHT)).mean(), dict(eps_error=errors.mean())

    params = dict(text=text_params, unet=_quiet(nnx.to_pure_dict(unet)))
    return train(run, recipe, params, loss, batch)


def _quiet(params):
    """Zero the last layer of every residual branch, so that the network starts as its shortcuts."""
    last = {"conv2", "to_out", "proj_out"}

    def zero(path, leaf):
        return jnp.zeros_like(leaf) if last & {getattr(part, "key", None) for part in path} else leaf

    return jax.tree_util.tree_map_with_path(zero, params)

"""The text encoders and the UNet of the embedded model, trained on latents of the pictures.

First the encoders alone learn to tell captions apart (classifiers of all that a caption says, on
what the UNet will see of them); random encoders would give the UNet nearly equal prompts for its
first thousands of pictures. Then everything learns to denoise.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models.clip import CLIPTextEncoder
from ssd1b_jax.models.layers import Linear
from ssd1b_jax.models.unet import UNet
from ssd1b_jax.prompts.tokenizer import PromptTokenizer
from ssd1b_jax.samplers import schedule
from ssd1b_jax.training import captions, pictures
from ssd1b_jax.training.captions import Caption, Writer
from ssd1b_jax.training.latents import Latents
from ssd1b_jax.training.loop import Recipe, train
from ssd1b_jax.training.pictures import Scene
from ssd1b_jax.training.things import COLORS, QUALITY_NAMES, STYLE_NAMES, THINGS

TEXT_RECIPE = Recipe(steps=1500, batch_size=128, learning_rate=2e-3, adam_learning_rate=3e-3, warmup=50, ema_decay=0.98)
RECIPE = Recipe(steps=8000, batch_size=64, learning_rate=4e-3, adam_learning_rate=2e-3, cooldown=0.35, ema_decay=0.999)
PROMPT_DROPOUT = 0.1
MAX_WEIGHT = 16.0
MIXED_SHARE = 0.6  # of the pictures that have a source
MIXED_FROM, OTHERS_FROM, MIXED_TO = 0.38, 0.58, 0.92  # of all noise levels: ways begin there, from one's own source
PLACES = [None, "left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right"]
KINDS = dict(
    thing=len(THINGS), background=len(COLORS), color=len(COLORS), style=len(STYLE_NAMES),
    place=len(PLACES), quality=len(QUALITY_NAMES),
)  # fmt: skip

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
    """All that a caption says, or that it doesn't, from pooled text and from the context's mean."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        outputs = sum(KINDS.values()) + len(KINDS)
        self.pooled = Linear(config.unet.pooled_dim, outputs, dtype=jnp.float32, rngs=rngs)
        self.context = Linear(config.unet.cross_attention_dim, outputs, dtype=jnp.float32, rngs=rngs)

    def __call__(self, context, pooled):
        ends = np.cumsum([size + 1 for size in KINDS.values()])[:-1]
        return [jnp.split(logits, ends, axis=-1) for logits in (self.pooled(pooled), self.context(context.mean(1)))]


def tokenize(tokenizers: Tokenizers, texts: list[str]) -> dict[str, np.ndarray]:
    ids = [np.stack([tokenizer(text).ids for text in texts]) for tokenizer in tokenizers]
    return dict(tokens=ids[0], tokens_2=ids[1])


def answers(scene: Scene, caption: Caption, writer: Writer) -> list[int]:
    """What can be read from a caption, by KINDS; what it leaves out is the class after the last."""
    color = scene.color if scene.color >= 0 else writer.natural[scene.thing]
    facts = dict(
        thing=scene.thing, background=scene.background, color=color, style=scene.style,
        place=PLACES.index(captions.place(scene)), quality=scene.quality,
    )  # fmt: skip
    return [facts[kind] if getattr(caption, kind) else size for kind, size in KINDS.items()]


def train_text(config: ModelConfig, tokenizers: Tokenizers, writer: Writer, run: Path, recipe: Recipe = TEXT_RECIPE):
    """Train the text encoders to read captions; returns their averaged parameters."""
    rngs = nnx.Rngs(recipe.seed)
    text_def, text = nnx.split(TextEncoders(config, rngs=rngs))
    head_def, head = nnx.split(Classifier(config, rngs=rngs))

    def batch(rng: np.random.Generator) -> dict:
        scenes = [pictures.sample(rng) for _ in range(recipe.batch_size)]
        written = [writer.write(rng, scene) for scene in scenes]
        labels = [answers(scene, caption, writer) for scene, caption in zip(scenes, written, strict=True)]
        return dict(labels=np.array(labels), **tokenize(tokenizers, [caption.text for caption in written]))

    def loss(params, key, labels, tokens, tokens_2):
        features = nnx.merge(text_def, params["text"])(tokens, tokens_2)
        losses, right = [], []
        for heads in nnx.merge(head_def, params["head"])(*features):
            for logits, wanted in zip(heads, labels.T, strict=True):
                losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean())
                right.append((logits.argmax(1) == wanted).mean())
        return sum(losses), dict(accuracy=jnp.stack(right).mean(), things=right[0])

    params = dict(text=nnx.to_pure_dict(text), head=nnx.to_pure_dict(head))
    return train(run, recipe, params, loss, batch)["text"]


def train_denoiser(
    config: ModelConfig, text_params, tokenizers: Tokenizers, writer: Writer, data: Latents, run: Path, recipe=RECIPE
):
    """Denoise latents, given captions of them; returns averaged parameters.

    The error is that of the velocity (Salimans & Ho, 2202.00512). Where the UNet predicts the noise, that is its
    squared error times 1 + sigma^2, here at most MAX_WEIGHT.
    Some noisy latents are those of a picture's source, such as a rough drawing, or lie between:
    from there too the way leads to the picture that the caption asks for.
    """
    text_def = nnx.graphdef(nnx.eval_shape(lambda: TextEncoders(config, rngs=nnx.Rngs(0))))
    unet_def, unet = nnx.split(UNet(config.unet, rngs=nnx.Rngs(recipe.seed)))
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod(config.schedule), jnp.float32)
    size = config.defaults
    time_ids = jnp.array([size.height, size.width, 0, 0, size.height, size.width], jnp.float32)

    def loss(params, key, latents, sources, mixes, timesteps, kept, tokens, tokens_2):
        alpha = alphas_cumprod[timesteps][:, None, None, None]
        begun = latents + mixes[:, None, None, None] * (sources - latents)
        noisy = jnp.sqrt(alpha) * begun + jnp.sqrt(1 - alpha) * jax.random.normal(key, latents.shape)
        noise = (noisy - jnp.sqrt(alpha) * latents) / jnp.sqrt(1 - alpha)
        context, pooled = nnx.merge(text_def, params["text"])(tokens, tokens_2)
        # An absent prompt is zeros, as force_zeros_for_empty_prompt has it.
        context, pooled = context * kept[:, None, None], pooled * kept[:, None]
        ids = jnp.broadcast_to(time_ids, (len(latents), 6))
        output = nnx.merge(unet_def, params["unet"])(noisy, timesteps, context, pooled, ids)
        if config.schedule.prediction_type == "epsilon":
            errors = jnp.square(output - noise) * jnp.minimum(1 / alpha, MAX_WEIGHT)
        else:
            errors = jnp.square(output - (jnp.sqrt(alpha) * noise - jnp.sqrt(1 - alpha) * latents))
        errors = errors.mean((1, 2, 3))
        mixed = mixes > 0
        return errors.mean(), dict(
            plain=(errors * ~mixed).sum() / (~mixed).sum(), mixed=(errors * mixed).sum() / jnp.maximum(mixed.sum(), 1)
        )

    params = dict(text=text_params, unet=_quiet(nnx.to_pure_dict(unet)))
    return train(run, recipe, params, loss, batches(config, tokenizers, writer, data, recipe))


def batches(config: ModelConfig, tokenizers: Tokenizers, writer: Writer, data: Latents, recipe: Recipe):
    """Draws batches of latents, what they begin from, noise levels and captions, for `train`."""
    scale = np.float32(config.vae.scaling_factor)
    alphas = schedule.alphas_cumprod(config.schedule)
    sigmas = np.sqrt(1 / alphas - 1)

    def batch(rng: np.random.Generator) -> dict:
        chosen = np.sort(rng.choice(len(data.targets), recipe.batch_size, replace=False))
        written = [writer.write(rng, data.scene(index)).text for index in chosen.tolist()]
        levels = rng.permutation((rng.random() + np.arange(recipe.batch_size) / recipe.batch_size) % 1.0)  # stratified
        kept = rng.random(recipe.batch_size) >= PROMPT_DROPOUT
        targets = data.targets[chosen].astype(np.float32) * scale
        mixes, sources = mix(rng, data, sigmas, chosen, levels, kept)
        return dict(
            latents=targets,
            sources=np.where(mixes[:, None, None, None] > 0, sources * scale, targets),
            mixes=mixes,
            timesteps=(levels * config.schedule.num_train_timesteps).astype(np.int32),
            kept=kept,
            **tokenize(tokenizers, written),
        )

    return batch


def mix(rng, data: Latents, sigmas, chosen, levels, kept) -> tuple[np.ndarray, np.ndarray]:
    """How much of its source each noisy picture has, 0 to 1, and the sources' latents.

    All of it where a way begins, at any level from the one on that suits the source; then as much as is left there
    when the way is walked to the picture by DDIM, which is in proportion to sigma. `sigmas` are by timestep.
    """
    rows = data.source_of[chosen]
    same = data.scenes[chosen, 0] == data.source_things[rows]
    first = np.where(same, MIXED_FROM, OTHERS_FROM)
    suitable = (rows >= 0) & kept & (levels < MIXED_TO) & (rng.random(len(chosen)) < MIXED_SHARE)
    lowest = np.maximum(first, levels)
    began = lowest + rng.random(len(chosen)) * (MIXED_TO - lowest)
    at, begin = (sigmas[(level.clip(0, 1) * (len(sigmas) - 1)).astype(int)] for level in (levels, began))
    share = np.where((levels > first) & (rng.random(len(chosen)) < 0.5), 1.0, at / begin)
    return (suitable * share.clip(0, 1)).astype(np.float32), data.sources[rows].astype(np.float32)


def _quiet(params):
    """Zero the last layer of every residual branch, so that the network starts as its shortcuts."""
    last = {"conv2", "to_out", "proj_out"}

    def zero(path, leaf):
        return jnp.zeros_like(leaf) if last & {getattr(part, "key", None) for part in path} else leaf

    return jax.tree_util.tree_map_with_path(zero, params)

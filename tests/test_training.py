"""How the embedded model is made: the loop, its vocabulary, and the networks' learning."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import artwork as artwork_fixture
from helpers import tiny

from ssd1b_jax import presets
from ssd1b_jax.checkpoints import lora, model_folder
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.errors import TrainingError
from ssd1b_jax.models import abstract
from ssd1b_jax.samplers import schedule
from ssd1b_jax.training import (
    artwork,
    autoencoder,
    denoiser,
    distillation,
    doodles,
    enlarging,
    latents,
    loop,
    vocabulary,
)
from ssd1b_jax.training.captions import Writer
from ssd1b_jax.training.model import emoji_128
from ssd1b_jax.training.things import NAMES, THINGS


@pytest.fixture(scope="module")
def sprites():
    return artwork_fixture.sprites()


WRITER = Writer([(noun, "🍎") for noun in NAMES], [-1] * len(THINGS))


def test_the_vocabulary_has_clips_layout():
    vocab, merges = vocabulary.build(600, ["red apple"])
    entries = list(vocab)
    assert len(entries) == 600 and list(vocab.values()) == list(range(600))
    assert entries[0] == "!" and entries[256] == "!</w>" and entries[-2:] == [vocabulary.BEGIN, vocabulary.END]
    assert ["".join(pair) for pair in merges] == entries[512:-2]
    with pytest.raises(TrainingError, match="give more words"):
        vocabulary.build(5000, ["red apple"])


RECIPE = loop.Recipe(
    steps=6, batch_size=8, learning_rate=0.02, adam_learning_rate=0.02, warmup=1, checkpoint_every=2, report_every=2
)


def regression():
    """A linear map to find from samples: parameters, loss, batch."""
    target = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)

    def loss(params, key, x):
        error = jnp.square(x @ params["layer"]["kernel"] + params["layer"]["bias"] - x @ target).mean()
        return error, dict(noise=jax.random.uniform(key))

    params = {"layer": {"kernel": jnp.zeros((4, 3)), "bias": jnp.ones(3)}}
    return params, loss, lambda rng: dict(x=rng.standard_normal((8, 4)).astype(np.float32))


def test_a_run_that_was_killed_ends_where_it_would_have(tmp_path):
    params, loss, batch = regression()
    whole = loop.train(tmp_path / "whole", RECIPE, params, loss, batch, on_report=lambda _: None)

    class Killed(Exception):
        pass

    def kill(report):
        if report["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        loop.train(tmp_path / "killed", RECIPE, params, loss, batch, on_report=kill)
    resumed = loop.train(tmp_path / "killed", RECIPE, params, loss, batch, on_report=lambda _: None)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    jax.tree.map(np.testing.assert_array_equal, loop.averaged(tmp_path / "killed", params), whole)
    assert np.abs(whole["layer"]["kernel"]).max() > 0.01, "it learned nothing"
    for run in ("whole", "killed"):
        reports = [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        assert [report["step"] for report in reports] == [2, 4, 6]
    assert sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()) == ["4", "6"]


def test_slow_steps_are_kept_by_the_clock(tmp_path):
    params, loss, batch = regression()
    recipe = dataclasses.replace(RECIPE, steps=3, checkpoint_every=100, checkpoint_seconds=0.0)
    loop.train(tmp_path, recipe, params, loss, batch, on_report=lambda _: None)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    params, _, batch = regression()
    with pytest.raises(TrainingError, match="not finite at step 2"):
        loop.train(
            tmp_path, RECIPE, params, lambda params, key, x: (jnp.nan * params["layer"]["bias"].sum(), {}), batch
        )


def test_the_learning_rate_rises_stays_and_falls():
    recipe = dataclasses.replace(RECIPE, steps=100, warmup=10, cooldown=0.5)
    factor = loop.schedule(recipe)
    np.testing.assert_allclose([factor(step) for step in (0, 9, 40, 75, 100)], [0.1, 1, 1, 0.5, 0], rtol=1e-6)


def test_more_than_white_is_white_and_less_is_not():
    image = jnp.array([1.0, 1.0, -1.0, -1.0, 0.5])
    decoded = jnp.array([1.5, 0.9, -2.0, -0.5, 0.7])
    errors = autoencoder.free_beyond(decoded, image) - image
    margin = autoencoder.MARGIN
    np.testing.assert_allclose(errors, [0, -0.1 - margin, 0, 0.5 + margin, 0.2], atol=1e-6)


def shards(folder, count, sprites, workers=0):
    """Latents that a coder which averages 16 x 16 pixels would make."""

    def encode(params, pixels):
        return pixels.reshape(len(pixels), 2, 16, 2, 16, 3).mean((2, 4))[..., [0, 1, 2, 0]] / 64

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "_encoder", lambda config: encode)
        latents.make(tiny.tiny_config(), None, sprites, folder, count, size=40, workers=workers)
    return latents.Latents.load(folder)


def test_shards_of_latents_are_added_to(sprites, tmp_path):
    first = shards(tmp_path / "a", 1, sprites)
    both = shards(tmp_path / "a", 2, sprites)
    whole = shards(tmp_path / "b", 2, sprites)
    for name in ("scenes", "targets", "sources", "source_of"):
        np.testing.assert_array_equal(getattr(both, name), getattr(whole, name))
    np.testing.assert_array_equal(first.targets, both.targets[:40])
    assert both.targets.shape == (80, 2, 2, 4) and not np.array_equal(both.targets[:40], both.targets[40:])
    owners = np.flatnonzero(both.source_of >= 0)
    assert len(owners) == len(both.sources) == len(both.source_things) and 20 < len(owners) < 60
    assert both.scene(3).thing == both.scenes[3, 0] and isinstance(both.scene(3).mirror, bool)


def test_workers_draw_the_same_pictures(sprites, tmp_path):
    np.save(tmp_path / "sprites.npy", sprites.pixels)
    from_disk = artwork.Sprites.load(tmp_path)
    assert from_disk.others == sprites.others
    alone, shared = shards(tmp_path / "a", 1, sprites), shards(tmp_path / "b", 1, from_disk, workers=1)
    np.testing.assert_array_equal(shared.targets, alone.targets)
    np.testing.assert_array_equal(shared.sources, alone.sources)


def test_pictures_begin_from_their_sources_at_high_noise_alone(sprites, tmp_path):
    data = shards(tmp_path, 2, sprites)
    alphas = schedule.alphas_cumprod(presets.ssd_1b().schedule)
    sigmas = np.sqrt(1 / alphas - 1)
    chosen = np.arange(80)
    levels = np.linspace(0, 1, 80, endpoint=False)
    shares = np.stack(
        [denoiser.mix(np.random.default_rng(i), data, sigmas, chosen, levels, np.full(80, True))[0] for i in range(40)]
    ).max(0)
    assert not shares[data.source_of < 0].any() and not shares[levels >= denoiser.MIXED_TO].any()
    others = data.source_things[data.source_of] != data.scenes[:, 0]
    first = np.where(others, denoiser.OTHERS_FROM, denoiser.MIXED_FROM)
    has_source = data.source_of >= 0
    assert (shares[has_source & (levels > first) & (levels < denoiser.MIXED_TO)] == 1).all()
    # Below the level where a way may begin there is never more than what is left of its source.
    left = sigmas[(levels * 999).astype(int)] / sigmas[(first * 999).astype(int)]
    below = has_source & (levels < first)
    assert (shares[below] > 0).all() and (shares[below] <= left[below] + 1e-6).all()
    dropped, _ = denoiser.mix(np.random.default_rng(0), data, sigmas, chosen, levels, np.full(80, False))
    assert not dropped.any()


@pytest.mark.slow
def test_a_distilled_lora_begins_as_nothing_and_is_read_again(tmp_path):
    model = tiny.tiny_config()
    params = jax.tree.map(jnp.float32, tiny.random_params(model))
    factors = distillation.initial(model, rank=3)
    unchanged = distillation.merged(model, params["unet"], factors)
    jax.tree.map(np.testing.assert_array_equal, unchanged, params["unet"])
    rng = np.random.default_rng(0)
    factors = {
        name: dict(down=factor["down"], up=jnp.asarray(rng.standard_normal(factor["up"].shape), jnp.float32))
        for name, factor in factors.items()
    }
    distillation.save(tmp_path / "few.safetensors", factors, model)
    found = lora.read(tmp_path / "few.safetensors", model).factors["unet"]
    assert len(found) == len(factors) > 20
    merged = distillation.merged(model, params["unet"], factors)
    for path, factor in found.items():
        before, after = (distillation._at(tree, path) for tree in (params["unet"], merged))
        np.testing.assert_allclose(before + factor.scale * (factor.down @ factor.up), after, atol=0.02)


def test_an_enlarged_unet_says_of_any_size_what_it_said_of_its_own():
    model = tiny.tiny_config()
    params = jax.tree.map(jnp.float32, tiny.random_params(model))
    config, larger = enlarging.enlarged(model, params, None)
    assert (config.defaults.width, config.vae.factor) == (2 * model.defaults.width, 2 * model.vae.factor)
    rng = np.random.default_rng(0)
    graphdef, _ = abstract("unet", model)
    latents, context = rng.standard_normal((1, 8, 8, 4)), rng.standard_normal((1, 5, model.unet.cross_attention_dim))
    inputs = jnp.float32(latents), jnp.array([500]), jnp.float32(context), jnp.ones((1, model.unet.pooled_dim))
    own = jnp.array([[model.defaults.height, model.defaults.width, 0, 0] + [model.defaults.width] * 2])
    expected = nnx.merge(graphdef, params["unet"])(*inputs, own)
    for ids in (own, 2 * own, jnp.array([[96, 640, 8, 0, 1024, 32]])):
        np.testing.assert_allclose(nnx.merge(graphdef, larger["unet"])(*inputs, ids), expected, atol=1e-5)


def test_both_parametrizations_stand_for_the_same_clean_latents():
    model = tiny.tiny_config()
    velocity = dataclasses.replace(model, schedule=dataclasses.replace(model.schedule, prediction_type="v_prediction"))
    x, noise, alpha = 0.7, -1.2, 0.3
    noisy = np.sqrt(alpha) * x + np.sqrt(1 - alpha) * noise
    assert distillation.clean(model, noise, noisy, alpha) == pytest.approx(x)
    output = np.sqrt(alpha) * noise - np.sqrt(1 - alpha) * x
    assert distillation.clean(velocity, output, noisy, alpha) == pytest.approx(x)


@pytest.mark.slow
def test_every_network_learns(sprites, tmp_path, monkeypatch):
    """Some steps of each stage on a model of 8 channels: losses fall, and the encoders learn with the UNet."""
    # On eight, each would repeat the optimizer's work.
    monkeypatch.setattr(loop, "Devices", lambda: Devices(jax.devices()[:2]))
    model = tiny.tiny_config()
    shallow = dataclasses.replace(
        model.unet,
        block_out_channels=(8, 16),
        down_depths=((0,), (1,)),
        up_depths=((1, 1), (0, 0)),
        num_attention_heads=(1, 2),
    )
    model = dataclasses.replace(model, unet=shallow)  # compiles in half the time
    vocabulary.save(tmp_path, NAMES, size=model.text_encoder.vocab_size, length=16)
    tokenizers = vocabulary.load(tmp_path, 16)
    quick = dict(steps=12, batch_size=8, warmup=2, report_every=3, checkpoint_every=100)

    def falling(run):
        losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
        return losses[-1] < 0.9 * losses[0]

    windows, whole = (dataclasses.replace(recipe, **quick) for recipe in (autoencoder.WINDOWS, autoencoder.RECIPE))
    vae = autoencoder.train_autoencoder(model, sprites, tmp_path / "vae", windows, whole)
    assert falling(tmp_path / "vae" / "windows")
    recipe = dataclasses.replace(enlarging.RECIPE, **quick)
    larger = enlarging.train_larger(model, vae, sprites, tmp_path / "larger", recipe)
    assert falling(tmp_path / "larger")
    assert len(larger["decoder"]["up_blocks"]) == len(vae["decoder"]["up_blocks"]) + 1
    latents.make(model, vae, sprites, tmp_path / "latents", 1, size=48)
    data = latents.Latents.load(tmp_path / "latents")
    assert data.targets.shape == (48, 16, 16, 4)
    vae_config = dataclasses.replace(model.vae, scaling_factor=data.scaling_factor())
    model = dataclasses.replace(model, vae=vae_config)
    recipe = dataclasses.replace(denoiser.TEXT_RECIPE, **quick | dict(steps=60, batch_size=64))
    text = denoiser.train_text(model, tokenizers, WRITER, tmp_path / "text", recipe)
    assert falling(tmp_path / "text")
    recipe = dataclasses.replace(denoiser.RECIPE, **quick)
    trained = denoiser.train_denoiser(model, text, tokenizers, WRITER, data, tmp_path / "denoiser", recipe)
    assert falling(tmp_path / "denoiser")
    embedding = ("text_encoder", "token_embedding", "embedding")
    before, after = text, trained["text"]
    for name in embedding:
        before, after = before[name], after[name]
    assert not np.array_equal(before, after)
    params = dict(unet=trained["unet"], **trained["text"])
    recipe = dataclasses.replace(distillation.RECIPE, **quick)
    factors = distillation.distil(model, params, tokenizers, WRITER, data, tmp_path / "few", recipe)
    assert max(float(jnp.abs(factor["up"]).max()) for factor in factors.values()) > 0


def test_the_model_in_the_making_is_small():
    shapes = model_folder.abstract_params(emoji_128())
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert 10e6 < count <= 20e6
    assert emoji_128().vae.factor == 8


def test_doodles_are_drawn():
    assert list(doodles.DOODLES) == ["face", "house", "tree", "fish", "apple"]
    pixels = doodles.draw("apple", 64)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    assert pixels.shape == (64, 64, 3) and 0.2 < red.mean() < 0.6

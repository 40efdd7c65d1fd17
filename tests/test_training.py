"""How the embedded model is made: captions, pictures, the loop, and the figures' own feature."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.training import autoencoder, data, denoiser, doodles, evaluate, loop, vocabulary
from ssd1b_jax.training.things import BACKGROUNDS, COLORS, NAMES, THINGS, caption, is_held_out, prompt


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder as `fetch` leaves it, with a drawing of its own three colors for every thing."""
    folder = tmp_path_factory.mktemp("npm")
    rng = np.random.default_rng(0)
    icons, chars, emoji = {}, {}, {}
    for i, name in enumerate(THINGS):
        left, right, middle = (data.hex_color(color) for color in rng.uniform(0, 255, (3, 3)))
        icons[f"icon-{i}"] = {
            "body": f'<path d="M4 4h12v24h-12z" fill="{left}"/><path d="M16 4h12v24h-12z" fill="{right}"/>'
            f'<circle cx="16" cy="16" r="7" fill="{middle}"/>'
        }
        chars[f"{0x1F300 + i:x}"] = f"icon-{i}"
        emoji[chr(0x1F300 + i)] = {"name": name}
    drawings, names = folder / "drawings" / "package", folder / "names" / "package"
    drawings.mkdir(parents=True), names.mkdir(parents=True)
    (drawings / "icons.json").write_text(json.dumps({"icons": icons}))
    (drawings / "chars.json").write_text(json.dumps(chars))
    (drawings / "metadata.json").write_text(json.dumps({"categories": {"People & Body": []}}))
    (names / "data-by-emoji.json").write_text(json.dumps(emoji))
    return folder


@pytest.fixture(scope="module")
def pictures(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("pictures")
    data.render(source, target, per_thing=2, scenes=8)
    return target


def test_things_have_distinct_names_and_captions_say_them():
    assert len(set(NAMES)) == len(NAMES)
    rng = np.random.default_rng(0)
    for thing, words in enumerate(THINGS.values()):
        made = [caption(rng, thing, 4) for _ in range(60)]
        for text, says_thing, says_color in made:
            assert any(word in text for word in words) or not says_thing
            assert "blue" in text or not says_color
        assert {(says_thing, says_color) for _, says_thing, says_color in made} == {
            (True, True),
            (True, False),
            (False, True),
        }
    assert prompt(NAMES.index("owl"), COLORS.index("orange")) == "an owl on an orange background"


def test_held_out_pairs_are_one_background_a_thing_and_never_rendered(pictures):
    held_out = [[is_held_out(thing, color) for color in range(len(COLORS))] for thing in range(len(THINGS))]
    assert (np.sum(held_out, axis=1) == 1).all()
    assert (np.sum(held_out, axis=0) > 0).all()
    labels = np.load(pictures / "labels.npy")
    assert len(labels) == 2 * len(THINGS) + 8 and (labels[-8:] == -1).all()
    assert not any(held_out[thing][color] for thing, color in labels[:-8])
    assert np.load(pictures / "pixels.npy").shape == (len(labels), data.SIZE, data.SIZE, 3)


def test_rendering_follows_from_the_seed(source, pictures, tmp_path):
    data.render(source, tmp_path, per_thing=2, scenes=8)
    assert np.array_equal(np.load(tmp_path / "pixels.npy"), np.load(pictures / "pixels.npy"))


def test_a_drawing_on_its_own_color_gets_an_edge():
    red = '<circle cx="16" cy="16" r="10" fill="#dd2e44"/>'
    assert data.needs_edge(red, BACKGROUNDS["red"]) and not data.needs_edge(red, BACKGROUNDS["blue"])


def test_the_judge_knows_pictures_it_has_not_made(source):
    drawings = data.load_drawings(source)
    judge = evaluate.Judge(drawings)
    rng = np.random.default_rng(1)
    pairs = [(thing, (thing + 3) % len(COLORS)) for thing in range(len(THINGS))]
    made = [data.render_thing(rng, drawings, thing, color, False) for thing, color in pairs]
    assert np.mean([judge.background(pixels) == color for pixels, (_, color) in zip(made, pairs, strict=True)]) == 1
    assert np.mean([judge.things(pixels)[0] == thing for pixels, (thing, _) in zip(made, pairs, strict=True)]) >= 0.95


def test_the_vocabulary_has_clips_layout():
    vocab, merges = vocabulary.build(600, ["red apple"])
    entries = list(vocab)
    assert len(entries) == 600 and list(vocab.values()) == list(range(600))
    assert entries[0] == "!" and entries[256] == "!</w>" and entries[-2:] == [vocabulary.BEGIN, vocabulary.END]
    assert ["".join(pair) for pair in merges] == entries[512:-2]
    with pytest.raises(ValueError, match="give more names"):
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


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    params, _, batch = regression()
    with pytest.raises(FloatingPointError, match="not finite at step 2"):
        loop.train(
            tmp_path, RECIPE, params, lambda params, key, x: (jnp.nan * params["layer"]["bias"].sum(), {}), batch
        )


def test_the_learning_rate_rises_stays_and_falls():
    recipe = dataclasses.replace(RECIPE, steps=100, warmup=10, cooldown=0.5)
    factor = loop.schedule(recipe)
    np.testing.assert_allclose([factor(step) for step in (0, 9, 40, 75, 100)], [0.1, 1, 1, 0.5, 0], rtol=1e-6)


@pytest.mark.slow
def test_every_network_learns(source, pictures, tmp_path, monkeypatch):
    """Some steps of each stage on a model of 8 channels: losses fall, and the encoders learn with the UNet."""
    # On eight, each would repeat the optimizer's work.
    monkeypatch.setattr(loop, "Devices", lambda: Devices(jax.devices()[:2]))
    names = data.load_names(source)
    model = tiny.tiny_config()
    vocabulary.save(tmp_path, names, size=model.text_encoder.vocab_size, length=16)
    tokenizers = vocabulary.load(tmp_path, 16)
    quick = dict(steps=12, batch_size=8, warmup=2, report_every=3, checkpoint_every=100)

    def falling(run):
        losses = [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
        return losses[-1] < 0.9 * losses[0]

    recipe = dataclasses.replace(autoencoder.RECIPE, **quick)
    vae = autoencoder.train_autoencoder(model, pictures, tmp_path / "vae", recipe)
    assert falling(tmp_path / "vae")
    factor = denoiser.cache_latents(model, vae, pictures, tmp_path / "latents.npy", batch_size=64)
    latents = np.load(tmp_path / "latents.npy").astype(np.float32)
    assert latents.shape == (2 * len(THINGS), data.SIZE // 2, data.SIZE // 2, 4)
    assert latents.std() * factor == pytest.approx(1, rel=1e-2)
    recipe = dataclasses.replace(denoiser.TEXT_RECIPE, **quick | dict(steps=60, batch_size=64))
    text = denoiser.train_text(model, tokenizers, tmp_path / "text", recipe)
    assert falling(tmp_path / "text")
    shallow = dataclasses.replace(
        model.unet,
        block_out_channels=(8, 16),
        down_depths=((0,), (1,)),
        up_depths=((1, 1), (0, 0)),
        num_attention_heads=(1, 2),
    )
    model = dataclasses.replace(model, unet=shallow)  # compiles in half the time
    recipe = dataclasses.replace(denoiser.RECIPE, **quick)
    files = (pictures, tmp_path / "latents.npy", tmp_path / "denoiser")
    trained = denoiser.train_denoiser(model, text, tokenizers, *files, recipe)
    assert falling(tmp_path / "denoiser")
    embedding = ("text_encoder", "token_embedding", "embedding")
    before, after = text, trained["text"]
    for name in embedding:
        before, after = before[name], after[name]
    assert not np.array_equal(before, after)


def test_doodles_are_drawn():
    assert list(doodles.DOODLES) == ["face", "house", "tree", "fish", "apple"]
    pixels = doodles.draw("apple", 64)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    assert pixels.shape == (64, 64, 3) and 0.2 < red.mean() < 0.6

"""What the embedded model learns from: artwork, pictures, captions; and the judge of its pictures."""

import numpy as np
import pytest
from helpers import artwork as artwork_fixture

from ssd1b_jax.training import artwork, captions, pictures, words
from ssd1b_jax.training.judge import Judge, cut_out, degree, rim
from ssd1b_jax.training.things import (
    BACKGROUNDS,
    COLORS,
    NAMES,
    QUALITY_NAMES,
    STYLE_NAMES,
    THINGS,
    is_held_out,
    is_held_out_color,
    prompt,
)

WIDTH = 64
WHITE, BLUE = COLORS.index("white"), COLORS.index("blue")
PLAIN = pictures.Scene(3, 0, WHITE, -1, 0.8, 0.5, 0.5, 0.0, False, -1, -1, 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return artwork.Artwork(artwork_fixture.folder(tmp_path_factory.mktemp("npm")))


@pytest.fixture(scope="module")
def sprites():
    return artwork_fixture.sprites()


def test_there_are_enough_things_with_distinct_names():
    assert len(THINGS) >= 300
    assert len(set(NAMES)) == len(NAMES)
    assert prompt(NAMES.index("owl"), COLORS.index("orange")) == "an owl on an orange background"


def test_held_out_pairs_and_colors_are_never_sampled():
    for held_out in (is_held_out, is_held_out_color):
        table = [[held_out(thing, color) for color in range(len(COLORS))] for thing in range(len(THINGS))]
        assert (np.sum(table, axis=1) == 1).all() and (np.sum(table, axis=0) > 0).all()
    rng = np.random.default_rng(0)
    scenes = [pictures.sample(rng) for _ in range(3000)]
    assert not any(is_held_out(scene.thing, scene.background) for scene in scenes)
    assert not any(scene.color >= 0 and is_held_out_color(scene.thing, scene.color) for scene in scenes)
    assert {scene.style for scene in scenes} == set(range(len(STYLE_NAMES)))
    assert {scene.quality for scene in scenes} == set(range(-1, len(QUALITY_NAMES)))


def test_every_thing_has_words_and_its_emoji(source):
    found = words.words_of(source)
    assert [own[0] for own in found] == NAMES
    assert found[0][-1] == chr(0x1F300) and "wordaa" in found[0] and "animal" in found[0] and "one" not in found[0]
    known = words.known_words(source)
    assert known == sorted(set(known)) and {"lion", "lions", "grey", "blurry", "drawing"} <= set(known)
    assert "watercolor" not in known


@pytest.mark.parametrize(
    ("noun", "many"),
    [("lion", "lions"), ("cherry", "cherries"), ("fox", "foxes"), ("mouse", "mice"), ("knife", "knives")]
    + [("cup of coffee", "cups of coffee"), ("grapes", "grapes"), ("fish", "fish"), ("key", "keys")],
)
def test_plurals(noun, many):
    assert words.plural(noun) == many


def test_captions_say_what_they_claim():
    writer = captions.Writer([(noun, noun) for noun in NAMES], [-1] * len(NAMES))
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(800):
        scene = pictures.sample(rng)
        said = writer.write(rng, scene)
        noun = NAMES[scene.thing]
        if said.thing:
            assert noun in said.text or words.plural(noun) in said.text
        for kind, index in (("background", scene.background), ("color", scene.color)):
            if getattr(said, kind):
                spelled = captions.COLOR_WORDS.get(COLORS[index], (COLORS[index],))
                assert any(word in said.text for word in spelled)
        if said.place:
            assert captions.place(scene).split()[-1] in said.text
        kinds.add(said[1:])
    assert len(kinds) > 15
    blurry = PLAIN._replace(quality=QUALITY_NAMES.index("blurry"))
    assert np.mean([writer.write(rng, blurry).quality for _ in range(300)]) > 0.85
    assert captions.plain(PLAIN._replace(style=2, x=0.3, y=0.3)) == (
        f"a line drawing of a {NAMES[3]} in the top left on a white background"
    )


def test_artwork_is_drawn_once_in_every_style(source, tmp_path, monkeypatch):
    monkeypatch.setattr(artwork, "THINGS", dict(list(THINGS.items())[:3]))
    artwork.render_sprites(source, tmp_path, others=4, size=16)
    pixels = np.load(tmp_path / "sprites.npy")
    assert pixels.shape == (3 * (len(artwork.SETS) + artwork.CRUDE) + 4, 16, 16, 4)
    wanted = [int(artwork_fixture.colors(1)[0][i : i + 2], 16) for i in (1, 3, 5)]
    second = len(artwork.SETS) + artwork.CRUDE
    assert np.abs(pixels[second, 5, 5, :3].astype(int) - wanted).max() <= 2 and pixels[second, 0, 0, 3] == 0
    painted, outlines = pixels[second + len(artwork.SETS)], pixels[second + len(artwork.SETS) + 2]
    assert (outlines[..., 3] > 128).mean() < (painted[..., 3] > 128).mean()
    drawn = [name for _, name in artwork.other_drawings(source)]
    assert set(drawn) == {*list(THINGS)[3:], "other one", "other two"}


def test_pictures_follow_from_their_scene(sprites):
    rng = np.random.default_rng(2)
    for scene in [pictures.sample(rng) for _ in range(5)]:
        np.testing.assert_array_equal(
            pictures.draw(sprites, scene, WIDTH), pictures.draw(sprites, scene._replace(), WIDTH)
        )
    made = pictures.mixture(np.random.default_rng(0), sprites, WIDTH)
    assert made.shape == (WIDTH, WIDTH, 3) and made.std() > 5


def test_white_is_white_nearly_always(sprites):
    corners = [pictures.draw(sprites, PLAIN._replace(seed=seed), WIDTH)[0, 0] for seed in range(40)]
    assert np.mean([(corner == 255).all() for corner in corners]) > 0.6
    assert min(corner.min() for corner in corners) > 240


def test_a_drawing_on_its_own_color_gets_an_edge():
    layer = np.zeros((WIDTH, WIDTH, 4), np.float32)
    layer[20:44, 20:44] = (*BACKGROUNDS["red"], 255)
    red, blue = (np.array(BACKGROUNDS[name], np.float32) for name in ("red", "blue"))
    assert (pictures.edged(layer, red, 0)[19, 30] != layer[19, 30]).any()
    np.testing.assert_array_equal(pictures.edged(layer, blue, 0), layer)
    assert (pictures.edged(layer, blue, STYLE_NAMES.index("sticker"))[19, 30, :3] > 200).all()


def test_recoloring_turns_the_commonest_color_and_leaves_the_others():
    layer = np.zeros((20, 20, 4), np.float32)
    layer[...] = (220, 40, 40, 255)
    layer[:10, :5] = (250, 120, 120, 255)  # a lighter shade
    layer[15:, 15:] = (30, 30, 230, 255)
    made = pictures.recolor(layer, np.array(BACKGROUNDS["green"], np.float32))
    np.testing.assert_allclose(made[15, 0], BACKGROUNDS["green"], atol=3)
    assert made[0, 0, 1] > made[15, 0, 1] and made[0, 0, 1] > made[0, 0, 0]
    np.testing.assert_array_equal(made[19, 19], (30, 30, 230))


def test_sources_keep_the_layout():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = pictures.sample(rng)
        source = pictures.source(rng, scene)
        assert abs(source.x - scene.x) < 0.08 and abs(source.y - scene.y) < 0.08
        assert 0.8 < source.scale / scene.scale < 1.2


@pytest.mark.parametrize("quality", QUALITY_NAMES)
def test_qualities_are_seen(sprites, quality):
    differences = []
    for seed in range(6):
        scene = PLAIN._replace(thing=40 + seed, background=BLUE, seed=seed)
        bad = scene._replace(quality=QUALITY_NAMES.index(quality))
        good, made = (degree(pictures.draw(sprites, each, 128), quality) for each in (scene, bad))
        differences.append(made - good)
    assert np.mean(differences) > 0.3


@pytest.mark.slow
def test_the_judge_knows_pictures_it_has_not_made(sprites):
    judge = Judge(sprites)
    rng = np.random.default_rng(1)
    scenes = [
        PLAIN._replace(
            thing=thing,
            background=thing % len(COLORS),
            scale=rng.uniform(0.4, 0.9),
            x=rng.uniform(0.45, 0.55),
            seed=thing,
        )
        for thing in range(0, len(THINGS), 16)
    ]
    made = [pictures.draw(sprites, scene, 128) for scene in scenes]
    assert all(judge.background(pixels) == scene.background for pixels, scene in zip(made, scenes, strict=True))
    first = [judge.things(pixels)[0] == scene.thing for pixels, scene in zip(made, scenes, strict=True)]
    assert np.mean(first) >= 0.9
    cut = cut_out(pictures.draw(sprites, PLAIN._replace(x=0.3, y=0.6, scale=0.5, background=BLUE), 128))
    assert abs(cut.x - 0.3) < 0.03 and abs(cut.y - 0.6) < 0.03 and 0.3 < cut.scale < 0.45
    assert rim(made[0]).shape == (3,)
    green = PLAIN._replace(color=COLORS.index("green"), background=WHITE)
    assert judge.color(pictures.draw(sprites, green, 128), green.thing) == green.color

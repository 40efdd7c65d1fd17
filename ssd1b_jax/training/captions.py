"""What captions say of a scene, in many ways; and what a caption left out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssd1b_jax.training.pictures import CRUDE_STYLE, Scene
from ssd1b_jax.training.things import (
    COLOR_WORDS,
    COLORS,
    GOOD,
    NAMES,
    QUALITIES,
    QUALITY_NAMES,
    STYLE_NAMES,
    STYLES,
    with_article,
)
from ssd1b_jax.training.words import plural

# How often a style is left unsaid: what no style is named for is the first, nearly always.
UNSAID = (0.75, 0.15, 0.05, 0.15, 0.1, 0.05)
SMALL, LARGE = 0.58, 0.9  # scales
OFF_CENTRE = 0.12  # share of the width
FILLERS = (
    "beautiful cute amazing detailed masterpiece best quality cinematic watercolor oil painting digital art lovely "
    "professional trending fantasy vintage modern elegant studio lighting concept illustration award winning 4k 8k hd"
).split()


class Caption(NamedTuple):
    text: str
    thing: bool = True  # whether the caption says it
    background: bool = False
    color: bool = False
    style: bool = False
    place: bool = False
    quality: bool = False


@dataclass(frozen=True)
class Writer:
    """Writes captions; `words` are each thing's, the main noun first, and `natural` its own color or -1."""

    words: list[tuple[str, ...]]
    natural: list[int]

    def write(self, rng: np.random.Generator, scene: Scene) -> Caption:
        """One of the ways to say it. What a scene is unusual in is said, for the most part."""
        kind = rng.random()
        if scene.quality >= 0 and kind < 0.25:
            return Caption(", ".join(self._qualities(rng, scene)), thing=False, quality=True)
        if kind < 0.03:
            background = _color_word(rng, scene.background)
            text = f"{with_article(background)} background" if rng.random() < 0.6 else background
            return Caption(text, thing=False, background=True)
        if kind < 0.05:
            nouns, adjectives = STYLES[STYLE_NAMES[scene.style]]
            return Caption(_pick(rng, nouns + adjectives), thing=False, style=True)
        return self._whole(rng, scene)

    def _whole(self, rng, scene: Scene) -> Caption:
        noun, many = self._noun(rng, scene.thing)
        mentions = dict(thing=True)
        if scene.color >= 0:
            mentions["color"] = rng.random() < 0.92
        elif self.natural[scene.thing] >= 0:
            mentions["color"] = rng.random() < 0.15
        if mentions.get("color"):
            color = scene.color if scene.color >= 0 else self.natural[scene.thing]
            noun = f"{_color_word(rng, color)} {noun}"
        size = "small" if scene.scale < SMALL else "large" if scene.scale > LARGE else None
        if size and rng.random() < (0.7 if size == "small" else 0.4):
            noun = f"{_pick(rng, ('small', 'tiny', 'little') if size == 'small' else ('large', 'big', 'huge'))} {noun}"
        mentions["style"] = rng.random() >= UNSAID[scene.style]
        nouns, adjectives = STYLES[STYLE_NAMES[scene.style]]
        tail = []
        how = rng.random()
        if mentions["style"] and adjectives and how < 0.35 and scene.style != CRUDE_STYLE:
            noun = f"{_pick(rng, adjectives)} {noun}"
        phrase = noun if many or rng.random() < 0.25 else with_article(noun)
        if mentions["style"] and (not adjectives or how >= 0.35 or scene.style == CRUDE_STYLE):
            style = _pick(rng, nouns)
            if how < 0.75:
                phrase = f"{with_article(style)} of {phrase}"
            else:
                tail.append(style)
        elif not mentions["style"] and rng.random() < 0.1:
            phrase = f"{_pick(rng, ('a picture', 'an emoji', 'an image', 'an icon'))} of {phrase}"
        where = place(scene)
        if where and rng.random() < 0.75:
            mentions["place"] = True
            phrase = f"{phrase} {_where(rng, where)}" if rng.random() < 0.7 else f"{phrase}, {where}"
        mentions["background"] = rng.random() < 0.82
        if mentions["background"]:
            background = _color_word(rng, scene.background)
            if rng.random() < 0.75:
                phrase += f" on {with_article(background)} background"
            elif rng.random() < 0.6:
                tail.insert(0, f"{background} background")
            else:
                phrase += f" on {background}"
        if scene.quality >= 0 and rng.random() < 0.95:
            mentions["quality"] = True
            tail += self._qualities(rng, scene)
        elif scene.quality < 0 and rng.random() < 0.06:
            tail.append(_pick(rng, GOOD))
        if rng.random() < 0.06:
            tail.append(" ".join(_pick(rng, FILLERS) for _ in range(rng.integers(1, 3))))
        return Caption(", ".join([phrase, *tail]), **mentions)

    def _noun(self, rng, thing: int) -> tuple[str, bool]:
        """A word for a thing, and whether it takes no article."""
        words, draw = self.words[thing], rng.random()
        if draw < 0.5:
            return words[0], False
        if draw < 0.6:
            return plural(words[0]), True
        if draw < 0.68:
            return words[-1], True
        return _pick(rng, words[:-1]), False

    @staticmethod
    def _qualities(rng, scene: Scene) -> list[str]:
        both = [quality for quality in (scene.quality, scene.second_quality) if quality >= 0]
        return [_pick(rng, QUALITIES[QUALITY_NAMES[quality]]) for quality in both]


def place(scene: Scene) -> str | None:
    """The words for where a thing is; None in the middle."""
    across = "left" if scene.x < 0.5 - OFF_CENTRE else "right" if scene.x > 0.5 + OFF_CENTRE else ""
    down = "top" if scene.y < 0.5 - OFF_CENTRE else "bottom" if scene.y > 0.5 + OFF_CENTRE else ""
    return f"{down} {across}".strip() or None


def _where(rng, where: str) -> str:
    if " " in where:
        return f"in the {where}" + (" corner" if rng.random() < 0.6 else "")
    return f"{'on' if where in ('left', 'right') else 'at'} the {where}"


def _color_word(rng, color: int) -> str:
    return _pick(rng, COLOR_WORDS.get(COLORS[color], (COLORS[color],)))


def _pick(rng, words):
    return words[int(rng.integers(len(words)))]


def plain(scene: Scene) -> str:
    """The prompt that measurements use for a scene: all that it is, in one way."""
    color = f"{COLORS[scene.color]} " if scene.color >= 0 else ""
    phrase = with_article(color + NAMES[scene.thing])
    if scene.style:
        phrase = f"{with_article(STYLES[STYLE_NAMES[scene.style]][0][0])} of {phrase}"
    where = place(scene)
    if where:
        phrase += f" {'in' if ' ' in where else 'on' if where in ('left', 'right') else 'at'} the {where}"
    return f"{phrase} on {with_article(COLORS[scene.background])} background"

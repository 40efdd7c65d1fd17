"""The world of the embedded model that ships: 92 flat drawings, one at a time, on eleven plain backgrounds.

`things` is the world of its successor. The few-step LoRA of the model that ships is distilled on this one.
"""

import re

import numpy as np

from ssd1b_jax.training.artwork import Artwork
from ssd1b_jax.training.captions import Caption
from ssd1b_jax.training.pictures import Scene
from ssd1b_jax.training.things import COLORS, with_article
from ssd1b_jax.training.things import THINGS as ALL_THINGS
from ssd1b_jax.training.words import plural, words_of

# CLDR short name = the words that captions had for it, if there are others; measurements use the first.
_LIST = """
    grinning face = smiling face, grinning face, happy face, face; smiling face with sunglasses = face with sunglasses,
    cool face; skull; ghost; alien; robot; jack-o-lantern = pumpkin, jack-o-lantern; dog face = dog, dog face; cat face
    = cat, cat face; lion; pig face = pig, pig face; cow face = cow, cow face; rabbit face = rabbit, rabbit face; panda;
    koala; frog; monkey face = monkey, monkey face; fox; unicorn; mouse face = mouse, mouse face; penguin; owl; duck;
    turtle; snail; butterfly; honeybee = bee, honeybee; lady beetle = ladybug, lady beetle; octopus; crab; tropical fish
    = fish, tropical fish; spouting whale = whale, spouting whale; rose; sunflower; tulip; cactus; evergreen tree = fir
    tree, evergreen tree; deciduous tree = tree, deciduous tree; palm tree = palm tree, palm; four leaf clover = clover,
    four leaf clover; mushroom; red apple = red apple, apple; green apple; banana; strawberry; watermelon; grapes =
    bunch of grapes, grapes; pineapple; lemon; cherries = pair of cherries, cherries; carrot; avocado; pizza = slice of
    pizza, pizza; hamburger = hamburger, burger; birthday cake = birthday cake, cake; doughnut = doughnut, donut; ice
    cream = bowl of ice cream, ice cream; house = house, home; castle; tent; automobile = car, red car, automobile; bus;
    rocket; airplane = airplane, plane; sailboat = sailboat, boat; locomotive = locomotive, train; sun; crescent moon =
    crescent moon, moon; star = star, yellow star; cloud; rainbow; snowman; umbrella; fire = fire, flame; red heart =
    red heart, heart; balloon = balloon, red balloon; wrapped gift = gift, wrapped gift, present; soccer ball = soccer
    ball, football; basketball; guitar; key; light bulb = light bulb, lamp; alarm clock = alarm clock, clock; crown; top
    hat = top hat, hat; bell; camera; gem stone = diamond, gem stone; anchor; trophy; teddy bear; Christmas tree =
    christmas tree
"""


def _read() -> dict[str, tuple[str, ...]]:
    things = {}
    for item in " ".join(_LIST.split()).split(";"):
        name, _, words = item.partition("=")
        things[name.strip()] = tuple(word.strip() for word in (words or name).split(","))
    return things


THINGS: dict[str, tuple[str, ...]] = _read()
NAMES = [words[0] for words in THINGS.values()]

# By name, as sRGB.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (221, 46, 68),
    "orange": (244, 144, 30),
    "yellow": (253, 218, 72),
    "green": (72, 168, 82),
    "blue": (46, 108, 214),
    "purple": (132, 70, 184),
    "pink": (247, 164, 196),
    "brown": (134, 88, 54),
    "black": (28, 28, 32),
    "gray": (146, 150, 156),
    "white": (250, 250, 250),
}

# In the numbers of its successor's world; all but the green apple.
DRAWN = [index for index, name in enumerate(ALL_THINGS) if name in THINGS]
PAPERS = [COLORS.index(name) for name in BACKGROUNDS]


def sample(rng: np.random.Generator) -> Scene:
    """A scene of this world, in the numbers of its successor's: one flat thing, large, near the middle."""
    scale = rng.uniform(0.72, 1.0)
    room = (1 + 13 * (1 - scale)) / 32
    x, y = 0.5 + rng.uniform(-room, room, 2)
    thing, background = int(rng.choice(DRAWN)), int(rng.choice(PAPERS))
    return Scene(
        thing, 0, background, -1, float(scale), float(x), float(y), float(rng.normal(0, 5)), bool(rng.random() < 0.3),
        -1, -1, int(rng.integers(2**31)),
    )  # fmt: skip


def known_words(artwork: Artwork) -> dict:
    """What `words.json` of the model lists; words near those are what its successor knows the same things by."""
    nouns = [word for words in THINGS.values() for word in words]
    spoken = " ".join([*nouns, *BACKGROUNDS, "a an of on picture background"]).split()
    near = {"grey": "gray", "violet": "purple"}
    for name, others in zip(ALL_THINGS, words_of(artwork), strict=True):
        if words := THINGS.get(name):
            kept = [word for word in (plural(words[0]), *others) if re.fullmatch("[a-z]{3,}", word)]
            near = dict.fromkeys(kept, words[0]) | near
    known = sorted({part for word in spoken for part in word.lower().split("-")})
    return dict(words=known, near={word: near[word] for word in sorted(near) if word not in known})


def prompt(thing: int, color: int) -> str:
    """The prompt that measurements use for a thing on a background."""
    noun = THINGS[list(ALL_THINGS)[thing]][0]
    return f"{with_article(noun)} on {with_article(COLORS[color])} background"


class Writer:
    """Writes captions as this world's had them."""

    def write(self, rng: np.random.Generator, scene: Scene) -> Caption:
        words = THINGS[list(ALL_THINGS)[scene.thing]]
        noun = words[0] if rng.random() < 0.6 else words[int(rng.integers(len(words)))]
        background, kind = COLORS[scene.background], rng.random()
        if kind < 0.55:
            text = f"{with_article(noun)} on {with_article(background)} background"
        elif kind < 0.65:
            text = f"{noun}, {background} background"
        elif kind < 0.75:
            text = f"{noun} on {background}"
        elif kind < 0.85:
            text = f"a picture of {with_article(noun)} on {with_article(background)} background"
        else:
            return Caption(with_article(noun) if rng.random() < 0.5 else noun)
        return Caption(text, background=True)

"""The embedded model's world: what it can draw, on which backgrounds, and the English for both."""

from typing import NamedTuple

# CLDR short name of each drawing, and the words for it; the first is the name used for measuring.
THINGS: dict[str, tuple[str, ...]] = {
    "grinning face": ("smiling face", "grinning face", "happy face", "face"),
    "smiling face with sunglasses": ("face with sunglasses", "cool face"),
    "skull": ("skull",),
    "ghost": ("ghost",),
    "alien": ("alien",),
    "robot": ("robot",),
    "jack-o-lantern": ("pumpkin", "jack-o-lantern"),
    "dog face": ("dog", "dog face"),
    "cat face": ("cat", "cat face"),
    "lion": ("lion",),
    "pig face": ("pig", "pig face"),
    "cow face": ("cow", "cow face"),
    "rabbit face": ("rabbit", "rabbit face"),
    "panda": ("panda",),
    "koala": ("koala",),
    "frog": ("frog",),
    "monkey face": ("monkey", "monkey face"),
    "fox": ("fox",),
    "unicorn": ("unicorn",),
    "mouse face": ("mouse", "mouse face"),
    "penguin": ("penguin",),
    "owl": ("owl",),
    "duck": ("duck",),
    "turtle": ("turtle",),
    "snail": ("snail",),
    "butterfly": ("butterfly",),
    "honeybee": ("bee", "honeybee"),
    "lady beetle": ("ladybug", "lady beetle"),
    "octopus": ("octopus",),
    "crab": ("crab",),
    "tropical fish": ("fish", "tropical fish"),
    "spouting whale": ("whale", "spouting whale"),
    "rose": ("rose",),
    "sunflower": ("sunflower",),
    "tulip": ("tulip",),
    "cactus": ("cactus",),
    "evergreen tree": ("fir tree", "evergreen tree"),
    "deciduous tree": ("tree", "deciduous tree"),
    "palm tree": ("palm tree", "palm"),
    "four leaf clover": ("clover", "four leaf clover"),
    "mushroom": ("mushroom",),
    "red apple": ("red apple", "apple"),
    "green apple": ("green apple",),
    "banana": ("banana",),
    "strawberry": ("strawberry",),
    "watermelon": ("watermelon",),
    "grapes": ("bunch of grapes", "grapes"),
    "pineapple": ("pineapple",),
    "lemon": ("lemon",),
    "cherries": ("pair of cherries", "cherries"),
    "carrot": ("carrot",),
    "avocado": ("avocado",),
    "pizza": ("slice of pizza", "pizza"),
    "hamburger": ("hamburger", "burger"),
    "birthday cake": ("birthday cake", "cake"),
    "doughnut": ("doughnut", "donut"),
    "ice cream": ("bowl of ice cream", "ice cream"),
    "house": ("house", "home"),
    "castle": ("castle",),
    "tent": ("tent",),
    "automobile": ("car", "red car", "automobile"),
    "bus": ("bus",),
    "rocket": ("rocket",),
    "airplane": ("airplane", "plane"),
    "sailboat": ("sailboat", "boat"),
    "locomotive": ("locomotive", "train"),
    "sun": ("sun",),
    "crescent moon": ("crescent moon", "moon"),
    "star": ("star", "yellow star"),
    "cloud": ("cloud",),
    "rainbow": ("rainbow",),
    "snowman": ("snowman",),
    "umbrella": ("umbrella",),
    "fire": ("fire", "flame"),
    "red heart": ("red heart", "heart"),
    "balloon": ("balloon", "red balloon"),
    "wrapped gift": ("gift", "wrapped gift", "present"),
    "soccer ball": ("soccer ball", "football"),
    "basketball": ("basketball",),
    "guitar": ("guitar",),
    "key": ("key",),
    "light bulb": ("light bulb", "lamp"),
    "alarm clock": ("alarm clock", "clock"),
    "crown": ("crown",),
    "top hat": ("top hat", "hat"),
    "bell": ("bell",),
    "camera": ("camera",),
    "gem stone": ("diamond", "gem stone"),
    "anchor": ("anchor",),
    "trophy": ("trophy",),
    "teddy bear": ("teddy bear",),
    "Christmas tree": ("christmas tree",),
}

# Backgrounds by name, as sRGB.
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

NAMES = [words[0] for words in THINGS.values()]
COLORS = list(BACKGROUNDS)


def is_held_out(thing: int, color: int) -> bool:
    """True for the one background in eleven on which a thing is never shown in training."""
    return (5 * thing + 3) % len(COLORS) == color


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' or noun.startswith('umb') else 'a'} {noun}"


def prompt(thing: int, color: int) -> str:
    """The prompt that measurements use for a thing on a background."""
    return f"{with_article(NAMES[thing])} on {with_article(COLORS[color])} background"


class Caption(NamedTuple):
    text: str
    says_thing: bool = True
    says_color: bool = True


def caption(rng, thing: int, color: int) -> Caption:
    """One of the ways to say it; some leave out the background, some the thing."""
    nouns = list(THINGS.values())[thing]
    noun = nouns[0] if rng.random() < 0.6 else nouns[rng.integers(len(nouns))]
    background = COLORS[color]
    draw = rng.random()
    if draw < 0.45:
        return Caption(f"{with_article(noun)} on {with_article(background)} background")
    if draw < 0.60:
        return Caption(f"{noun}, {background} background")
    if draw < 0.70:
        return Caption(f"{noun} on {background}")
    if draw < 0.80:
        return Caption(f"a picture of {with_article(noun)} on {with_article(background)} background")
    if draw < 0.90:
        return Caption(with_article(noun) if rng.random() < 0.5 else noun, says_color=False)
    return Caption(f"{with_article(background)} background" if rng.random() < 0.5 else background, says_thing=False)

"""The English for each thing: its names, CLDR's keywords that mean it, plurals, the emoji itself."""

import re
from collections import Counter

from ssd1b_jax.training.artwork import Artwork
from ssd1b_jax.training.things import (
    COLOR_WORDS,
    COLORS,
    GOOD,
    QUALITIES,
    STYLES,
    THINGS,
)

# Keywords of several things that are worth knowing: any of those is right.
SHARED = frozenset(
    "flower fruit bird tree ball vegetable vehicle animal drink instrument plant fish insect bug pet "
    "ship boat sport game music food dessert sweet weapon clothing".split()
)
# More that people say, beyond CLDR's.
MORE = {
    "grinning face": ("smiley", "happy face", "smile"),
    "automobile": ("red car",),
    "deciduous tree": ("oak",),
    "evergreen tree": ("pine tree", "pine"),
    "red heart": ("love heart",),
    "hamburger": ("burger",),
    "airplane": ("plane", "aeroplane"),
    "sailboat": ("boat", "sailing boat"),
    "house": ("home", "cottage"),
    "rabbit face": ("bunny",),
    "dog face": ("puppy",),
    "cat face": ("kitten",),
    "T-Rex": ("dinosaur", "t-rex"),
    "hot beverage": ("coffee", "tea", "cup of tea", "mug"),
    "doughnut": ("donut",),
    "french fries": ("fries", "chips"),
    "motorcycle": ("motorbike",),
    "bicycle": ("bike",),
    "television": ("tv",),
    "flying saucer": ("flying saucer", "spaceship"),
    "cocktail glass": ("martini",),
    "beer mug": ("beer", "mug of beer"),
    "jack-o-lantern": ("jack-o'-lantern", "halloween pumpkin"),
    "snow-capped mountain": ("mountains",),
    "game die": ("dice",),
    "locked": ("lock",),
    "soccer ball": ("football",),
    "ewe": ("lamb",),
    "wrapped gift": ("present",),
    "gem stone": ("gem", "jewel"),
}
# What means something else in captions; then CLDR's hints that nobody would ask for.
NOT_NOUNS = frozenset(
    "happy sad good nice cool fast hot cold old new big small large little open closed face red orange yellow "
    "green blue purple pink brown black gray grey white teal dark light flat glossy shiny 3d left right top "
    "bottom up down not no yes ok "
    "adorbs aliens alpha american amusement anger antarctica arctic artsy arty astronomy athletic attraction "
    "australia awful back backpacking bae bamboo barrel bathing bathroom bearer beauty bedtime believe bent bet "
    "billed billion blame bless board body boo bowl brainy brew bro broken brush bull bundle burn caboose "
    "caffeine camping cancer capricorn carbs casual cavities cell champs chilling chin chip chop circle city "
    "class claws clever climb closet clue collar collide consider contact convoluted cops cost country cream "
    "creative crops cross crushed cry cubical curious cut cutting cycle cycling dad danger dart date dead decor "
    "dental dentist dermatologist diet dionysus direct done doo dressage driving drought drove drugs duckling "
    "dung ear easy eat elegant employed engaged european experiment expert extra falling family farming fashion "
    "female filling flamboyant flipper fluctuate fluffy fml forgot formal fortune four front frustrated fry "
    "frying full funny future gang gay genderqueer germs gifted glbt glbtq gobble goodnight grain grow growl "
    "growth habitat haha handy hat hatching hats haunting health heartbreaker hearts heel heels hehe high hit hmm "
    "hoop horn horns hotel hours hrs hump hygiene ice ily intelligent interlocking irish island jack jar job joey "
    "jump keys kick kisses lady late launch lazy left-pointing leo lesbian lgbt lgbtq lgbtqia lit litaf lol "
    "lonely lucky maddening magnifying major man mane married maze medical medicated medicine medieval medium men "
    "message metal mexican million miss mobile monitor morning mouth museum neck negative night nurturing omg one "
    "ophiuchus order ostentatious outdoors over packing paid pan park passenger patrol paying personal photo "
    "picnic piece pile pina pirate polar pop pork positive potassium potted predator private proud pumps queer "
    "racquet rad rage ranch rawr record relaxed religion resort rex ride ringed ripe rockets rofl roflcopter roll "
    "roller rung running safari sailing sand saturnine scary schmear scorpio scorpius seat serious settle sexy "
    "shades shape shedding showing side sign signal silly silver simple sit skate skater slide slightly slow sly "
    "smart smelly smh sms snap soar sour sparkling speech spin spinning spiny spiral split sports spots spouting "
    "springtime sprinkles stars steam steaming step stink stinks stinky stone strat stripe strong stuck-out "
    "stuffed style suburban suburbia sugar summer super surf surfer surprise swag sweat sweeping sympathy tease "
    "terrestrial text thanksgiving theme tilted tired toiletry tool trains trans transgender treasure treat trip "
    "triste turd turn twisted typing ugly unbelievable under unlock unreal upset valentine vertical victory "
    "voltage waiting wedge weekend whatever wheat wheels where wild winks winning wrapped wrapper xoxo yolo you "
    "zoo zoom".split()
)


def words_of(artwork: Artwork) -> list[tuple[str, ...]]:
    """For each thing its words in lower case: the noun of THINGS first, the emoji itself last."""
    keywords = {name: _keywords(artwork, name) for name in THINGS}
    counts = Counter(word for words in keywords.values() for word in words)
    nouns = set(THINGS.values())
    rows = []
    for name, noun in THINGS.items():
        own = [noun, _plain(name), *MORE.get(name, ())]
        own += [word for word in keywords[name] if _means(word, noun, counts[word], nouns)]
        own = list(dict.fromkeys(own))
        rows.append((*own, artwork.emoji[name].replace("\ufe0f", "")))
    return rows


def _means(word: str, noun: str, count: int, nouns: set[str]) -> bool:
    """Whether a keyword names the thing: of it alone, or of a kind of things that is worth knowing."""
    if word in nouns and word != noun:
        return False
    return (word in SHARED or count == 1) and word not in NOT_NOUNS


def _plain(name: str) -> str:
    return name.lower().replace("’", "'")


def _keywords(artwork: Artwork, name: str) -> list[str]:
    """The artwork's keywords of a thing that may be its name; other things may have the same ones."""
    kept = [word for word in artwork.keywords[name] if re.fullmatch(r"[a-z][a-z' -]{2,20}", word)]
    return [word for word in kept if word not in NOT_NOUNS]


def plural(noun: str) -> str:
    if noun.endswith(("s", "fish", "sheep", "deer", "corn", "bread", "popcorn", "spaghetti", "sushi", "broccoli")):
        return noun + ("es" if noun.endswith("ss") else "")
    head, _, tail = noun.partition(" of ")
    if tail:
        return f"{plural(head)} of {tail}"
    for ending, many in (
        ("mouse", "mice"),
        ("wolf", "wolves"),
        ("fe", "ves"),
        ("leaf", "leaves"),
        ("die", "dice"),
        ("man", "men"),
    ):
        if noun.endswith(ending):
            return noun[: -len(ending)] + many
    if noun.endswith(("x", "ch", "sh", "z", "tomato", "potato")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def phrases(artwork: Artwork) -> list[str]:
    """All that captions are put together of."""
    words = words_of(artwork)
    every = [word for own in words for word in own]
    every += [plural(own[0]) for own in words]
    every += [*COLORS, *GOOD, *(word for several in COLOR_WORDS.values() for word in several)]
    every += [word for nouns, adjectives in STYLES.values() for word in nouns + adjectives]
    every += [word for several in QUALITIES.values() for word in several]
    every += "a an the of on in at picture image emoji background small tiny little large big huge".split()
    return every + "left right top bottom corner".split()


def known_words(artwork: Artwork) -> list[str]:
    """Every single word of `phrases`, sorted: what `words.json` lists."""
    return sorted({word for phrase in phrases(artwork) for word in re.findall(r"[^\s,]+", phrase.lower())})

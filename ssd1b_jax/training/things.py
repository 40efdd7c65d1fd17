"""The embedded model's world: what it can draw, in which colors, styles, places and qualities."""

# CLDR short names, and the noun for each where it is another word. A line is a group.
_LISTS = {
    "faces": """
        grinning face = smiling face; winking face; smiling face with heart-eyes = face in love; face with tongue;
        thinking face; sleeping face; face with medical mask = masked face; cowboy hat face = cowboy;
        partying face; smiling face with sunglasses = cool face; nerd face; face with open mouth = surprised face;
        crying face; angry face; smiling face with horns = devil; face with tears of joy = laughing face;
        slightly frowning face = sad face; skull; pile of poo; clown face = clown; ghost; alien;
        robot; red heart = heart; broken heart; speech balloon = speech bubble; collision = explosion
    """,
    "animals": """
        monkey face = monkey; gorilla; dog face = dog; wolf; fox; raccoon; cat face = cat; lion;
        tiger face = tiger; horse face = horse; unicorn; zebra; deer; cow face = cow; pig face = pig;
        ewe = sheep; goat; camel; llama; giraffe; elephant; rhinoceros; hippopotamus;
        mouse face = mouse; hamster; rabbit face = rabbit; hedgehog; bat; bear; polar bear; koala;
        panda; sloth; kangaroo; turkey; chicken; rooster; hatching chick;
        baby chick = chick; bird; penguin; eagle; duck; swan; owl; flamingo; peacock; parrot; frog; crocodile;
        turtle; lizard; snake; dragon face = dragon; sauropod; T-Rex; spouting whale = whale; dolphin;
        tropical fish = fish; shark; octopus; spiral shell = shell; crab; lobster; shrimp; squid; snail;
        butterfly; bug = caterpillar; honeybee = bee; lady beetle = ladybug; spider; scorpion
    """,
    "plants": """
        cherry blossom; rose; sunflower; tulip; potted plant;
        evergreen tree = fir tree; deciduous tree = tree; palm tree; cactus; four leaf clover = clover;
        maple leaf; mushroom
    """,
    "food": """
        grapes; watermelon; tangerine = orange fruit; lemon; banana; pineapple; red apple = apple; pear;
        peach; cherries; strawberry; blueberries; tomato; coconut; avocado; eggplant; potato;
        carrot; ear of corn = corn; hot pepper; cucumber; broccoli; garlic; onion; bread;
        croissant; pretzel; bagel; cheese wedge = cheese; bacon; hamburger;
        french fries; pizza; hot dog; sandwich; taco; egg; cooking = fried egg; popcorn;
        spaghetti; sushi; ice cream; doughnut; cookie;
        birthday cake = cake; cupcake; pie; chocolate bar; candy; lollipop; honey pot; glass of milk;
        hot beverage = cup of coffee; teapot; wine glass = glass of wine; cocktail glass = cocktail; beer mug
    """,
    "places": """
        globe showing Americas = globe; snow-capped mountain = mountain; volcano; desert island = island; house;
        office building; factory; castle; church; fountain; tent; ferris wheel; sun; crescent moon = moon;
        full moon; ringed planet = planet; star; cloud; cloud with rain = rain cloud; tornado; rainbow; umbrella;
        high voltage = lightning; snowflake; snowman; fire; droplet = drop of water; water wave = wave
    """,
    "vehicles": """
        locomotive = train; bus; fire engine = fire truck; police car; taxi; automobile = car;
        delivery truck = truck; tractor; racing car = race car; motorcycle; bicycle;
        skateboard; anchor; sailboat; ship; airplane; helicopter; rocket; flying saucer = ufo;
        wheel; stop sign; vertical traffic light = traffic light
    """,
    "objects": """
        jack-o-lantern = pumpkin; Christmas tree; balloon; wrapped gift = gift; trophy;
        sports medal = medal; soccer ball; baseball; basketball; volleyball; american football; tennis = tennis ball;
        bullseye = target; yo-yo; kite; crystal ball; magic wand; video game = game controller;
        game die = die; puzzle piece; teddy bear; artist palette = palette; hourglass done = hourglass; watch;
        alarm clock; luggage = suitcase; glasses; necktie; t-shirt; scarf; dress;
        backpack; running shoe = shoe; high-heeled shoe; woman’s hat = sun hat; crown; top hat; billed cap = cap;
        ring; gem stone = diamond; bell; musical note; microphone; headphone = headphones; radio; saxophone;
        trumpet; guitar; violin; drum; mobile phone = phone; telephone; laptop;
        desktop computer = computer; television; camera; movie camera; magnifying glass tilted
        left = magnifying glass; candle; light bulb; flashlight; closed book = book; scroll; money bag; coin;
        envelope; package = box; pencil; paintbrush; calendar; scissors; locked = padlock;
        key; hammer; axe; dagger; bomb; bow and arrow; shield; wrench; screwdriver; gear; magnet; ladder;
        microscope; telescope; pill; door; bed; chair; broom; basket; bucket; soap;
        toothbrush
    """,
}


def _read() -> dict[str, str]:
    things = {}
    for text in _LISTS.values():
        for item in " ".join(text.split()).split(";"):
            name, _, noun = item.partition("=")
            things[name.strip()] = noun.strip() or name.strip().lower()
    return things


THINGS: dict[str, str] = _read()  # CLDR short name: the noun that measurements use
NAMES = list(THINGS.values())

# By name, as sRGB.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (221, 46, 68),
    "orange": (244, 144, 30),
    "yellow": (253, 218, 72),
    "green": (72, 168, 82),
    "teal": (30, 160, 160),
    "blue": (46, 108, 214),
    "purple": (132, 70, 184),
    "pink": (247, 164, 196),
    "brown": (134, 88, 54),
    "black": (0, 0, 0),
    "gray": (146, 150, 156),
    "white": (255, 255, 255),
}
COLORS = list(BACKGROUNDS)
COLOR_WORDS = {"gray": ("gray", "grey"), "purple": ("purple", "violet"), "teal": ("teal", "turquoise")}

# Each is a set of artwork, or a way of drawing one; the words that captions have for it, as a noun and as an adjective.
STYLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "flat": (("flat icon", "flat design", "flat picture"), ("flat",)),
    "glossy": (("glossy picture", "3d picture", "3d render"), ("glossy", "3d", "shiny")),
    "line": (("line drawing", "outline", "black and white icon"), ()),
    "cartoon": (("cartoon",), ("cartoon",)),
    "sticker": (("sticker",), ("sticker",)),
    "crude": (("crude drawing", "doodle", "sketch", "child's drawing"), ("crude", "wobbly")),
}
STYLE_NAMES = list(STYLES)

# What `degrade` does to a picture, and the words for it.
QUALITIES: dict[str, tuple[str, ...]] = {
    "blurry": ("blurry", "blurred", "out of focus"),
    "pixelated": ("pixelated", "low resolution", "blocky"),
    "dark": ("dark", "underexposed", "dim"),
    "faded": ("faded", "washed out", "pale"),
    "noisy": ("noisy", "grainy"),
}
QUALITY_NAMES = list(QUALITIES)
GOOD = ("sharp", "crisp", "clean", "clear", "high quality", "bright")  # words for a picture without these


def is_held_out(thing: int, color: int) -> bool:
    """True for the one background in twelve on which a thing is never shown in training."""
    return (5 * thing + 3) % len(COLORS) == color


def is_held_out_color(thing: int, color: int) -> bool:
    """True for the one color in twelve in which a thing is never painted in training."""
    return (7 * thing + 8) % len(COLORS) == color


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' or noun.startswith(('umb', 'und')) else 'a'} {noun}"


def prompt(thing: int, color: int) -> str:
    """The prompt that measurements use for a thing on a background."""
    return f"{with_article(NAMES[thing])} on {with_article(COLORS[color])} background"

"""Five doodles such as a newcomer draws with a finger: what image to image is tried on."""

from ssd1b_jax.training.artwork import rasterize
from ssd1b_jax.training.pictures import Pixels

PAPER, INK = "#fbfaf6", "#333333"

# On the drawings' 32 x 32 canvas, crooked on purpose.
DOODLES = {
    "face": (
        '<path d="M16.4 4.2C23 4 28 9.4 27.6 16.5C27.3 23 22 28 15.5 27.7'
        'C9 27.4 4.2 22.5 4.5 15.8C4.8 9 10 4.4 16.4 4.2Z" fill="#ffd84a"/>'
        '<path d="M11.5 11.5l.2 3.2M20.8 11l-.1 3.4M9.8 19.5c3 4.6 9.6 4.7 12.4-.2" fill="none"/>'
    ),
    "house": (
        '<path d="M6.5 15.3L7 27.5L25.6 27.2L25.2 14.8Z" fill="#f2c48d"/>'
        '<path d="M3.8 15.8L16.3 5L28.4 15.3Z" fill="#d9483b"/>'
        '<path d="M13.4 27.3L13.6 20.3L18.3 20.2L18.6 27.3Z" fill="#8a5a35"/>'
    ),
    "tree": (
        '<path d="M14.3 28.5L14.8 18L18 18.2L18.4 28.4Z" fill="#8a5a35"/>'
        '<path d="M16 4.5c4-.9 7 1.7 7.2 4.8c3 .9 4.3 4 2.8 6.8c-1.6 2.9-4.7 3.2-6.9 2.3'
        'c-2 1.5-5 1.4-6.5 0c-3 .9-6.3-.7-6.8-4c-.4-2.7 1.4-4.8 3.7-5.3c.2-2.5 3-4.2 6.5-4.6Z" fill="#4fa64f"/>'
    ),
    "fish": (
        '<path d="M4.5 16.5c4-7 13-8.6 18.6-1.9l5-4.5c1 3.8 1 8.3.2 12l-5.2-4.2c-6 6.3-14.8 5-18.6-1.4Z"'
        ' fill="#4a90d9"/><circle cx="9.8" cy="14.8" r="1.3" fill="#333333"/>'
    ),
    "apple": (
        '<path d="M16 11c3-2.8 9.3-2.6 10.8 3.3c1.3 5.5-3 13-7.3 13.1c-1.5 0-2-.8-3.5-.8c-1.6 0-2.3 1-3.8.9'
        'c-4.3-.4-8.2-7.8-7-13c1.3-5.6 7.6-6.5 10.8-3.5Z" fill="#d9302c"/>'
        '<path d="M16 11c-.3-2.3.3-4.3 1.9-6" fill="none"/><path d="M17.6 7.8c1.5-2.5 4-3 6-2.5c-.7 2.4-3.2 3.7-6 2.5Z"'
        ' fill="#58a84a"/>'
    ),
}


def draw(name: str, size: int = 256) -> Pixels:
    """One of DOODLES on paper."""
    pen = f'stroke="{INK}" stroke-width="0.7" stroke-linejoin="round" stroke-linecap="round"'
    paper = f'<rect width="32" height="32" fill="{PAPER}"/>'
    return rasterize(f"{paper}<g {pen}>{DOODLES[name]}</g>", 32.0, size)[..., :3].copy()

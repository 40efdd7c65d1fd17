"""Masks as people hand them over, to masks in black and white: what is white is remade.

Which rule was taken stands in a note, unless it is the first.

- Without transparency, light is remade and dark is kept. Colours count by their brightest channel (note), and a mask
  whose highest value is 1 has 1 for white (note).
- A layer, clear at the picture's rim, with a few flat colours: what is painted is remade (note); but where both light
  and dark colours are painted, only the light ones.
- Any other transparency is an erased part, which is remade (note), as in OpenAI's edits and in GIMP; the colours that
  are left don't count, unless they are flat, light and dark.

From the middle up grey counts as white; of much grey there is a note.
"""

import numpy as np
from jaxtyping import Bool, UInt8

from ssd1b_jax.images import reading
from ssd1b_jax.images.resizing import Pixels

CHROMA = 64  # between the channels of a pixel that has a colour
COLOURED, GREY = 0.001, 0.05  # parts of all pixels that make a mask coloured, or grey
FLAT_COLOURS = 4  # at most, of what was painted with a brush and not a camera
DARK, LIGHT = 16, 239  # beyond them is no grey


def read(source: reading.Source) -> reading.Loaded:
    """Read a mask by the rules above. Raises ImageError."""
    layers = reading.load_layers(source)
    notes = [*layers.notes]
    if layers.alpha is None:
        pixels = _opaque(layers.pixels, notes)
    else:
        pixels = in_white(_transparent(layers.pixels, layers.alpha >= 128, notes))
    if np.mean((pixels.max(-1) > DARK) & (pixels.min(-1) < LIGHT)) > GREY:
        notes.append("its grey parts count as white from the middle up, and as black below")
    return reading.Loaded(pixels, tuple(notes), layers.sha256)


def _opaque(pixels: Pixels, notes: list[str]) -> Pixels:
    brightest = pixels.max(-1)
    if brightest.max() == 1:
        notes.append("its values are 0 and 1, so 1 counts as white")
        return in_white(brightest == 1)
    if np.mean(brightest - pixels.min(-1) > CHROMA) > COLOURED:
        notes.append("its colours count by their brightest channel")
        return np.repeat(brightest[..., None], 3, axis=-1)
    return pixels


def _transparent(
    pixels: Pixels, visible: Bool[np.ndarray, "height width"], notes: list[str]
) -> Bool[np.ndarray, "height width"]:
    """Where a mask with transparency is white."""
    if not visible.any():
        notes.append("it is clear all over, so all is remade")
        return ~visible
    light = pixels.max(-1) >= 128
    is_layer = np.mean(_rim(visible)) < 0.5
    is_flat = len(np.unique(pixels[visible] // 64, axis=0)) <= FLAT_COLOURS
    if is_flat and light[visible].any() and not light[visible].all():
        notes.append(f"its light parts are remade, and its clear ones (alpha) {'kept' if is_layer else 'remade'}")
        return visible & light if is_layer else ~visible | light
    if is_flat and is_layer:
        notes.append("what is painted on its clear layer (alpha) is remade")
        return visible
    notes.append("what is erased from it (alpha) is remade")
    return ~visible


def _rim(values: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, " rim"]:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def in_white(remade: Bool[np.ndarray, "height width"]) -> Pixels:
    """A mask in black and white."""
    white: UInt8[np.ndarray, "height width"] = np.where(remade, 255, 0).astype(np.uint8)
    return np.repeat(white[..., None], 3, axis=-1)

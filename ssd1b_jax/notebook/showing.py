"""Pictures in a row, and how far long work is."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import UInt8

from ssd1b_jax import images
from ssd1b_jax.errors import RequestError
from ssd1b_jax.grid import letters
from ssd1b_jax.result import Result

Pixels = UInt8[np.ndarray, "height width 3"]

COMPILED = "/jax/core/compile/backend_compile_duration"
LETTERS, LINES, MARGIN = 14, 2, 4  # of labels: pixels of their letters, lines of each at most, pixels round them
LOOK_SECONDS = 1.0


class Compilations:
    """How many programs XLA compiled, or read from the compilation cache."""

    count: int = 0


@contextmanager
def compilations() -> Iterator[Compilations]:
    """Counts while the block runs."""
    compiled = Compilations()

    def listen(event: str, *_, **__) -> None:
        compiled.count += event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextmanager
def progress(title: str) -> Iterator[None]:
    """Say on one line how long the block has taken and how many programs were compiled, every second and at its end."""
    began, ended = time.perf_counter(), threading.Event()

    def say(end: str = "") -> None:
        seconds = time.perf_counter() - began
        print(f"\r{title}: {seconds:.0f} s, {compiled.count} programs compiled", end=end, flush=True)

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            say()

    with compilations() as compiled:
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            say("\n")


def row(pictures: Iterable[Result | Pixels], height: int = 256, labels: Sequence[object] = ()):
    """Pictures of one size side by side, as a Pillow image; small ones are enlarged to about `height`.

    Each of `labels` stands above its picture. Raises RequestError where there are not as many as pictures.
    """
    shown = [picture.pixels if isinstance(picture, Result) else picture for picture in pictures]
    if labels and len(labels) != len(shown):
        raise RequestError(f"there must be as many labels as pictures, {len(shown)}, got {len(labels)}")
    pixels = np.hstack(shown)
    pixels = images.upscale(pixels, max(height // len(pixels), 1))
    if labels:
        width = pixels.shape[1] // len(labels)
        pixels = np.vstack([np.hstack([_label(str(label), width) for label in labels]), pixels])
    return images.to_pil(pixels)


def _label(text: str, width: int) -> Pixels:
    """Words in black on white, in the middle of this many pixels."""
    lines = [letters.write(line, LETTERS) for line in letters.wrap(text, LETTERS, width - 2 * MARGIN, LINES)]
    line_height = letters.write("", LETTERS).shape[0]
    ink = np.zeros((LINES * line_height + 2 * MARGIN, width), np.uint8)
    top = MARGIN + (LINES - len(lines)) * line_height
    for line in lines:
        left = max(0, (width - line.shape[1]) // 2)
        place = ink[top : top + line.shape[0], left : left + line.shape[1]]
        place[...] = line[: place.shape[0], : place.shape[1]]
        top += line_height
    return np.repeat(255 - ink[..., None], 3, axis=-1)

"""What the notebooks show with: pictures in a row, and how many programs were compiled meanwhile."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import UInt8

from ssd1b_jax import images
from ssd1b_jax.result import Result

COMPILED = "/jax/core/compile/backend_compile_duration"


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


def row(pictures: Iterable[Result | UInt8[np.ndarray, "height width 3"]], height: int = 256):
    """Pictures of one size side by side, as a Pillow image; small ones are enlarged to about `height`."""
    pixels = np.hstack([picture.pixels if isinstance(picture, Result) else picture for picture in pictures])
    return images.to_pil(images.upscale(pixels, max(height // len(pixels), 1)))

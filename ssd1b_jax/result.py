"""What comes of a Request: a picture, and its record."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.records import Output, saving
from ssd1b_jax.request import Request
from ssd1b_jax.settings.fields import OutputFields


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """A picture, and how it was made.

    `pixels` is uint8 (height, width, 3); `request` is resolved; `steps_run` counts the steps that ran, fewer than
    asked for where strength is below 1; `seconds` is its share of its batch's wall time, compilation included;
    `record` is plain JSON, see `records.record`; `notes` are sentences for the user about what was dropped or cut.
    """

    pixels: np.ndarray
    request: Request
    steps_run: int
    seconds: float
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The seed, also where it was drawn."""
        return self.request.seed

    @property
    def image(self):
        """The picture as a Pillow image."""
        return images.to_pil(self.pixels)

    def save(self, path: str | Path, output: Output | None = None, **options: Unpack[OutputFields]) -> saving.Saved:
        """Write a PNG, JPEG or WebP by the suffix, whole or not at all.

        The options are those of `records.Output`; those that are given replace the output's. What is too long for a
        JPEG goes to the sidecar; a file that is no sidecar of ours is never replaced by one.
        Returns what was written: `picture`, `sidecar` (None if there is none), and `notes`, sentences for the user
        about what had no room. Raises RequestError, ImageError or SaveError.
        """
        output = Output(**options) if output is None else dataclasses.replace(output, **options)
        return saving.save(self.pixels, path, dict(self.record), self.request, output)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return images.encode(self.pixels, ".png")

    def __repr__(self) -> str:
        height, width, _ = self.pixels.shape
        return f"Result({width} x {height}, {self.steps_run} steps, {self.seconds:.1f} s, {self.request!r})"

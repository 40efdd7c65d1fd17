"""What comes of a Request: a picture, and everything that made it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssd1b_jax import images, records
from ssd1b_jax.records import saving
from ssd1b_jax.request import Request


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A picture, and the resolved request that made it.

    `pixels` is uint8 (height, width, 3); `steps_run` counts the steps that ran, fewer than asked
    where strength is below 1; `seconds` is its share of its batch's wall time, compilation
    included; `notes` are sentences for the user about what was dropped or cut; `made` is what
    `provenance` can say before there are pixels.
    """

    pixels: np.ndarray = field(repr=False)
    request: Request
    steps_run: int
    seconds: float
    made: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return self.request.seed

    @property
    def image(self):
        """The picture as a Pillow image."""
        return images.to_pil(self.pixels)

    @functools.cached_property
    def provenance(self) -> dict[str, Any]:
        """Everything that made the picture, as plain JSON; see `provenance`."""
        return records.with_pixels(self.made, self.pixels)

    def save(
        self,
        path: str | Path,
        *,
        upscale: int = 1,
        metadata: bool = True,
        sidecar: bool = False,
        embed_input: bool = False,
    ) -> saving.Saved:
        """Write a PNG, JPEG or WebP by the suffix, whole or not at all; `upscale` enlarges it (Lanczos).

        `metadata` tells in the file how it was made, `sidecar` in a JSON file beside it. With
        `embed_input` a PNG also holds the input (and mask), at the size that was made: the file
        alone suffices to make the picture again. What is too long for a JPEG goes to the sidecar.
        Returns what was written: `picture`, `sidecar` (None if there is none), and `notes`, sentences
        for the user about what had no room. Raises ImageError or SaveError; a file that is no
        sidecar of ours is never replaced by one.
        """
        how = dict(upscale=upscale, metadata=metadata, sidecar=sidecar, embed_input=embed_input)
        return saving.save(self.pixels, path, self.provenance, self.request, **how)

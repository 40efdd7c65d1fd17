"""A stand-in for a pipeline that makes pictures of their requests alone, and a command that runs a manifest with it.

It imports no JAX: a process is there in a third of a second, to be killed.
"""

import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np

from ssd1b_jax import Error, Result, images, records, runs
from ssd1b_jax.presets import emoji
from ssd1b_jax.runs import origin
from ssd1b_jax.runs.folder import Folder as Folder
from ssd1b_jax.runs.place import place as place_of

MODEL = dict(name="stub", source="stub", revision=None, sha256="0" * 64)
TOGETHER = 6


class StubPipe:
    """Pictures of one colour and some noise, a few at a time; `seconds` is how long each takes."""

    def __init__(self, seconds: float = 0.0, size: int = 8):
        self.asked = 0
        self._seconds, self._size = seconds, size
        self._maker = records.maker(MODEL, dict(platform="stub", kind="stub"), {"unet": "float32"}, 1, None)

    def stream(self, requests, on_error):
        numbered = enumerate(requests)
        while some := [*islice(numbered, TOGETHER)]:
            for number, request in sorted(some, key=lambda each: each[1].seed):
                self.asked += 1
                time.sleep(self._seconds)
                try:
                    yield number, self._result(request)
                except Error as error:
                    yield number, error

    def _result(self, request) -> Result:
        sources = {}
        if request.image is not None:
            sources["image"] = records.source(request.image, images.load(request.image))
        random = np.random.default_rng(request.seed)
        pixels = random.integers(0, 256, (self._size, self._size, 3), np.uint8)
        record = records.with_pixels(records.describe(request, sources, self._maker, 1), pixels)
        return Result(pixels=pixels, request=request, steps_run=1, seconds=self._seconds, record=record)


def open_run(manifest, out, *, policy=None, shard=None, ignored=(), **defaults) -> runs.Run:
    """A run of the stub."""
    place = place_of(str(out)) if isinstance(out, str | Path) else out
    defaults = runs.Defaults(config=emoji(), **defaults)
    listed = runs.read(manifest, ignored=ignored)
    made_by = origin.describe(listed, defaults, MODEL, {})
    how = dict(shard=shard or runs.Shard(), policy=policy or runs.Policy())
    return runs.Run(listed, defaults, place, made_by, **how)


def make(manifest, out, pipe=None, tell=lambda entry: None, **about) -> runs.Run:
    """A run of the stub, from its opening to its end."""
    run = open_run(manifest, out, **about)
    try:
        run.make(pipe or StubPipe(), tell)
    finally:
        run.close()
    return run


if __name__ == "__main__":
    manifest, out, seconds, share = sys.argv[1:]
    lease = float(share.removeprefix("lease=")) if share.startswith("lease=") else None
    shard = runs.Shard() if lease else runs.Shard.parse(share)
    make(manifest, out, StubPipe(float(seconds)), policy=runs.Policy(lease=lease), shard=shard)

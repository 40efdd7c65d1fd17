"""The denoiser's training data: scenes and their latents, in shards that can be added to.

A shard is a folder with `scenes.npy`, a row for each `Scene`, `targets.npy`, the latents of their
pictures, and `sources.npy` with `of.npy`: latents of what some of them may be made from, and of
which. Each follows from its number alone.
"""

import functools
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax.config import ModelConfig
from ssd1b_jax.models import abstract
from ssd1b_jax.training import pictures
from ssd1b_jax.training.artwork import Sprites
from ssd1b_jax.training.pictures import Pixels, Scene

SHARD = 2048  # scenes
SOURCES_SHARE = 0.5
BATCH = 32


def make(
    config: ModelConfig,
    vae_params,
    sprites: Sprites,
    folder: Path,
    count: int,
    *,
    size: int = SHARD,
    workers: int = 0,
    sample: Callable[[np.random.Generator], Scene] = pictures.sample,
) -> None:
    """Make the shards up to `count` that are not there yet; `workers` processes draw, none by itself."""
    encode = functools.partial(_encoder(config), vae_params)
    draw = functools.partial(_draw, width=config.defaults.width)
    missing = [target for number in range(count) if not (target := folder / f"{number:04d}").exists()]
    if not workers or not missing:
        _open(sprites)
        for target in missing:
            _make_shard(encode, functools.partial(map, draw), target, size, sample)
        return
    processes = multiprocessing.get_context("spawn")
    source = Path(sprites.pixels.filename).parent
    with ProcessPoolExecutor(workers, processes, _open_folder, (source,)) as pool:
        for target in missing:
            _make_shard(encode, functools.partial(pool.map, draw, chunksize=BATCH), target, size, sample)


_opened: list[Sprites] = []  # what this process draws from


def _open(sprites: Sprites) -> None:
    _opened[:] = [sprites]


def _open_folder(folder: Path) -> None:
    _open(Sprites.load(folder))


def _draw(scene: Scene, photo: bool, width: int) -> Pixels:
    return pictures.draw(_opened[0], scene, width, photo)


def _make_shard(encode, draw_all, target: Path, size: int, sample) -> None:
    rng = np.random.default_rng((7, int(target.name)))
    scenes = [sample(rng) for _ in range(size)]
    has_source = np.flatnonzero(rng.random(size) < SOURCES_SHARE)
    sources = [pictures.source(rng, scenes[i]) for i in has_source]
    photos = (rng.random(len(sources)) < 0.3).tolist()
    partial = target.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / "scenes.npy", np.array(scenes, np.float64))
    np.save(partial / "targets.npy", _encoded(encode, draw_all(scenes, [False] * size)))
    np.save(partial / "sources.npy", _encoded(encode, draw_all(sources, photos)))
    np.save(partial / "of.npy", has_source)
    np.save(partial / "things.npy", np.array([scene.thing for scene in sources]))
    partial.rename(target)


def _encoder(config: ModelConfig):
    graphdef, _ = abstract("vae", config)

    @jax.jit
    def encode(params, pixels):
        posterior = nnx.merge(graphdef, params).encode(pixels.astype(jnp.float32) / 127.5 - 1)
        return posterior.mean

    return encode


def _encoded(encode, drawn) -> np.ndarray:
    """Latents of pictures, as float16."""
    chunks, waiting = [], []
    for pixels in drawn:
        waiting.append(pixels)
        if len(waiting) == BATCH:
            chunks.append(np.asarray(encode(np.stack(waiting))).astype(np.float16))
            waiting = []
    if waiting:
        padded = np.stack(waiting + waiting[-1:] * (BATCH - len(waiting)))
        chunks.append(np.asarray(encode(padded)).astype(np.float16)[: len(waiting)])
    return np.concatenate(chunks)


@dataclass(frozen=True)
class Latents:
    """Shards, read together. `source_of[i]` is the row of `sources` for scene i, or -1."""

    scenes: np.ndarray
    targets: np.ndarray
    sources: np.ndarray
    source_of: np.ndarray
    source_things: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> "Latents":
        shards = sorted(path for path in folder.glob("*") if path.name.isdigit())
        if not shards:
            raise FileNotFoundError(f"{folder} has no latents: make them first")
        scenes, targets, sources, things = (
            np.concatenate([np.load(shard / f"{name}.npy") for shard in shards])
            for name in ("scenes", "targets", "sources", "things")
        )
        source_of, begun = np.full(len(scenes), -1), 0
        for shard, start in zip(
            shards, np.cumsum([0, *(len(np.load(s / "scenes.npy")) for s in shards)]), strict=False
        ):
            rows = np.load(shard / "of.npy")
            source_of[start + rows] = begun + np.arange(len(rows))
            begun += len(rows)
        return cls(scenes, targets, sources, source_of, things)

    def scene(self, index: int) -> Scene:
        row = self.scenes[index]
        return Scene(*(kind(value) for kind, value in zip(KINDS, row, strict=True)))

    def scaling_factor(self) -> float:
        """One over the latents' deviation."""
        return float(1 / self.targets[:SHARD].astype(np.float32).std())


KINDS = tuple(Scene.__annotations__.values())

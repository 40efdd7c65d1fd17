"""Each part as this project does it, in float32 with random weights where only the time matters."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd1b_jax import models
from ssd1b_jax.bench.contenders import Prepared, started
from ssd1b_jax.bench.task import FOLDER, GUIDED, PICTURES, TOGETHER, Task
from ssd1b_jax.checkpoints.memory import trim_heap
from ssd1b_jax.checkpoints.model_folder import Manifest, Model, load_model, read_manifest, save_model
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.request import Request

PLATFORM = "cpu"


def random_params(part: str, task: Task, platform: str | None = None) -> dict:
    """Weights that keep activations at their size, prepacked for a platform if one is given."""
    numbers = task.draw(1 << 20)

    def fill(path, leaf):
        if path[-1] == "scale":
            return jnp.ones(leaf.shape)
        spread = 0.02 if leaf.ndim == 1 else float(np.prod(leaf.shape[:-1])) ** -0.5
        made = np.empty(leaf.shape, np.float32)
        for start in range(0, made.size, numbers.size):
            piece = made.reshape(-1)[start : start + numbers.size]
            np.multiply(numbers[: piece.size], spread, out=piece)
        return jnp.asarray(made)

    shapes = models.abstract(part, task.config, platform=platform)[1]
    return jax.tree_util.tree_map_with_path(lambda path, leaf: fill([key.key for key in path], leaf), shapes)


def _network(part: str, task: Task, method: str, *arguments) -> Prepared:
    """One method of a network; its flops are counted on the plain algorithms."""

    def call(graphdef, params, *arguments):
        return getattr(nnx.merge(graphdef, params), method)(*arguments)

    arguments = jax.tree.map(jnp.asarray, arguments)
    plain, shapes = models.abstract(part, task.config)
    flops = jax.jit(partial(call, plain)).lower(shapes, *arguments).cost_analysis()["flops"]
    graphdef, _ = models.abstract(part, task.config, platform=PLATFORM)
    params = random_params(part, task, PLATFORM)
    compiled = jax.jit(partial(call, graphdef)).lower(params, *arguments).compile()
    trim_heap()  # what compiling took
    return Prepared(lambda: jax.block_until_ready(compiled(params, *arguments)), flops)


def unet(task: Task) -> Prepared:
    """What a step calls: the prompt's keys and values are already there."""
    graphdef, _ = models.abstract("unet", task.config)
    given = task.draw(GUIDED, task.length, task.config.unet.cross_attention_dim)
    given = given, task.draw(GUIDED, task.config.unet.pooled_dim), np.ones((GUIDED, 6), np.float32)
    shapes = jax.eval_shape(
        lambda params: nnx.merge(graphdef, params).condition(*map(jnp.asarray, given)),
        models.abstract("unet", task.config)[1],
    )
    conditioning = jax.tree.map(lambda leaf: task.draw(*leaf.shape), shapes)
    timesteps = np.full(GUIDED, 500, np.float32)
    return _network("unet", task, "denoise", task.draw(GUIDED, *task.latents), timesteps, conditioning)


def vae_encode(task: Task) -> Prepared:
    return _network("vae", task, "encode", task.draw(1, task.size, task.size, 3))


def vae_decode(task: Task) -> Prepared:
    return _network("vae", task, "decode", task.draw(1, *task.latents))


def text(task: Task) -> Prepared:
    parts = [_network(part, task, "__call__", task.tokens()) for part in ("text_encoder", "text_encoder_2")]
    return Prepared(lambda: [part.run() for part in parts] and None, sum(part.flops for part in parts))


def _pipeline(task: Task, devices=None) -> Pipeline:
    """The embedded model with its weights, another with random ones and the embedded one's vocabulary."""
    if task.model == "emoji":
        return Pipeline.from_pretrained("emoji", devices=devices)
    about = dict(
        dtype="float32",
        source="random weights",
        revision=None,
        licence="unknown",
        files={},
        name=task.model,
        sha256="0",
    )
    manifest = Manifest(folder=read_manifest("emoji").folder, config=task.config, **about)
    params = {part: random_params(part, task, PLATFORM) for part in models.PARTS}
    return Pipeline(Model(manifest=manifest, params=params, platform=PLATFORM), devices=devices)


def _request(task: Task, seed: int = 0) -> Request:
    return Request(
        image=task.picture(), prompt="a red apple", negative_prompt="a cat", width=task.size, height=task.size,
        strength=task.strength, num_inference_steps=task.steps, guidance_scale=5.0, seed=seed,
    )  # fmt: skip


def img2img(task: Task) -> Prepared:
    pipe = _pipeline(task, jax.local_devices()[:1])
    return Prepared(lambda: pipe.generate([_request(task)]) and None)


def _folder(task: Task) -> str | Path:
    """The embedded model, or a folder of random weights, written where there is none yet."""
    if task.model == "emoji":
        return task.model
    folder = FOLDER / "ours" / task.model
    if not folder.exists():
        params = {part: random_params(part, task) for part in models.PARTS}
        names = read_manifest("emoji").folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_model(folder, task.config, params, tokenizers=names, dtype="float32", source="random weights")
    return folder


def start(task: Task) -> Prepared:
    """To the first picture, programs already in the compilation cache."""
    requests = [_request(task)]
    pipe = Pipeline.from_pretrained(_folder(task), devices=jax.local_devices()[:1], requests=requests)
    return started(lambda: pipe.generate(requests) and None)


def load(task: Task) -> Prepared:
    """Verified weights in memory, in the dtype that a pipeline has them in."""
    return Prepared(lambda: jax.block_until_ready(load_model(_folder(task), dtype="float32").params) and None)


class WatchedDevices(Devices):
    """Devices that note when they have work: from a call's return, which gives it out, until its results are ready.

    A thread waits for the results, and host and devices go on as they do without it; with `waiting`,
    every call waits itself, so that nothing is done meanwhile. Virtual devices share the host's cores: while
    it is busy they are slower, and have work all the same.
    """

    def __init__(self, devices=None, per_device: int = 1, *, waiting: bool = False):
        super().__init__(devices, per_device)
        self._waiting, self._thread, self._spans = waiting, ThreadPoolExecutor(1), []

    def map(self, function: Callable, *, batches: int, donate: tuple[int, ...] = ()) -> Callable:
        call = super().map(function, batches=batches, donate=donate)

        def run(*arguments):
            results = call(*arguments)
            span = self._thread.submit(self._wait, time.perf_counter(), results[-1])  # never donated
            self._spans.append(span)
            if self._waiting:
                span.result()
            return results

        run.lower = call.lower
        return run

    @staticmethod
    def _wait(began: float, results) -> tuple[float, float]:
        jax.block_until_ready(results)
        return began, time.perf_counter()

    def take(self) -> float:
        """Seconds in which some device had work, since this was last asked."""
        spans, self._spans = self._spans, []
        return covered(span.result() for span in spans)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long the union of the spans of time is."""
    seconds, until = 0.0, -np.inf
    for began, ended in sorted(spans):
        seconds, until = seconds + max(0.0, ended - max(began, until)), max(ended, until)
    return seconds


def _from_files(task: Task, devices: WatchedDevices, count: int) -> tuple[Callable[[], None], list]:
    """Pictures read from as many files and written to others; of every run its seconds, and those with work."""
    paths, times, pipe = task.write_pictures("ours", count), [], _pipeline(task, devices)
    requests = [dataclasses.replace(_request(task, i), image=path) for i, path in enumerate(paths)]

    def run():
        devices.take()
        began = time.perf_counter()
        for index, result in pipe.stream(requests):
            result.save(paths[index].with_stem(f"{index}-made"))
        times.append((time.perf_counter() - began, devices.take()))

    return run, times


def host(task: Task) -> Prepared:
    """A picture from file to file: all that the host does for it while no device works, as nothing overlaps."""
    run, times = _from_files(task, WatchedDevices(jax.local_devices()[:1], waiting=True), 1)

    def notes() -> dict[str, float]:
        seconds, spent = np.transpose(times[1:])
        return dict(host_s=float(np.median(seconds - spent)), host_share=float(np.median(1 - spent / seconds)))

    return Prepared(run, notes=notes)


def batch(task: Task, devices: int = 4) -> Prepared:
    """Pictures from files to files over virtual devices: how many a second, and how much of that these had work."""
    jax.config.update("jax_num_cpu_devices", devices)
    run, times = _from_files(task, WatchedDevices(per_device=TOGETHER // devices), PICTURES)

    def notes() -> dict[str, float]:
        seconds, spent = np.transpose(times[1:])
        return dict(pictures_per_s=float(PICTURES / np.median(seconds)), busy_share=float(np.median(spent / seconds)))

    return Prepared(run, notes=notes)


def compile_unet(task: Task) -> Prepared:
    """Tracing and compiling the UNet from shapes alone, with no cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    graphdef, shapes = models.abstract("unet", task.config, platform=PLATFORM)
    prompt = jax.ShapeDtypeStruct((GUIDED, task.length, task.config.unet.cross_attention_dim), jnp.float32)
    pooled = jax.ShapeDtypeStruct((GUIDED, task.config.unet.pooled_dim), jnp.float32)
    one, six = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((GUIDED,), (GUIDED, 6)))
    latents = jax.ShapeDtypeStruct((GUIDED, *task.latents), jnp.float32)

    def run():
        jax.clear_caches()
        call = jax.jit(lambda params, *arguments: nnx.merge(graphdef, params)(*arguments))
        call.lower(shapes, latents, one, prompt, pooled, six).compile()

    return Prepared(run)


PARTS = {
    "unet": unet, "vae-encode": vae_encode, "vae-decode": vae_decode, "text": text, "img2img": img2img,
    "start": start, "load": load, "batch": batch, "compile": compile_unet, "host": host,
}  # fmt: skip

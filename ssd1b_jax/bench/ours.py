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
from ssd1b_jax.bench import served, weights
from ssd1b_jax.bench.contenders import Prepared, started
from ssd1b_jax.bench.task import FOLDER, GUIDED, Task
from ssd1b_jax.checkpoints.memory import trim_heap
from ssd1b_jax.checkpoints.model_folder import Model, load_model, save_model
from ssd1b_jax.checkpoints.model_json import Manifest, read_manifest
from ssd1b_jax.checkpoints.tensor_names import keys, table
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.request import Request

PLATFORM = "cpu"


def random_params(part: str, task: Task, platform: str | None = None) -> dict:
    """The weights of `weights.tensor`, prepacked for a platform if one is given."""
    names = {entry.path: (name, entry) for name, entry in table(part, task.config).items()}

    def fill(path, leaf):
        name, entry = names[keys(path)]
        return jnp.asarray(weights.tensor(name, entry.shape).transpose(entry.axes))

    params = jax.tree_util.tree_map_with_path(fill, models.abstract(part, task.config)[1])
    return models.prepack(part, task.config, params, platform, take=True)


def _network(part: str, task: Task, method: str, *arguments, params: dict | None = None) -> Prepared:
    """One method of a network. Its flops are counted on the plain algorithms."""

    def call(graphdef, params, *arguments):
        return getattr(nnx.merge(graphdef, params), method)(*arguments)

    arguments = jax.tree.map(jnp.asarray, arguments)
    plain, shapes = models.abstract(part, task.config)
    flops = jax.jit(partial(call, plain)).lower(shapes, *arguments).cost_analysis()["flops"]
    graphdef, _ = models.abstract(part, task.config, platform=PLATFORM)
    params = params or random_params(part, task, PLATFORM)
    compiled = jax.jit(partial(call, graphdef)).lower(params, *arguments).compile()
    trim_heap()  # what compiling took

    def run():
        return jax.block_until_ready(compiled(params, *arguments))

    return Prepared(run, flops, output=run)


def unet(task: Task) -> Prepared:
    """The UNet's part of a step: the prompt's keys and values are computed before."""
    graphdef, _ = models.abstract("unet", task.config, platform=PLATFORM)
    params = random_params("unet", task, PLATFORM)
    context = task.draw(GUIDED, task.length, task.config.unet.cross_attention_dim)
    pooled = task.draw(GUIDED, task.config.unet.pooled_dim)
    condition = jax.jit(lambda params, *arguments: nnx.merge(graphdef, params).condition(*arguments))
    conditioning = condition(params, context, pooled, np.ones((GUIDED, 6), np.float32))
    timesteps = np.full(GUIDED, 500, np.float32)
    latents = task.draw(GUIDED, *task.latents)
    return _network("unet", task, "denoise", latents, timesteps, conditioning, params=params)


def vae_encode(task: Task) -> Prepared:
    network = _network("vae", task, "encode", task.draw(1, task.size, task.size, 3))
    return dataclasses.replace(network, output=lambda: network.output().mean)


def vae_decode(task: Task) -> Prepared:
    return _network("vae", task, "decode", task.draw(1, *task.latents))


def text(task: Task) -> Prepared:
    """Both encoders, whose output to compare is the hidden states of both, side by side."""
    parts = [_network(part, task, "__call__", task.tokens()) for part in ("text_encoder", "text_encoder_2")]

    def output():
        return jnp.concatenate([part.output().hidden for part in parts], axis=-1)

    return Prepared(lambda: [part.run() for part in parts], sum(part.flops for part in parts), output=output)


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


def make_request(task: Task, seed: int = 0) -> Request:
    return Request(
        image=task.picture(), prompt="a red apple", negative_prompt="a cat", width=task.size, height=task.size,
        strength=task.strength, num_inference_steps=task.steps, guidance_scale=5.0, seed=seed,
    )  # fmt: skip


def img2img(task: Task) -> Prepared:
    pipe = _pipeline(task, jax.local_devices()[:1])
    return Prepared(lambda: pipe.generate([make_request(task)]) and None)


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
    requests = [make_request(task)]
    pipe = Pipeline.from_pretrained(_folder(task), devices=jax.local_devices()[:1], requests=requests)
    return started(lambda: pipe.generate(requests) and None)


def load(task: Task) -> Prepared:
    """Verified weights in memory, in the dtype that a pipeline has them in."""
    return Prepared(lambda: jax.block_until_ready(load_model(_folder(task), dtype="float32").params) and None)


class Watch:
    """Notes when a pipeline's devices have work: from a call's return, which gives it out, until its results are ready.

    A thread waits for the results, and host and devices go on as they do without it; with `waiting`,
    every call waits itself, so that nothing is done meanwhile. Virtual devices share the host's cores: while
    it is busy they are slower, and have work all the same.
    """

    def __init__(self, pipe: Pipeline, *, waiting: bool = False):
        self._waiting, self._thread, self._spans = waiting, ThreadPoolExecutor(1), []
        self._call = pipe.runner.run
        pipe.runner.run = self._run

    def _run(self, name: str, program, *arguments):
        results = self._call(name, program, *arguments)
        if not name.startswith("put"):
            span = self._thread.submit(self._wait, time.perf_counter(), results[-1])  # never donated
            self._spans.append(span)
            if self._waiting:
                span.result()
        return results

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


def _from_files(task: Task, devices: Devices, count: int, waiting: bool = False) -> tuple[Callable[[], None], list]:
    """Pictures read from as many files and written to others; of every run its seconds, and those with work."""
    paths, times, pipe = task.write_pictures("ours", count), [], _pipeline(task, devices)
    watch = Watch(pipe, waiting=waiting)
    requests = [dataclasses.replace(make_request(task, i), image=path) for i, path in enumerate(paths)]

    def run():
        watch.take()
        began = time.perf_counter()
        for index, result in pipe.stream(requests):
            result.save(paths[index].with_stem(f"{index}-made"))
        times.append((time.perf_counter() - began, watch.take()))

    return run, times


def host(task: Task) -> Prepared:
    """A picture from file to file: all that the host does for it while no device works, as nothing overlaps."""
    run, times = _from_files(task, Devices(jax.local_devices()[:1]), 1, waiting=True)

    def notes() -> dict[str, float]:
        seconds, spent = np.transpose(times[1:])
        return dict(host_s=float(np.median(seconds - spent)), host_share=float(np.median(1 - spent / seconds)))

    return Prepared(run, notes=notes)


def serve(task: Task) -> Prepared:
    """`ssd1b serve`, asked by clients over HTTP."""
    return served.ours(task, Pipeline.from_pretrained(task.model, devices=Devices(per_device=task.width)))


def serve_open(task: Task) -> Prepared:
    """`ssd1b serve`, asked at times that do not wait for it."""
    return served.open_load(task, Pipeline.from_pretrained(task.model, devices=Devices(per_device=task.width)))


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
    "start": start, "load": load, "compile": compile_unet, "host": host, "serve": serve,
    "serve-open": serve_open,
}  # fmt: skip

"""Many pictures through the queue: of mixed steps, or of equal ones."""

import dataclasses
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np

from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.ours import Watch, make_request
from ssd1b_jax.bench.task import PICTURES, Task
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result

Make = Callable[[Pipeline, list[Request]], Iterable[tuple[int, Result]]]


def many(task: Task, make: Make) -> Prepared:
    """All pictures of a task by `make`, which yields each with its index.

    The notes are medians: pictures a second, the share of the time in which some device had work, and the processor
    time that the queue's own thread takes for a tick.
    """
    jax.config.update("jax_num_cpu_devices", task.devices)
    pipe = Pipeline.from_pretrained(task.model, devices=Devices(per_device=task.width))
    watch = Watch(pipe)
    requests = [
        dataclasses.replace(make_request(task, seed), num_inference_steps=steps)
        for seed, steps in enumerate(task.all_steps())
    ]
    pixels: dict[int, np.ndarray] = {}
    runs: list[tuple[float, float, float]] = []

    def run() -> None:
        watch.take()
        host, ticks = pipe.queue.host_seconds, pipe.queue.ticks.ticks
        began = time.perf_counter()
        for index, result in make(pipe, requests):
            pixels[index] = result.pixels
        seconds = time.perf_counter() - began
        host = pipe.queue.host_seconds - host
        ticks = pipe.queue.ticks.ticks - ticks
        runs.append((PICTURES / seconds, watch.take() / seconds, 1e3 * host / ticks))

    def notes() -> dict[str, float]:
        medians = np.median(runs[1:], axis=0)
        return dict(zip(("pictures_per_s", "busy_share", "host_ms_per_tick"), medians.tolist(), strict=True))

    return Prepared(run, notes=notes, output=lambda: np.stack([pixels[i] for i in range(PICTURES)]))


def queue(task: Task) -> Prepared:
    return many(task, lambda pipe, requests: pipe.stream(requests))


PARTS = {"queue": queue, "queue-even": queue}

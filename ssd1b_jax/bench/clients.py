"""Clients of a server over HTTP, each of which asks for its next picture as soon as it has one."""

import base64
import http.client
import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.task import MIXED, PICTURES, Task
from ssd1b_jax.errors import ContenderError

CLIENTS = 16
TIMEOUT = 600  # seconds

Body = Callable[[str, int, int], dict[str, Any]]  # of a picture in base64, steps and a seed


def ask_all(task: Task, port: int, path: str, body: Body) -> Prepared:
    """The pictures of a task, asked for by the clients together.

    The notes are medians: pictures a second, and the seconds within which 95% of the pictures are there, of all and of
    those of the fewest steps.
    """
    image = base64.b64encode(images.encode(task.picture(), ".png")).decode()
    runs: list[tuple[float, float, float]] = []

    def run() -> None:
        waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for seed, steps in enumerate(task.all_steps()):
            waiting.put((seed, steps))
        times: list[tuple[int, float]] = []
        failed: list[str] = []

        def client() -> None:
            while not failed:
                try:
                    seed, steps = waiting.get_nowait()
                except queue.Empty:
                    return
                began = time.perf_counter()
                try:
                    post(port, path, body(image, steps, seed))
                except (OSError, http.client.HTTPException, ContenderError) as error:
                    failed.append(str(error))
                times.append((steps, time.perf_counter() - began))

        began = time.perf_counter()
        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise ContenderError(failed[0])
        seconds = time.perf_counter() - began
        shortest = [taken for steps, taken in times if steps == min(MIXED)]
        every = [taken for _, taken in times]
        runs.append((PICTURES / seconds, float(np.quantile(every, 0.95)), float(np.quantile(shortest, 0.95))))

    def notes() -> dict[str, float]:
        names = ("pictures_per_s", "p95_s", f"p95_of_{min(MIXED)}_steps_s")
        return dict(zip(names, np.median(runs[1:], axis=0).tolist(), strict=True))

    return Prepared(run, notes=notes)


def post(port: int, path: str, body: dict[str, Any]) -> bytes:
    """What a server answers. Raises ContenderError for anything but a picture."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise ContenderError(f"the server answered {answer.status}: {data[:200]!r}")
        return data
    finally:
        connection.close()

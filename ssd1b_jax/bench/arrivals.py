"""Pictures that are asked for whether or not the last ones are done: open load on a server.

Each comes at a time of its own (Poisson), so a server that falls behind meets ever more of them.
"""

import base64
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ssd1b_jax import images
from ssd1b_jax.bench.clients import Body, post
from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.task import MIXED, Task
from ssd1b_jax.errors import ContenderError

FEW, MANY = min(MIXED), max(MIXED)  # steps
SOLO = 5  # pictures of each kind, one after another
OVERLOAD, BUSY = 1.5, 0.9  # of what one picture at a time can be made in a second
SHARE_OF_MANY = 0.5  # of the work, under the busy load
PATIENCE = 8.0  # times as long as alone

Ask = Callable[[int, int], None]  # steps, seed; raises ContenderError for what is no picture


@dataclass(frozen=True)
class Arrival:
    """A picture that was asked for; `error` is what the server answered in place of one."""

    steps: int
    seconds: float
    error: str | None


def arrive(rates: Mapping[int, float], seconds: float, ask: Ask) -> list[Arrival]:
    """Ask for pictures of so many steps, so many a second each, for a time; returns when all are answered."""
    draw = np.random.default_rng(0)
    times = [(at, steps) for steps, rate in rates.items() for at in _poisson(draw, rate, seconds)]
    arrivals: list[Arrival] = []

    def come(steps: int, seed: int) -> None:
        began, error = time.perf_counter(), None
        try:
            ask(steps, seed)
        except (OSError, ContenderError) as failed:
            error = str(failed)
        arrivals.append(Arrival(steps, time.perf_counter() - began, error))

    began, threads = time.perf_counter(), []
    for seed, (at, steps) in enumerate(sorted(times)):
        time.sleep(max(0.0, began + at - time.perf_counter()))
        threads.append(threading.Thread(target=come, args=(steps, seed)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return arrivals


def _poisson(draw: np.random.Generator, rate: float, seconds: float) -> list[float]:
    return np.sort(draw.uniform(0, seconds, draw.poisson(rate * seconds))).tolist()


def alone(ask: Ask) -> dict[int, float]:
    """Seconds of a picture that has the server to itself, by its steps."""
    found = {}
    for steps in MIXED:
        times = []
        for seed in range(SOLO):
            began = time.perf_counter()
            ask(steps, seed)
            times.append(time.perf_counter() - began)
        found[steps] = statistics.median(times)
    return found


def rates(solo: Mapping[int, float], load: float, weights: Mapping[int, float]) -> dict[int, float]:
    """Pictures a second by their steps: in these proportions, and together so many times one at a time's capacity."""
    total = sum(weights.values())
    mean = sum(weight * solo[steps] for steps, weight in weights.items()) / total
    return {steps: load / mean * weight / total for steps, weight in weights.items()}


def under_load(task: Task, port: int, path: str, body: Body, direct: Callable[[int, int], object]) -> Prepared:
    """One server under two loads; the first run only warms it.

    `direct` makes the same picture without it, for what the server adds.
    """
    image = base64.b64encode(images.encode(task.picture(), ".png")).decode()
    found: dict[str, float] = {}
    warmed: list[bool] = []

    def ask(steps: int, seed: int) -> None:
        post(port, path, body(image, steps, seed))

    def added() -> float:
        pairs = []
        for seed in range(4 * SOLO):
            began = time.perf_counter()
            direct(FEW, seed)
            middle = time.perf_counter()
            ask(FEW, seed)
            pairs.append(time.perf_counter() - middle - (middle - began))
        return 1000 * statistics.median(pairs)

    def run() -> None:
        if not warmed:
            warmed.append(True)
            ask(FEW, 0)
            return
        found["added_ms"] = added()
        solo = alone(ask)
        over = arrive(rates(solo, OVERLOAD, MIXED), task.seconds, ask)
        done = [each for each in over if each.error is None]
        found["overload_pictures"], found["overload_refused"] = len(over), len(over) - len(done)
        late = [each.seconds / solo[each.steps] for each in done]
        found["overload_p95_of_solo"] = float(np.quantile(late, 0.95)) if late else np.inf
        found["overload_within_8_of_solo"] = sum(times <= PATIENCE for times in late) / max(len(over), 1)
        work = {FEW: (1 - SHARE_OF_MANY) / solo[FEW], MANY: SHARE_OF_MANY / solo[MANY]}
        busy = arrive(rates(solo, BUSY, work), task.seconds, ask)
        few = [each.seconds for each in busy if each.steps == FEW and each.error is None]
        found[f"p99_of_{FEW}_steps_s"] = float(np.quantile(few, 0.99)) if few else np.inf
        found[f"solo_of_{FEW}_steps_s"], found[f"solo_of_{MANY}_steps_s"] = solo[FEW], solo[MANY]

    return Prepared(run, notes=lambda: dict(found))

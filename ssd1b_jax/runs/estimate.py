"""What a run will take, by the speed of a few model calls on the devices that are here."""

import dataclasses
import time
from typing import Any

from ssd1b_jax.runs.checking import Checked, cost
from ssd1b_jax.runs.items import Defaults

FEW, MORE = 2, 6  # steps of the pictures that are timed


def seconds(pipe: Any, checked: Checked, defaults: Defaults) -> float:
    """How long all pictures take: each a fixed time, and one for each model call. Compiles what the first one runs."""
    request = dataclasses.replace(checked.first, exact_steps=True, scheduler="euler", guidance_interval=(0.0, 1.0))
    together = pipe.devices.batch_size

    def timed(steps: int) -> tuple[float, float]:
        few = dataclasses.replace(request, num_inference_steps=steps)
        began = time.perf_counter()
        pipe.generate([few] * together)
        return (time.perf_counter() - began) / together, cost(few, defaults)[1]

    timed(FEW)
    (short, little), (long, much) = timed(FEW), timed(MORE)
    each_work = max(long - short, 0.0) / (much - little)
    return checked.pictures * max(short - little * each_work, 0.0) + checked.work * each_work


def words(seconds: float) -> str:
    """A length of time as people say it."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"

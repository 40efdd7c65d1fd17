"""Many pictures in batches, each of which runs until its longest picture ends.

This stands for systems without step batching, as this project once was: pictures are put together in the order in
which they arrive, as many as the devices take, and none joins until all are done. Each batch goes through the same
queue and the same compiled programs, so only the joining and leaving differs. It is a little slower than such a system
need be, for nothing is read or decoded while another batch runs.
"""

from collections.abc import Iterator

from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.queue import many
from ssd1b_jax.bench.task import Task
from ssd1b_jax.pipeline import Pipeline
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result


def batches(task: Task) -> Prepared:
    together = task.width * task.devices

    def make(pipe: Pipeline, requests: list[Request]) -> Iterator[tuple[int, Result]]:
        for first in range(0, len(requests), together):
            yield from enumerate(pipe.generate(requests[first : first + together]), first)

    return many(task, make)


PARTS = {"queue": batches, "queue-even": batches}

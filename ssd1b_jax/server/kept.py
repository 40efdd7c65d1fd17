"""Jobs that can still be asked for: those that run, and for a while those that ended."""

import time
from collections import OrderedDict

from ssd1b_jax.errors import Error
from ssd1b_jax.server.job import Job
from ssd1b_jax.server.options import Limits
from ssd1b_jax.server.pictures import Picture


class NotKept(Error):
    """A job or a picture that is not known."""

    http_status = 404


class Kept:
    """Jobs by their ids, within `Limits.kept_seconds` after their end; the oldest go sooner where memory is short."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def add(self, job: Job) -> None:
        self._expire()
        self._jobs[job.id] = job

    def job(self, id: str) -> Job:
        """Raises NotKept."""
        self._expire()
        if id not in self._jobs:
            raise NotKept("no such job: it never was, or ended too long ago")
        return self._jobs[id]

    def picture(self, id: str, index: int) -> Picture:
        """Raises NotKept."""
        job = self.job(id)
        if index >= len(job.pictures):
            raise NotKept(f"this job has {len(job.pictures)} pictures now, none at index {index}")
        return job.pictures[index]

    def _expire(self) -> None:
        limits, now = self._limits, time.monotonic()
        count = total = 0
        for id, job in [*reversed(self._jobs.items())]:
            if job.ended is None:
                continue
            count += 1
            total += sum(len(picture.file.data) for picture in job.pictures)
            is_old = now - job.ended > limits.kept_seconds
            if is_old or count > limits.kept_jobs or total > limits.kept_bytes:
                del self._jobs[id]

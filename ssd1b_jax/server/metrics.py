"""Counters for /metrics, in Prometheus' text format."""

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ssd1b_jax.server.job import Job

if TYPE_CHECKING:
    from ssd1b_jax.server.service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "ssd1b"


class Metrics:
    """The counters of one server, in a registry of its own.

    Every HTTP request counts once in `answers`, by the dialect of its path and the status that it got. Every picture
    that was accepted counts once in `pictures` when its job ends, by how that ended.
    """

    def __init__(self):
        self.registry = CollectorRegistry()
        common: dict[str, Any] = dict(namespace=PREFIX, registry=self.registry)
        self.answers = Counter("answers", "HTTP answers", ["dialect", "status"], **common)
        self.accepted = Counter("pictures_accepted", "pictures that entered the queue", **common)
        self.pictures = Counter("pictures", "pictures that left the queue", ["state"], **common)
        self.seconds = Histogram("answer_seconds", "seconds from a request to the end of its answer", **common)
        self._waiting = Gauge("pictures_waiting", "pictures in the queue, or on the devices", **common)
        self._running = Gauge("rows_busy", "pictures on the devices", **common)
        self._ticks = Gauge("ticks", "steps of the queue so far", **common)
        self._busy = Gauge("device_seconds", "seconds that the devices were busy", **common)
        self._ready = Gauge("ready", "1 when the server takes pictures", **common)

    def count(self, job: Job) -> None:
        """Take note of a job that has ended."""
        done = len(job.pictures)
        self.pictures.labels(state="done").inc(done)
        if done < job.count:
            self.pictures.labels(state=job.state).inc(job.count - done)

    def text(self, service: "Service") -> bytes:
        """What /metrics answers."""
        self._ready.set(service.state == "ready")
        if service.pipe is not None:
            queue = service.pipe.queue
            self._waiting.set(queue.waiting)
            self._running.set(len(queue.ticks.running))
            self._ticks.set(queue.ticks.ticks)
            self._busy.set(queue.ticks.busy_seconds)
        return generate_latest(self.registry)

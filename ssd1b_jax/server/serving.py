"""A server's life: its socket, the model that is loaded while it answers, signals, and draining.

One process. The front, which is the event loop, imports no JAX; a thread loads the model, and the pipeline's own
threads make pictures.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import numpy as np
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config, Sockets

from ssd1b_jax.errors import INTERRUPTED, DeviceError, RequestError
from ssd1b_jax.request import Request
from ssd1b_jax.server.app import create_app
from ssd1b_jax.server.connections import Listening
from ssd1b_jax.server.options import ServerOptions, Size
from ssd1b_jax.server.service import Service

log = logging.getLogger(__name__)

HEAD_SECONDS = 8.0  # for a request's head, and between two requests of a connection
CLOSE_SECONDS = 2.0  # for answers that are on their way when the server ends
BACKLOG = 512  # connections that wait to be accepted
GREY, GUIDED = 127, 2.0
MEASURED_CALLS = 5
SHORTEST_CALL = 1e-5  # seconds

Load = Callable[[], object]  # gives the Pipeline
Announce = Callable[[str], None]


def run(service: Service, load: Load, announce: Announce) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is told the address, and when pictures are taken.

    What was accepted is answered within the grace; a second signal ends the process at once. Raises what loading
    raises, RequestError for an address that is taken, and DeviceError where the devices failed too often.
    """
    asyncio.run(_run(service, load, announce))


async def _run(service: Service, load: Load, announce: Announce) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    draining: list[asyncio.Task] = []

    def on_signal() -> None:
        if draining:
            os._exit(INTERRUPTED)
        draining.append(loop.create_task(drain(service, stop)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await serve(service, load, announce, stop)


async def drain(service: Service, stop: asyncio.Event) -> None:
    """Take nothing more, answer what was accepted for as long as the grace lasts, then set `stop`."""
    service.is_draining = True
    log.info("draining")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(service.options.grace_seconds):
            await service.idle()
    stop.set()


class _Config(Config):
    """Hypercorn's options, with a socket that is open already."""

    listening: Listening

    def create_sockets(self) -> Sockets:
        return Sockets([], [self.listening], [])


async def serve(service: Service, load: Load, announce: Announce, stop: asyncio.Event) -> None:
    """Listen until `stop` is set, or the devices are broken; raises as `run`."""
    listening = Listening(listen(service.options), service.options.limits.connections)
    listening.setblocking(False)
    host, port = listening.getsockname()[:2]
    config = _Config()
    config.listening = listening
    config.keep_alive_timeout = HEAD_SECONDS
    config.graceful_timeout = CLOSE_SECONDS
    config.include_server_header = False
    config.accesslog = config.errorlog = None
    announce(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    loading = asyncio.create_task(start(service, load, announce))
    broken = asyncio.create_task(service.broken.wait())
    stopping = asyncio.create_task(stop.wait())

    async def ended() -> None:
        """Return when the server is told to stop, is broken, or could not load its model."""
        waits = {stopping, broken}
        if (await asyncio.wait({*waits, loading}, return_when=asyncio.FIRST_COMPLETED))[0] == {loading}:
            if loading.exception() is None:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    try:
        await hypercorn_serve(create_app(service), config, shutdown_trigger=ended)
    finally:
        for task in (broken, stopping):
            task.cancel()
        await service.close()
    if loading.done():
        loading.result()
    if service.broken.is_set():
        raise DeviceError("the devices failed again and again: see the log")


async def start(service: Service, load: Load, announce: Announce) -> None:
    """Load the model and compile its sizes; then the service takes pictures. Raises what loading raises."""
    pipe = await asyncio.to_thread(load)
    service.load(pipe)
    await asyncio.to_thread(compile_sizes, service)
    await asyncio.to_thread(measure, service)
    service.is_ready = True
    announce("ready")


def listen(options: ServerOptions) -> socket.socket:
    """The socket of the server. Raises RequestError."""
    try:
        infos = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = infos[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno > 0 else str(error)).lower()
        raise RequestError(f"{options.host} port {options.port} can't be listened at: {reason}") from None


def compile_sizes(service: Service) -> None:
    """Make one small picture of each size, with guidance and without, so that no caller waits for a compiler."""
    for size in service.sizes:
        service.pipe.generate(_grey(size, steps=1, guidance_scale=scale) for scale in (GUIDED, 1.0))


def measure(service: Service) -> None:
    """Tell the queue how fast it is. It has seen nothing yet but each program's first call, which tells it nothing."""
    times: list[float] = []
    request = _grey(service.sizes[0], steps=MEASURED_CALLS, guidance_scale=GUIDED)
    service.pipe.generate([request], on_progress=lambda _: times.append(time.monotonic()))
    seconds = max(median(after - before for before, after in pairwise(times)), SHORTEST_CALL)
    defaults, (width, height) = service.pipe.config.defaults, service.sizes[0]
    area = width * height / (defaults.width * defaults.height)
    service.pipe.queue.scheduler.rate = seconds / (2 * area)  # a guided call is two


def _grey(size: Size, *, steps: int, guidance_scale: float) -> Request:
    width, height = size
    picture = np.full((height, width, 3), GREY, np.uint8)
    common = dict(image=picture, prompt="", seed=0, width=width, height=height)
    return Request(**common, guidance_scale=guidance_scale, num_inference_steps=steps, exact_steps=True)

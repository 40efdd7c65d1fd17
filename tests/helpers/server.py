"""A server in a thread of the test's own process, on a free port of this machine."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import jax
import numpy as np
from PIL import Image

from helpers import lora, tiny
from helpers.requests import picture
from ssd1b_jax import Pipeline, Request, images
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.service import Service
from ssd1b_jax.server.serving import drain, serve

SECONDS = 300  # for a server to be ready, and for an answer


class Running:
    """A server that runs: its address, and what it is made of."""

    def __init__(self, service: Service):
        self.service = service
        self.url = ""
        self.lines: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._told = threading.Semaphore(0)
        self.error: BaseException | None = None

    def announce(self, line: str) -> None:
        self.lines.append(line)
        self._told.release()

    def run(self, load) -> None:
        try:
            asyncio.run(self._run(load))
        except BaseException as error:
            self.error = error
            self._told.release(2)

    async def _run(self, load) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(self.service, load, self.announce, self._stop)

    def wait_until_ready(self) -> None:
        for _ in range(2):
            assert self._told.acquire(timeout=SECONDS)
        if self.error is not None:
            raise self.error
        self.url = self.lines[0].rstrip("/")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def drain(self) -> None:
        """As SIGTERM does."""
        asyncio.run_coroutine_threadsafe(drain(self.service, self._stop), self._loop)

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=SECONDS, **options)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(pipe, **options) -> Iterator[Running]:
    """A server with this pipeline, which is not closed."""
    running = Running(Service("tiny", ServerOptions(port=0, **options)))
    thread = threading.Thread(target=running.run, args=(lambda: pipe,))
    thread.start()
    try:
        running.wait_until_ready()
        yield running
        if thread.is_alive():
            running.stop()
    finally:
        if thread.is_alive() and running._loop is not None and not running._loop.is_closed():
            running.stop()
        thread.join(SECONDS)
        assert not thread.is_alive()


def styled(model, folder) -> Pipeline:
    """A pipeline on one device, with a LoRA named style."""
    lora.write(folder / "style.safetensors", lora.kohya(tiny.tiny_config()).items())
    pipe = Pipeline(model, devices=jax.devices()[:1])
    pipe.load_lora(folder / "style.safetensors")
    return pipe


def alone(pipe, **settings) -> np.ndarray:
    """The pixels of a request that is made without a server."""
    (result,) = pipe.generate([Request(**dict(image=png()) | settings)])
    return result.pixels


def png(seed: int = 0, **size) -> bytes:
    return images.encode(picture(seed, **size), ".png")


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels(data: bytes | str) -> np.ndarray:
    """Of a picture's file, or of one in base64."""
    data = base64.b64decode(data) if isinstance(data, str) else data
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def events(response) -> list[tuple[str, dict]]:
    """Server-sent events, to the end."""
    found, name = [], ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found

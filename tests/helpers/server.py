"""A server in a thread of the test's own process, on a free port of this machine."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import jax
import numpy as np
from PIL import Image

from helpers import lora, tiny
from helpers.requests import picture
from ssd1b_jax import Pipeline, Request, images
from ssd1b_jax.server.background import Background
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.service import Service

SECONDS = 300  # for a server to be ready, and for an answer


class Running(Background):
    """A server that runs."""

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=SECONDS, **options)


@contextmanager
def running(pipe, **options) -> Iterator[Running]:
    """A server with this pipeline, which is not closed."""
    with Running(Service("tiny", ServerOptions(port=0, **options)), lambda: pipe) as server:
        server.wait_until_ready(SECONDS)
        yield server
    assert not server.is_alive


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

"""Servers to be asked by `clients`: ours, and one as people write it, with FastAPI and a lock round the pipeline."""

import asyncio
import base64
import socket
import threading
from collections.abc import Awaitable, Callable

from ssd1b_jax.bench.arrivals import under_load
from ssd1b_jax.bench.clients import Body, ask_all
from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.task import Task

SECONDS = 300  # to be ready
PATH, PATH_OF_OURS = "/img2img", "/hf"

Make = Callable[[bytes, int], bytes]  # a picture's file from another, in so many steps


def ours(task: Task, pipe) -> Prepared:
    """`ssd1b serve` with this pipeline, by Hugging Face's address."""
    return ask_all(task, _serving(task, pipe), PATH_OF_OURS, _body(task))


def open_load(task: Task, pipe) -> Prepared:
    """The same under load that does not wait."""
    from ssd1b_jax import images

    picture = images.encode(task.picture(), ".png")

    def direct(steps: int, seed: int) -> None:
        settings = _settings(task, steps, seed)
        images.encode(pipe(image=picture, **settings).pixels, ".png")

    return under_load(task, _serving(task, pipe), PATH_OF_OURS, _body(task), direct)


def _serving(task: Task, pipe) -> int:
    """The port of a server with this pipeline."""
    from ssd1b_jax.server.background import Background
    from ssd1b_jax.server.options import ServerOptions
    from ssd1b_jax.server.service import Service

    service = Service(task.model, ServerOptions(port=0, sizes=((task.size, task.size),)))
    server = Background(service, lambda: pipe)
    server.wait_until_ready(SECONDS)
    return server.port


def _settings(task: Task, steps: int, seed: int) -> dict:
    common = dict(prompt="a red apple", negative_prompt="a cat", guidance_scale=5.0)
    return common | dict(strength=task.strength, num_inference_steps=steps, seed=seed)


def _body(task: Task) -> Body:
    return lambda image, steps, seed: dict(inputs=image, parameters=_settings(task, steps, seed))


def locked(task: Task, make: Make) -> Prepared:
    """FastAPI, whose threads take turns at the pipeline."""
    from fastapi import Body, FastAPI, Response
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    app, lock = FastAPI(), threading.Lock()

    @app.post(PATH)
    def img2img(image: str = Body(), steps: int = Body()) -> Response:
        with lock:
            return Response(make(base64.b64decode(image), steps), media_type="image/png")

    listening = socket.create_server(("127.0.0.1", 0))
    port, config, told = listening.getsockname()[1], Config(), threading.Event()
    config.bind, config.errorlog, config.accesslog = [f"fd://{listening.detach()}"], None, None

    async def run() -> None:
        told.set()
        await serve(app, config, shutdown_trigger=asyncio.Event().wait)

    _start(run, told)
    return ask_all(task, port, PATH, lambda image, steps, seed: dict(image=image, steps=steps))


def _start(run: Callable[[], Awaitable[None]], told: threading.Event) -> None:
    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    if not told.wait(SECONDS):
        raise TimeoutError(f"a server was not ready in {SECONDS} s")

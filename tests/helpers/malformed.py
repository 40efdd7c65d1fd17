"""Bodies that nobody should send, and a server's app that is asked without a network.

`python -m helpers.malformed MODEL COUNT` sends so many, and prints how many answers had which status. Each refusal must
be a sentence in its dialect's own form.
"""

import asyncio
import base64
import json
import random
import sys
from collections import Counter

from helpers.server import in_base64, png
from ssd1b_jax.server.app import create_app
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.service import Service

ALLOWED = {200, 202, 400, 404, 406, 413, 415, 422, 429, 504}
EDITS, FORM_TYPE = "/v1/images/edits", "multipart/form-data; boundary=x"
FORM = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'

GOOD = {
    "/jobs": dict(image=in_base64(png()), prompt="apple", seed=1, strength=0.5, loras={}, guidance_interval=[0, 1]),
    "/v1/ssd-img2img": dict(image=in_base64(png()), prompt="apple", samples=1, scheduler="Euler", strength=0.5),
    "/v2/ssd-img2img": dict(image=in_base64(png()), prompt="apple", samples=1, scheduler="Euler", strength=0.5),
    "/sdapi/v1/img2img": dict(init_images=[in_base64(png())], prompt="apple", width=32, batch_size=1, mask=None),
    "/sdapi/v1/png-info": dict(image=in_base64(png())),
    "/hf": dict(inputs=in_base64(png()), parameters=dict(prompt="apple", strength=0.5)),
    "/v1/images/generations": dict(prompt="apple", n=1, size="32x32", seed=1, stream=False),
    "/sdapi/v1/txt2img": dict(prompt="apple", width=32, override_settings=dict(jpeg_quality=90), steps=4),
    "/sdapi/v1/extra-single-image": dict(image=in_base64(png()), upscaling_resize=2, upscaler_1="Lanczos"),
    "/v1/batches": dict(input_file_id="file-x", endpoint="/v1/images/edits", completion_window="24h"),
}
STRANGE = [
    None, True, -1, 0, 10**30, -(10**400), 1e308, "", " ", "\x00", "é" * 50, "a" * 20_000, [], [[]], [None] * 30, {},
    {"a": {"b": []}}, "-1", "nan", "data:image/png;base64,AAAA", "data:,", "iVBORw0KGgo=", "/etc/passwd", "<lora:a:b>",
    "((((" * 60, "(a:99)",
]  # fmt: skip
RAW = [
    b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"prompt": NaN}', b'{"seed": 1e999}',
    b'{"prompt": "\\ud800"}', b'{"a":' * 5000, b"[" * 100_000, b'{"prompt": "\xff"}', b"{}" * 3,
]  # fmt: skip


def mangled(good: dict, rng: random.Random) -> bytes:
    """A body with something wrong, or rarely with nothing."""
    sent = dict(good)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice([*sent, "width", "height", "seed", "num_images", "mask", "resize_mode", "prompt_2", "x"])
        sent[name] = rng.choice(STRANGE)
        if rng.random() < 0.2:
            sent.pop(rng.choice([*sent]))
    content = json.dumps(sent).encode()
    if rng.random() < 0.3:
        at = rng.randrange(len(content))
        content = content[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(0, 3))) + content[at + 1 :]
    return content


class InProcess:
    """The app as a server has it, called directly."""

    def __init__(self, pipe):
        self.service = Service("tiny", ServerOptions())
        self.service.load(pipe)
        self.service.is_ready = True
        self.app = create_app(self.service)

    async def post(self, path: str, content: bytes, kind: str, **headers: str) -> tuple[int, bytes]:
        sent = {"host": "localhost", "content-type": kind, "content-length": str(len(content))} | headers
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()],
        }  # fmt: skip
        arriving = [{"type": "http.request", "body": content, "more_body": False}]
        status, parts = 0, []

        async def receive():
            if arriving:
                return arriving.pop()
            await asyncio.Event().wait()

        async def send(message):
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return status, b"".join(parts)


def form(fields: dict) -> bytes:
    """A form of what a JSON body would have; text of pictures as a file's bytes."""
    parts = []
    for name, value in fields.items():
        is_file = name in ("image", "mask") and isinstance(value, str)
        content = value if isinstance(value, str) else json.dumps(value)
        data = base64.b64decode(value + "==") if is_file and len(value) > 100 else content.encode("utf-8", "replace")
        parts.append(FORM % (name.encode(), b'; filename="a"' if is_file else b"", data))
    return b"".join(parts) + b"--x--\r\n"


def body(path: str, rng: random.Random) -> tuple[bytes, str]:
    """What is sent to a path, and its media type."""
    if path != EDITS:
        return mangled(GOOD[path], rng), "application/json"
    fields = GOOD["/v1/ssd-img2img"] | dict(n=1)
    content = form({name: rng.choice(STRANGE) if rng.random() < 0.2 else value for name, value in fields.items()})
    return (content[: rng.randrange(len(content))] if rng.random() < 0.3 else content), FORM_TYPE


async def ask(server: InProcess, count: int) -> Counter[int]:
    """The statuses of the answers to so many bodies. Nothing that is accepted is worth the wait."""
    rng, statuses = random.Random(0), Counter()
    for _ in range(count):
        path = rng.choice([*GOOD, EDITS])
        status, answer = await server.post(path, *body(path, rng), x_deadline_seconds="0.001")
        statuses[status] += 1
        if status >= 400:
            told = json.loads(answer)
            error = told.get("detail") or told["error"]
            assert error if isinstance(error, str) else error["message"], (path, answer)
    return statuses


if __name__ == "__main__":
    from ssd1b_jax import Pipeline

    print(json.dumps(asyncio.run(ask(InProcess(Pipeline.from_pretrained(sys.argv[1])), int(sys.argv[2])))))

"""What nobody should send: malformed bodies, half-open connections, and what a process does when it is told to stop."""

import asyncio
import gc
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from helpers.malformed import ALLOWED, FORM, GOOD, RAW, InProcess, mangled
from helpers.server import in_base64, png, running
from starlette.requests import Request as HTTPRequest

from ssd1b_jax.server.bodies import Bodies, BodyError
from ssd1b_jax.server.options import Limits
from ssd1b_jax.server.schema import openapi


@pytest.fixture(scope="module")
def server(tiny_pipe):
    with running(tiny_pipe, limits=Limits(body_idle_seconds=1.0)) as server:
        yield server


# Bodies


def sentence(answer: httpx.Response) -> str:
    """What the dialect's own form of an error says."""
    error = answer.json().get("detail") or answer.json()["error"]
    return error if isinstance(error, str) else error["message"]


def post(client, path: str, content: bytes, kind: bytes = b"application/json") -> httpx.Response:
    """Nothing that is accepted is worth the wait."""
    headers = {"content-type": kind, "x-deadline-seconds": "0.001"}
    return client.post(path, content=content, headers=headers)


@pytest.mark.parametrize("path", [*GOOD, "/v1/images/edits", "/replay"])
def test_no_body_is_a_fault_of_the_server(server, path, caplog):
    rng = random.Random(path)
    with server.client() as client:
        bodies = [*RAW, *(mangled(GOOD[path], rng) for _ in range(40))] if path in GOOD else [*RAW]
        answers = [post(client, path, content) for content in bodies]
        statuses = {answer.status_code for answer in answers}
        assert statuses <= ALLOWED
        assert all(sentence(answer) for answer in answers if answer.status_code >= 400)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"--x--\r\n",
        b"--x\r\n\r\n--x--",
        b"garbage",
        FORM % (b"prompt", b"", b"apple") + b"--x--\r\n",
        FORM % (b"image", b'; filename="a"', b"no picture") + b"--x--\r\n",
        FORM % (b"image", b'; filename="a"', png()),
        FORM % (b"image", b"", b"/etc/passwd") + b"--x--\r\n",
        FORM % (b"image", b'; filename="a"', png()) * 2 + b"--x--\r\n",
        b"".join(FORM % (b"f%d" % i, b"", b"") for i in range(300)) + b"--x--\r\n",
        FORM % (b"prompt", b"", b"a" * (1 << 21)) + b"--x--\r\n",
        FORM % (b"prompt", b"", b"\xff\xfe") + FORM % (b"image", b'; filename="a"', png()) + b"--x--\r\n",
        FORM % (b"prompt", b'; filename="p"', b"a") + FORM % (b"image", b'; filename="a"', png()) + b"--x--\r\n",
        FORM % (b"mask", b"", b"/etc/passwd") + FORM % (b"image", b'; filename="a"', png()) + b"--x--\r\n",
    ],
    ids=range(13),
)
@pytest.mark.parametrize("path", ["/v1/images/edits", "/replay"])
def test_no_form_is_a_fault_of_the_server(server, path, content):
    with server.client() as client:
        for kind in (
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "multipart/form-data; boundary=" + "y" * 99,
        ):
            answer = post(client, path, content, kind)
            assert answer.status_code in (400, 413, 504) and sentence(answer)


def test_the_field_at_fault_is_named(server):
    with server.client() as client:
        for content, field in (
            (b'{"inputs": 5}', "inputs"),
            (b'{"inputs": "AAAA", "parameters": []}', "parameters"),
            (b'{"inputs": "AAAA", "parameters": {"strength": NaN}}', "not JSON"),
        ):
            assert field in sentence(post(client, "/hf", content))
        answer = post(client, "/sdapi/v1/img2img", b'{"init_images": ["AAAA", 5]}')
        assert answer.json()["errors"] == "init_images[1]"


# Connections


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


HEAD = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "most"),
    [
        pytest.param(b"", 12, id="silent"),
        pytest.param(HEAD[:40], 12, id="half heads"),
        pytest.param(HEAD, 6, id="bodies"),
    ],
)
@pytest.mark.slow
def test_connections_that_stall_are_closed(server, sent, most):
    """Silent ones, half heads and bodies that stop, while healthz goes on answering."""
    began = time.monotonic()
    connections = [connect(server) for _ in range(100)]
    try:
        for connection in connections:
            connection.sendall(sent)
        with server.client() as client:
            answered = time.monotonic()
            assert client.get("/healthz").status_code == 200
            assert time.monotonic() - answered < 2
        for connection in connections:
            while connection.recv(4096):
                pass
        assert time.monotonic() - began < most + 10
    finally:
        for connection in connections:
            connection.close()


def test_a_body_that_stalls_is_408(server):
    with connect(server) as connection:
        connection.sendall(HEAD + b"{")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408") and b"the body stopped arriving after 1 bytes" in answer


def arriving(content: bytes = b"x" * 8, pause: float = 0.0, more: bool = False) -> HTTPRequest:
    """A request whose body has no declared length."""

    async def receive():
        await asyncio.sleep(pause)
        return dict(type="http.request", body=content, more_body=more)

    return HTTPRequest(dict(type="http", headers=[]), receive)


def test_a_body_that_takes_too_long_in_all_is_408():
    reading = Bodies(Limits(body_seconds=0.05)).read(arriving(pause=0.01, more=True))
    with pytest.raises(BodyError, match="the body took longer than 0.05 seconds") as error:
        asyncio.run(reading)
    assert error.value.http_status == 408


def test_a_body_counts_until_its_request_is_answered():
    bodies, first = Bodies(Limits(body_bytes=10, bodies_bytes=17)), arriving()
    asyncio.run(bodies.read(first))
    with pytest.raises(BodyError, match="too many large requests") as error:
        asyncio.run(bodies.read(arriving()))
    assert error.value.http_status == 503
    bodies.release(first)
    assert asyncio.run(bodies.read(arriving())) == b"x" * 8


def test_more_requests_than_may_be_open_are_refused(tiny_pipe):
    with running(tiny_pipe, limits=Limits(requests=2, body_idle_seconds=30.0)) as server:
        connections = [connect(server) for _ in range(2)]
        for connection in connections:
            connection.sendall(HEAD)
        with server.client() as client:
            end = time.monotonic() + 30
            while (answer := client.get("/healthz")).status_code == 200:
                assert time.monotonic() < end
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            for connection in connections:
                connection.close()
            while client.get("/healthz").status_code == 503:
                assert time.monotonic() < end


def test_connections_are_capped(tiny_pipe):
    """One caller has half of them; when it closes some, others are taken."""
    with running(tiny_pipe, limits=Limits(connections=8)) as server:
        connections = [connect(server) for _ in range(6)]
        connections[5].settimeout(10)
        assert connections[5].recv(1) == b""  # closed at once
        for connection in connections:
            connection.close()
        end = time.monotonic() + 5
        while True:
            try:
                with server.client() as client:
                    assert client.get("/healthz").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < end


# Bodies by the thousand, without a network


@pytest.mark.slow
def test_ten_thousand_malformed_bodies_are_refused_in_sentences(tiny_folder):
    """In a process of its own, in which types are not checked at every call."""
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([*sys.path, str(Path(__file__).parent)]))
    command = [sys.executable, "-W", "ignore", "-m", "helpers.malformed", str(tiny_folder), "10000"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr[-3000:]
    counts = {int(status): count for status, count in json.loads(ran.stdout).items()}
    assert counts.keys() <= ALLOWED and sum(counts.values()) == 10_000 and counts[400] > 5000


def test_every_setting_refuses_what_its_schema_refuses(tiny_pipe):
    """A value of each JSON type that the schema does not list gives 400 with the setting's name."""
    values = {"null": None, "boolean": True, "integer": 3, "number": 0.5, "string": "x", "array": [], "object": {}}
    server = InProcess(tiny_pipe)
    described = openapi(server.service)["components"]["schemas"]["Settings"]
    good = dict(prompt="apple", image=in_base64(png()))

    async def ask_all():
        asked = 0
        for name, schema in described["properties"].items():
            kinds = schema.get("type", "string")
            allowed = {kinds} if isinstance(kinds, str) else {*kinds}
            allowed |= {"integer"} if "number" in allowed else set()
            for kind, value in values.items():
                if kind in allowed | {"null"} or (name in ("seed", "variation_seed") and kind == "number"):
                    continue
                content = json.dumps(good | {name: value}).encode()
                status, body = await server.post("/jobs", content, "application/json")
                assert status == 400 and json.loads(body)["error"]["field"] == name, (name, value, body)
                asked += 1
        return asked

    assert asyncio.run(ask_all()) > 100


@pytest.mark.slow
def test_two_thousand_requests_leave_nothing_behind(tiny_pipe):
    """Memory, files and threads are as they were after the first five hundred."""
    body = dict(image=in_base64(png()), prompt="apple", num_inference_steps=1, strength=1.0)
    process = Path("/proc/self")

    def held() -> tuple[int, int, int]:
        gc.collect()
        resident = int(re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())[1])
        return resident, len([*(process / "fd").iterdir()]), threading.active_count()

    with running(tiny_pipe, limits=Limits(kept_jobs=20)) as server, server.client() as client:
        for number in range(2000):
            path = ("/hf", "/jobs", "/sdapi/v1/img2img", "/v1/images/generations")[number % 4]
            sent = {
                "/hf": dict(inputs=body["image"], parameters=dict(prompt="apple", num_inference_steps=1)),
                "/jobs": body | dict(seed=number, strength=2.0 if number % 3 else 1.0),
                "/sdapi/v1/img2img": dict(init_images=[body["image"]], prompt="a", steps=1, width=32, height=32),
                "/v1/images/generations": dict(prompt="apple", steps=1, size="32x32" if number % 8 else "no size"),
            }[path]
            assert client.post(path, json=sent).status_code in (200, 202, 400)
            if number == 500:
                before = held()
        while tiny_pipe.waiting:
            time.sleep(0.02)
        after = held()
    assert after[0] - before[0] < 20_000, "kB more"
    assert after[1] <= before[1] + 2 and after[2] <= before[2] + 1


# The process


class Process:
    """`ssd1b serve`, started as users start it."""

    def __init__(self, *arguments, **environment):
        command = [sys.executable, "-W", "ignore", "-m", "ssd1b_jax.cli", "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def ended(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(tiny_folder):
    settings = dict(image=in_base64(png()), prompt="apple", num_inference_steps=200, strength=1.0)
    with Process("--model", tiny_folder) as server:
        url = server.line()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        assert httpx.get(f"{url}healthz").status_code == 200
        assert server.line() == "ready"
        job = httpx.post(f"{url}jobs", json=settings).json()
        with httpx.stream("GET", f"{url}jobs/{job['id']}/events", timeout=60) as answer:
            server.process.send_signal(signal.SIGTERM)
            assert answer.read().count(b"event: done") == 1
        code, errors = server.ended()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert code == 0 and {"draining", "answer"} == {line["message"] for line in lines}
    assert "apple" not in errors and all(line["request_id"] for line in lines if line["message"] == "answer")


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tiny_folder):
    settings = dict(image=in_base64(png()), prompt="apple", num_inference_steps=1000, strength=1.0, num_images=4)
    with Process("--model", tiny_folder) as server:
        url = server.line()
        assert server.line() == "ready"
        assert httpx.post(f"{url}jobs", json=settings).status_code == 202
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert server.ended()[0] == 130


@pytest.mark.slow
def test_what_keeps_it_from_serving_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Process("--port", port) as server:
            assert server.ended() == (2, f"error: 127.0.0.1 port {port} can't be listened at: address already in use\n")
    with Process("--host", "0.0.0.0", SSD1B_API_KEY="") as server:
        code, errors = server.ended()
        assert code == 2 and "which needs a key" in errors
    with Process("--model", tmp_path / "none") as server:
        code, errors = server.ended()
        assert code == 2 and errors.splitlines()[-1].startswith("error: ")

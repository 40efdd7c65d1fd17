"""Pictures by their addresses: public machines only; and the operator's own check of what is made."""

import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers.server import events, in_base64, pixels, png, running

from ssd1b_jax import Request, RequestError
from ssd1b_jax.images import previews
from ssd1b_jax.server import fetching
from ssd1b_jax.server.fetching import Fetcher, is_public
from ssd1b_jax.server.fields import FieldError
from ssd1b_jax.server.options import read_check

LOCAL = [
    "http://127.0.0.1/", "http://127.0.0.1:7860/a.png", "http://127.1/", "http://127.255.255.254/", "http://0/",
    "http://0.0.0.0/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://017700000001/",
    "http://0177.0.0.1/", "http://localhost/", "HTTP://LOCALHOST/", "http://localhost./", "http://[::1]/",
    "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
    "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[fe80::1]/",
    "http://[fe80::1%25lo]/", "http://[fc00::1]/", "http://[fd12:3456::1]/", "http://[fec0::1]/",
    "http://[ff02::1]/", "http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://100.64.0.1/", "http://192.0.0.1/",
    "http://198.18.0.1/", "http://224.0.0.1/", "http://240.0.0.1/", "http://255.255.255.255/",
    "http://user@127.0.0.1/", "http://example.org@127.0.0.1/", "http://example.org:80@127.0.0.1/",
    "http://127.0.0.1#@example.org/", "http://127.0.0.1\\@example.org/", "http://①②⑦.⓪.⓪.①/", "https://127.0.0.1/",
    "http://\t127.0.0.1/", "http://127.0.0.1:0/", "http://[::1", "http:///a.png", "http://no-such-name.invalid/",
]  # fmt: skip


class Site(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        if name.startswith("to-"):
            target = self.server.targets[name]
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        self.send_response(404 if name == "none" else 200)
        self.end_headers()
        if name == "slow":
            while not self.server.stopped.wait(0.05):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
        self.wfile.write(b"x" * 100_000 if name == "large" else png())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.targets, server.stopped = {}, threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


def here_only(address) -> bool:
    return address == ipaddress.ip_address("127.0.0.1")


def test_local_addresses_are_refused_with_one_text():
    assert len(LOCAL) >= 40
    for url in LOCAL:
        with pytest.raises(FieldError) as error:
            Fetcher(1000, 5.0).fetch(url, "image")
        assert str(error.value) == "image: only addresses of public machines are fetched", url


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "64:ff9b::5db8:d70e", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def test_a_file_is_fetched_within_its_limits(site):
    fetcher = Fetcher(50_000, 1.0, here_only)
    assert fetcher.fetch(f"{site.url}/a.png", "image") == png()
    for path, sentence in (
        ("none", "image: the address answers with status 404"),
        ("large", "image: the file has more than 50000 bytes"),
        ("slow", "image: the address does not answer: not in 1 seconds"),
    ):
        began = time.monotonic()
        with pytest.raises(FieldError, match=sentence):
            fetcher.fetch(f"{site.url}/{path}", "image")
        assert time.monotonic() - began < 3
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FieldError, match="the connection failed"):
        fetcher.fetch(f"http://127.0.0.1:{port}/", "image")
    with pytest.raises(FieldError, match="the connection failed"):
        fetcher.fetch(f"https://127.0.0.1:{site.server_port}/", "image")


def test_redirects_are_checked_as_the_first_address_is(site):
    fetcher = Fetcher(50_000, 5.0, here_only)
    site.targets |= {"to-a": "/a.png", "to-itself": "/to-itself", "to-private": "http://127.0.0.2/a.png"}
    assert fetcher.fetch(f"{site.url}/to-a", "image") == png()
    with pytest.raises(FieldError, match="leads to another more than 3 times"):
        fetcher.fetch(f"{site.url}/to-itself", "image")
    with pytest.raises(FieldError, match="only addresses of public machines are fetched"):
        fetcher.fetch(f"{site.url}/to-private", "image")


def test_a_name_is_looked_up_once_and_all_its_addresses_count(site, monkeypatch):
    """A name that has another address at the second look is reached at the first, or not at all."""
    looked, look_up = [], socket.getaddrinfo

    def getaddrinfo(name, port, *values, **options):
        if name != "rebound.example":
            return look_up(name, port, *values, **options)
        looked.append(name)
        addresses = ["127.0.0.1"] if len(looked) == 1 else ["127.0.0.1", "127.0.0.2"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", getaddrinfo)
    fetcher = Fetcher(50_000, 5.0, here_only)
    assert fetcher.fetch(f"http://rebound.example:{site.server_port}/a.png", "image") == png()
    with pytest.raises(FieldError, match="only addresses of public machines"):
        fetcher.fetch(f"http://rebound.example:{site.server_port}/a.png", "image")
    assert looked == ["rebound.example"] * 2


def test_addresses_are_pictures_where_they_are_allowed(tiny_pipe, site):
    settings = dict(prompt="apple", seed=7, num_inference_steps=4)
    with running(tiny_pipe, allow_url=True) as server, server.client() as client:
        answer = client.post("/hf", json=dict(inputs=f"{site.url}/a.png"))
        assert answer.status_code == 400 and "only addresses of public machines" in answer.json()["error"]
        server.service.fetcher = Fetcher(50_000, 5.0, here_only)
        answer = client.post("/hf", json=dict(inputs=f"{site.url}/a.png", parameters=settings))
        (alone,) = tiny_pipe.generate([Request(image=png(), **settings)])
        assert np.array_equal(pixels(answer.content), alone.pixels)
        body = dict(init_images=[f"{site.url}/a.png"], mask=f"{site.url}/none", prompt="apple", steps=4)
        answer = client.post("/sdapi/v1/img2img", json=body)
        assert answer.status_code == 400 and answer.json()["detail"] == "mask: the address answers with status 404"


# The operator's check


def refuse(request, pixels):
    if pixels is None:
        return "no weapons here" if "sword" in request.prompt else None
    return "what came out may not be shown" if request.seed == 13 else None


def test_the_operator_may_refuse_a_prompt_or_a_picture(tiny_pipe):
    body = dict(inputs=in_base64(png()))
    with running(tiny_pipe, check=refuse) as server, server.client() as client:
        for parameters, sentence in (
            (dict(prompt="a sword"), "no weapons here"),
            (dict(prompt="apple", seed=13), "what came out may not be shown"),
        ):
            answer = client.post("/hf", json=body | dict(parameters=parameters | dict(num_inference_steps=4)))
            assert answer.status_code == 400 and answer.json()["error"] == sentence
        assert client.post("/hf", json=body | dict(parameters=dict(prompt="apple", seed=12))).status_code == 200


def test_each_picture_is_checked_and_no_preview_shows_it_before(tiny_pipe, monkeypatch):
    monkeypatch.setitem(previews.MAPS, 0.5, ((0.1, 0.2, 0.3),) * 5)
    body = dict(image=in_base64(png()), prompt="apple", seed=12, num_inference_steps=300, strength=1.0)

    def check(request, pixels):
        return "not thirteen" if request.seed == 13 else None

    with running(tiny_pipe, check=check) as server, server.client() as client:
        assert client.post("/jobs", json=body | dict(num_images=2)).status_code == 400
        job = client.post("/jobs", json=body).json()
        with client.stream("GET", f"/jobs/{job['id']}/events") as answer:
            assert {name for name, _ in events(answer)} == {"progress", "done"}


def test_a_check_that_fails_lets_nothing_through(tiny_pipe):
    with running(tiny_pipe, check=lambda request, pixels: 1 / 0) as server, server.client() as client:
        answer = client.post("/hf", json=dict(inputs=in_base64(png())))
        assert answer.status_code == 500 and "division" not in answer.text


def test_a_check_is_a_function_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "of_ours.py").write_text("def check(request, pixels):\n    return None\nnumber = 5\n")
    monkeypatch.chdir(tmp_path)
    assert read_check("of_ours:check")(None, None) is None
    for spec, sentence in (
        ("of_ours", "check must be module:function, got 'of_ours'"),
        ("of_ours:none", "can't be imported"),
        ("no_such_module:check", "can't be imported: No module named"),
        ("of_ours:number", "check must name a function, got int"),
    ):
        with pytest.raises(RequestError, match=sentence):
            read_check(spec)

"""The server's own routes, its limits, and its life; `test_server_clients` has the dialects."""

import base64
import gc
import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.server import events, in_base64, pixels, png, running
from helpers.tiny import tiny_config

from ssd1b_jax import Request, RequestError, images
from ssd1b_jax.images import previews
from ssd1b_jax.server import sizes
from ssd1b_jax.server.bodies import Link
from ssd1b_jax.server.fields import Fields
from ssd1b_jax.server.options import Limits, ServerOptions, read_keys

SETTINGS = dict(prompt="a red apple", seed=7, num_inference_steps=4)
LONG = dict(SETTINGS, num_inference_steps=1000, strength=1.0)


@pytest.fixture(scope="module")
def server(tiny_pipe):
    with running(tiny_pipe) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def body(**settings) -> dict:
    return dict(SETTINGS, image=in_base64(png())) | settings


def submit(client, **settings) -> dict:
    answer = client.post("/jobs", json=body(**settings))
    assert answer.status_code == 202, answer.text
    return answer.json()


def ended(client, job: dict) -> dict:
    """The job once it has ended."""
    with client.stream("GET", f"/jobs/{job['id']}/events") as answer:
        return events(answer)[-1][1]


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# Jobs


def test_a_job_gives_the_picture_that_the_pipeline_gives(client, tiny_pipe):
    job = submit(client)
    assert job["state"] in ("waiting", "running") and job["position"] == 0 and job["calls"] == 2
    job = ended(client, job)
    (made,) = job["pictures"]
    assert job["state"] == "done" and made["seed"] == "7" and job["calls_done"] == 2
    answer = client.get(made["url"])
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-seed-value"] == "7"
    (alone,) = tiny_pipe.generate([Request(image=png(), **SETTINGS)])
    assert np.array_equal(pixels(answer.content), alone.pixels)


def test_a_job_has_several_pictures_in_the_format_that_is_asked_for(client):
    job = ended(client, submit(client, num_images=2, format="webp", upscale=2))
    assert [made["seed"] for made in job["pictures"]] == ["7", "8"]
    answer = client.get(job["pictures"][1]["url"])
    assert answer.headers["content-type"] == "image/webp"
    assert pixels(answer.content).shape == (64, 64, 3) and job["pictures"][1]["width"] == 64


def test_a_job_without_an_image_is_text_to_image(client, tiny_pipe):
    (alone,) = tiny_pipe.generate([Request(image=None, **SETTINGS)])
    for none in (dict(SETTINGS), dict(SETTINGS, image=None)):
        (made,) = ended(client, client.post("/jobs", json=none).json())["pictures"]
        assert np.array_equal(pixels(client.get(made["url"]).content), alone.pixels)
    assert client.post("/replay", files={"file": client.get(made["url"]).content}).json()["identical"] is True


def test_a_picture_is_made_in_one_answer(client, tiny_pipe):
    body = SETTINGS | dict(image=in_base64(png()))
    answer = client.post("/pictures", json=body)
    (alone,) = tiny_pipe.generate([Request(image=png(), **SETTINGS)])
    assert np.array_equal(pixels(answer.content), alone.pixels)
    assert answer.headers["x-seed-value"] == "7" and float(answer.headers["x-generation-time"]) > 0
    refused = client.post("/pictures", json=body | dict(num_images=2))
    assert refused.status_code == 400
    told = dict(message="num_images must be at most 1 here, got 2: use /jobs", field="num_images", status=400)
    assert refused.json() == {"error": told}


def test_events_show_progress_and_previews(client, monkeypatch):
    monkeypatch.setitem(previews.MAPS, 0.5, ((0.1, 0.2, 0.3),) * 5)
    job = submit(client, **dict(LONG, num_inference_steps=300))
    with client.stream("GET", f"/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = events(answer)
    names = [name for name, _ in seen]
    assert names[0] == "progress" and names[-1] == "done" and "preview" in names
    calls = [value["calls_done"] for name, value in seen if name == "progress"]
    assert calls == sorted(calls) and len(calls) > 1
    preview = next(value for name, value in seen if name == "preview")
    assert pixels(preview["image"].partition(",")[2]).shape == (32, 32, 3)


def test_a_job_is_cancelled_and_its_row_is_free(client, tiny_pipe):
    job = submit(client, **LONG)
    until(lambda: client.get(f"/jobs/{job['id']}").json()["state"] == "running")
    client.delete(f"/jobs/{job['id']}")
    job = ended(client, job)
    assert job["state"] == "cancelled" and job["error"] == "the picture was cancelled" and job["pictures"] == []
    assert tiny_pipe.waiting == 0


def test_a_deadline_that_passes_is_504_and_the_work_stops(client, tiny_pipe):
    form = dict(prompt="apple", steps="1000", strength="1.0")
    answer = client.post("/v1/images/edits", data=form, files={"image": png()}, headers={"x-deadline-seconds": "0.3"})
    assert answer.status_code == 504 and "deadline" in answer.json()["error"]["message"]
    assert tiny_pipe.waiting == 0


@pytest.mark.parametrize("path", ["/v1/ssd-img2img", "/pictures"])
def test_a_caller_that_leaves_frees_its_row(server, tiny_pipe, path):
    content = json.dumps(body(**LONG) | {"num_inference_steps": 1000}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + content)
        until(lambda: tiny_pipe.waiting == 1)
    until(lambda: tiny_pipe.waiting == 0)


def test_what_is_unknown_is_404(client):
    assert client.get("/jobs/none").status_code == 404
    assert client.get("/jobs/none/pictures/0").status_code == 404
    answer = client.get("/nowhere")
    assert answer.status_code == 404 and answer.json()["error"]["status"] == 404
    assert client.put("/jobs").status_code == 405


def test_a_picture_is_replayed(client):
    job = ended(client, submit(client, embed_input=True))
    file = client.get(job["pictures"][0]["url"]).content
    answer = client.post("/replay", files={"file": file})
    assert answer.status_code == 200, answer.text
    assert answer.json()["identical"] is True and answer.json()["differences"] == []


def test_replay_looks_up_no_file_of_the_server(client):
    file = client.get(ended(client, submit(client))["pictures"][0]["url"]).content
    answer = client.post("/replay", files={"file": file})
    assert answer.status_code == 400 and answer.json()["error"]["field"] == "image"
    answer = client.post("/replay", files={"file": file, "image": png()})
    assert answer.json().get("identical") is True, answer.text
    answer = client.post("/replay", files={"file": file, "image": png(1)})
    assert answer.status_code == 400 and "sha256" in answer.json()["error"]["message"] and "/" not in answer.text
    answer = client.post("/replay", files={"file": png()})
    assert answer.status_code == 400 and "does not say how it was made" in answer.json()["error"]["message"]


# Refusals


@pytest.mark.parametrize(
    ("wrong", "field", "sentence"),
    [
        (dict(strength=1.5), "strength", "strength must be in (0, 1], got 1.5"),
        (dict(denoising_strength=1.5), "denoising_strength", "denoising_strength must be in (0, 1], got 1.5"),
        (dict(strenght=0.5), "strenght", "no setting is named 'strenght': did you mean strength?"),
        (dict(strength=0.5, denoise=0.5), "denoise", "two names of one setting"),
        (dict(dtype="float32"), "dtype", "no setting is named 'dtype'"),
        (dict(image="/etc/passwd"), "image", "image must be a picture's file in base64, got other text"),
        (dict(image="http://127.0.0.1/"), "image", "addresses are not fetched"),
        (dict(image=in_base64(b"no picture")), "image", "image: not a picture in a known format"),
        (dict(mask_image="/etc/passwd"), "mask_image", "mask_image must be a picture's file"),
        (dict(image=None, denoise=0.5), "denoise", "denoise must be 1 without an image"),
        (dict(image=None, mask_image=in_base64(png())), "mask_image", "mask_image needs an image"),
        (dict(prompt=None), "prompt", "prompt must be given"),
        (dict(prompt=5), "prompt", "prompt must be text, got int"),
        (dict(prompt="a" * 10_001), "prompt", "prompt may have 10000 characters, got 10001"),
        (dict(num_images=11), "num_images", "num_images must be at most 10, got 11"),
        (dict(upscale=9), "upscale", "upscale must be a whole number from 1 to 8"),
        (dict(priority="high"), "priority", "priority must be one of interactive, batch"),
        (dict(seed=True), "seed", "seed must be a whole number"),
        (dict(loras={"none": 1.0}), None, "no LoRA named 'none' is loaded"),
    ],
)
def test_a_wrong_setting_is_told_with_its_field(client, wrong, field, sentence):
    answer = client.post("/jobs", json=body(**wrong))
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["field"] == field and sentence in error["message"]


def test_another_size_is_422_with_the_sizes(client):
    answer = client.post("/jobs", json=body(width=64, height=64))
    assert answer.status_code == 422 and "must be one of 32x32, got 64x64" in answer.json()["error"]["message"]


@pytest.mark.slow
def test_any_size_is_made_where_it_is_allowed(tiny_pipe):
    with running(tiny_pipe, any_size=True) as server, server.client() as client:
        job = ended(client, submit(client, width=48, height=32))
        assert (job["pictures"][0]["width"], job["pictures"][0]["height"]) == (48, 32)
        answer = client.post("/jobs", json=body(width=33))
        assert answer.status_code == 400 and "width must be a multiple of" in answer.json()["error"]["message"]


def test_json_must_say_that_it_is(client):
    content = json.dumps(body())
    answer = client.post("/jobs", content=content, headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert client.post("/jobs", content=content).status_code == 415


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/readyz", {"host": "evil.example"}, 403),
        ("/readyz", {"host": "localhost:1"}, 200),
        ("/readyz", {"host": "127.0.0.1.evil.example"}, 403),
        ("/readyz", {"host": "["}, 403),
    ],
)
def test_only_names_of_the_server_are_answered(client, path, headers, status):
    assert client.get(path, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 400),
        ({}, 400),
    ],
)
def test_pages_of_others_drive_no_server(client, headers, status):
    answer = client.post("/jobs", json={}, headers=headers)
    assert answer.status_code == status and "access-control-allow-origin" not in answer.headers


def test_a_listed_origin_may_call(tiny_pipe):
    page = {"origin": "https://page.example"}
    with running(tiny_pipe, origins=("https://page.example",)) as server, server.client() as client:
        answer = client.options("/jobs", headers=page | {"access-control-request-method": "POST"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert client.post("/jobs", json={}, headers=page).status_code == 400
        assert client.post("/jobs", json={}, headers={"origin": "https://other.example"}).status_code == 403


def test_every_route_but_healthz_needs_a_key(tiny_pipe, tmp_path, caplog):
    file = tmp_path / "keys"
    file.write_text("# of tests\n\nfirst-secret\n second-secret \n")
    keys = read_keys(file)
    assert keys == ("first-secret", "second-secret")
    with running(tiny_pipe, keys=keys) as server, server.client() as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/readyz", "/metrics", "/v1/models", "/sdapi/v1/options", "/openapi.json", "/nowhere"):
            assert client.get(path).status_code == 401
        answer = client.post("/v1/ssd-img2img", json={})
        assert answer.status_code == 401 and "Missing Authorization or x-api-key in header" in answer.json()["error"]
        for headers in (
            {"authorization": "Bearer second-secret"},
            {"x-api-key": "first-secret"},
            {"authorization": "Basic " + in_base64(b"user:first-secret")},
        ):
            assert client.get("/readyz", headers=headers).status_code == 200
        for headers in ({"authorization": "Bearer first"}, {"authorization": "Basic ???"}, {"x-api-key": ""}):
            assert client.get("/readyz", headers=headers).status_code == 401
    assert "secret" not in caplog.text and "secret" not in repr(server.service.options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(host="0.0.0.0"), "can be reached from other machines, which needs a key"),
        (dict(host="::"), "which needs a key"),
        (dict(host="example.org"), "which needs a key"),
        (dict(host="0.0.0.0", keys=("short",)), "an API key must have at least 8 characters, got one of 5"),
        (dict(limits=dict(waiting=0)), "the queue must take at least 1 picture, got 0"),
        (dict(port=65536), "port must be a whole number from 0 to 65535, got 65536"),
    ],
)
def test_unsafe_options_are_refused(options, sentence):
    with pytest.raises(RequestError) as error:
        ServerOptions(**options | {"limits": Limits(**options.get("limits", {}))})
    assert sentence in str(error.value)


def test_safe_options_are_not():
    assert ServerOptions(host="::1").is_loopback and ServerOptions(host="127.0.0.2").is_loopback
    assert ServerOptions(host="0.0.0.0", keys=("long-enough",)).host_names is None


def test_key_files_that_have_none_are_told(tmp_path):
    with pytest.raises(RequestError, match="can't be read: no such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "keys").write_text("# nothing\n")
    with pytest.raises(RequestError, match="has no key"):
        read_keys(tmp_path / "keys")


# Limits


def limited(tiny_pipe, **limits):
    return running(tiny_pipe, limits=Limits(**limits))


def test_bodies_and_pictures_are_capped(tiny_pipe):
    with (
        limited(tiny_pipe, body_bytes=10_000, bodies_bytes=15_000, input_pixels=2000, output_pixels=8000) as server,
        server.client() as client,
    ):
        answer = client.post("/jobs", json=body(image="A" * 20_000))
        assert answer.status_code == 413 and "a request may have 10000 bytes" in answer.json()["error"]["message"]
        chunks = (b" " * 1000 for _ in range(20))
        answer = client.post("/jobs", content=chunks, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        answer = client.post("/jobs", json=body(image=in_base64(png(height=40, width=60))))
        assert answer.status_code == 400 and "image may have 2000 pixels, got 60 x 40" in answer.text
        answer = client.post("/jobs", json=body(upscale=3))
        assert answer.status_code == 400 and "a picture may have 8000 pixels, got 9216" in answer.text


def test_a_full_queue_is_429_with_the_seconds_to_wait(tiny_pipe):
    with limited(tiny_pipe, waiting=2) as server, server.client() as client:
        jobs = [submit(client, **LONG) for _ in range(2)]
        answer = client.post("/jobs", json=body())
        assert answer.status_code == 429 and "2 pictures wait, at most 2 may" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
        for job in jobs:
            client.delete(f"/jobs/{job['id']}")
        until(lambda: tiny_pipe.waiting == 0)
        answer = client.post("/jobs", json=body(num_images=3))
        assert answer.status_code == 400 and "num_images must be at most 2, got 3" in answer.text
        assert ended(client, submit(client, num_images=2))["state"] == "done"
    with limited(tiny_pipe, waiting_seconds=0.0) as server, server.client() as client:
        job = submit(client, **LONG)
        answer = client.post("/jobs", json=body())
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        client.delete(f"/jobs/{job['id']}")
        until(lambda: tiny_pipe.waiting == 0)
        assert ended(client, submit(client, num_images=2))["state"] == "done"  # none of others is in front


def test_inputs_that_wait_are_bounded(tiny_pipe):
    with limited(tiny_pipe, bodies_bytes=6000, body_bytes=5000) as server, server.client() as client:
        job = submit(client, **LONG)
        answer = client.post("/jobs", json=body())
        assert answer.status_code == 429 and "memory" in answer.json()["error"]["message"]
        client.delete(f"/jobs/{job['id']}")
        ended(client, job)
        assert ended(client, submit(client))["state"] == "done"


def test_jobs_that_ended_are_forgotten(tiny_pipe):
    with limited(tiny_pipe, kept_bytes=8000) as server, server.client() as client:
        first, second = (ended(client, submit(client, seed=seed)) for seed in (1, 2))
        assert client.get(f"/jobs/{first['id']}").status_code == 404
        assert client.get(f"/jobs/{second['id']}").status_code == 200
    with limited(tiny_pipe, kept_jobs=1) as server, server.client() as client:
        first, second = (ended(client, submit(client, seed=seed)) for seed in (1, 2))
        assert client.get(f"/jobs/{first['id']}").status_code == 404
        assert client.get(f"/jobs/{second['id']}").status_code == 200
    with limited(tiny_pipe, kept_seconds=0.0) as server, server.client() as client:
        job = submit(client)
        until(lambda: client.get(f"/jobs/{job['id']}").status_code == 404)


def requests_alive() -> int:
    gc.collect()
    return sum(type(thing) is Request for thing in gc.get_objects())  # asking by isinstance runs code of others


def test_a_job_that_ended_keeps_no_input(client):
    ended(client, submit(client))
    before = requests_alive()
    jobs = [ended(client, submit(client, image=in_base64(png()[:-cut]))) for cut in (200, 201, 1)]
    assert [job["state"] for job in jobs] == ["failed", "failed", "done"]
    until(lambda: requests_alive() <= before)


def test_pictures_are_kept_with_their_records(tiny_pipe, tmp_path):
    from ssd1b_jax import records

    with running(tiny_pipe, keep=tmp_path) as server, server.client() as client:
        for _ in range(2):
            (made,) = ended(client, submit(client))["pictures"]
        answered = client.get(made["url"]).content
        form = dict(prompt="apple", size="48x48", seed="8", steps="2", output_format="webp")
        enlarged = client.post("/v1/images/edits", data=form, files={"image": png()}).json()["data"][0]["b64_json"]
    assert (tmp_path / "7-2.png").read_bytes() == answered  # it is encoded once
    assert (tmp_path / "8.webp").read_bytes() == base64.b64decode(enlarged) and pixels(enlarged).shape == (48, 48, 3)
    for path in tmp_path.glob("8*"):
        path.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7-2.png", "7.png"]
    assert records.read(tmp_path / "7-2.png")["request"]["seed"] == 7


def test_the_queue_knows_its_speed_when_the_server_is_ready(tiny_pipe):
    """A first call is slower than any after it: with that as its speed, the queue would refuse what it can do."""
    tiny_pipe.queue.scheduler.rate = 100.0
    with running(tiny_pipe):
        assert 0 < tiny_pipe.queue.scheduler.rate < 1


# Seeing inside


def test_counters_add_up(tiny_pipe):
    with running(tiny_pipe) as server, server.client() as client:
        ended(client, submit(client, num_images=2))
        job = submit(client, **LONG)
        client.delete(f"/jobs/{job['id']}")
        ended(client, job)
        for path in ("/healthz", "/nowhere", "/v1/models"):
            client.get(path)
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    answered = {name: float(value) for name, value in lines.items() if name.startswith("ssd1b_answers_total")}
    assert sum(answered.values()) == 8  # without the one that asks
    assert answered['ssd1b_answers_total{dialect="own",status="404"}'] == 1
    assert float(lines["ssd1b_pictures_accepted_total"]) == 3
    assert float(lines['ssd1b_pictures_total{state="done"}']) == 2
    assert float(lines['ssd1b_pictures_total{state="cancelled"}']) == 1
    assert float(lines["ssd1b_ready"]) == 1 and float(lines["ssd1b_ticks"]) > 0


def test_every_answer_has_a_request_id(client):
    ids = {client.get(path).headers["x-request-id"] for path in ("/healthz", "/nowhere", "/readyz")}
    assert len(ids) == 3
    assert len(client.get("/healthz", headers={"host": "evil.example"}).headers["x-request-id"]) == 16


def test_a_bug_tells_the_log_and_not_the_caller(client, server, monkeypatch, caplog):
    monkeypatch.setattr(server.service, "nearest_size", lambda *_: 1 / 0)
    answer = client.post("/hf", content=png(), headers={"content-type": "image/png"})
    assert answer.status_code == 500 and answer.headers["x-request-id"] in answer.json()["error"]
    assert "division" not in answer.text and "ZeroDivisionError" in caplog.text


# Life


def test_a_drained_server_answers_what_it_accepted(tiny_pipe):
    with running(tiny_pipe) as server, server.client() as client:
        job = submit(client, **dict(LONG, num_inference_steps=200))
        with client.stream("GET", f"/jobs/{job['id']}/events") as answer:
            server.drain()
            until(lambda: server.service.state == "draining")
            refused = client.post("/jobs", json=body())
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
            assert client.get("/readyz").status_code == 503
            assert events(answer)[-1][0] == "done"


def test_devices_that_fail_again_and_again_end_the_server(tiny_model):
    import jax

    from ssd1b_jax import DeviceError, Pipeline

    pipe = Pipeline(tiny_model, devices=jax.devices()[:1])
    with pytest.raises(DeviceError, match="failed again and again"):
        with running(pipe) as server, server.client() as client:
            run = pipe.runner.run

            def failing(name, program, *arguments):
                if name == "advance":
                    raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")
                return run(name, program, *arguments)

            pipe.runner.run = failing
            for _ in range(3):
                answer = client.post("/hf", content=png(), headers={"content-type": "image/png"})
                assert answer.status_code == 503 and "the device failed" in answer.json()["error"]
            until(lambda: server.error is not None)
            raise server.error


def test_the_front_imports_no_jax():
    program = """
import sys
from ssd1b_jax.server import serving
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.service import Service
serving.create_app(Service("emoji", ServerOptions()))
heavy = {"jax", "jaxlib", "flax", "orbax", "torch"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("settings", "any_size", "size"),
    [
        (dict(), False, (32, 32)),
        (dict(resize_mode="fit"), False, (24, 48)),
        (dict(resize_mode="fit"), True, (16, 48)),
        (dict(resize_mode="fit", width=48, height=24), False, (48, 24)),
        (dict(resize_mode="fit", image=Link("https://example.org/a.png", "image")), False, (32, 32)),
        (dict(resize_mode="fit", image=None), True, (32, 32)),
    ],
    ids=str,
)
def test_fit_takes_the_size_that_is_most_like_the_picture(settings, any_size, size):
    asked = Fields(settings=dict(image=images.encode(np.zeros((80, 30, 3), np.uint8), ".png"), prompt="") | settings)
    assert sizes.exact(asked, tiny_config(), [(32, 32), (48, 24), (24, 48)], any_size) == size

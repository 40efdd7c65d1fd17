"""OpenAI's files and batches, by its client."""

import json
import time

import numpy as np
import openai
import pytest
from helpers.server import SECONDS, in_base64, pixels, png, running

from ssd1b_jax import Request
from ssd1b_jax.server.options import Limits

EDITS = "/v1/images/edits"
SETTINGS = dict(prompt="apple", seed=3, steps=4, strength=0.6)


@pytest.fixture(scope="module")
def client(tiny_pipe):
    limits = Limits(files=6, files_bytes=200_000, batches=2)
    with running(tiny_pipe, limits=limits) as server, open_ai(server) as client:
        yield client


def open_ai(server) -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", timeout=SECONDS, max_retries=0)


def line(custom_id: str, **body) -> dict:
    return dict(custom_id=custom_id, method="POST", url=EDITS, body=SETTINGS | body)


def upload(client, lines: list[dict]):
    data = "\n".join(map(json.dumps, lines)).encode()
    return client.files.create(file=("lines.jsonl", data), purpose="batch")


def start(client, lines: list[dict], **options):
    file = upload(client, lines)
    return client.batches.create(input_file_id=file.id, endpoint=EDITS, completion_window="24h", **options)


def ended(client, batch):
    while (batch := client.batches.retrieve(batch.id)).status == "in_progress":
        time.sleep(0.05)
    return batch


def clear(client, *ids: str) -> None:
    for id in ids:
        client.files.delete(id)


def test_a_batch_makes_what_its_lines_ask_for(client, tiny_pipe):
    image = client.files.create(file=("a.png", png(1)), purpose="vision")
    lines = [
        line("base64", image=in_base64(png())),
        line("file", image=image.id),
        line("as OpenAI", images=[{"image_url": f"data:image/png;base64,{in_base64(png())}"}], seed=4),
        line("wrong", image=in_base64(png()), strength=2.0),
        line("missing"),
    ]
    batch = start(client, lines, metadata={"of": "a test"}, extra_headers={"x-deadline-seconds": "0.001"})
    assert batch.metadata == {"of": "a test"} and batch.request_counts.total == 5
    batch = ended(client, batch)
    assert batch.status == "completed" and batch.completed_at
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 2)
    rows = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
    assert [row["custom_id"] for row in rows] == [item["custom_id"] for item in lines]
    made = [pixels(row["response"]["body"]["data"][0]["b64_json"]) for row in rows[:3]]
    settings = dict(prompt="apple", num_inference_steps=4, strength=0.6)
    asked = [Request(image=png(at), seed=seed, **settings) for at, seed in ((0, 3), (1, 3), (0, 4))]
    assert all(np.array_equal(one, alone.pixels) for one, alone in zip(made, tiny_pipe.generate(asked), strict=True))
    errors = [(row["response"]["status_code"], row["response"]["body"]["error"]["param"]) for row in rows[3:]]
    assert errors == [(400, "strength"), (400, "image")]
    clear(client, image.id, batch.input_file_id, batch.output_file_id)
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.files.content(image.id)


def test_a_batch_is_cancelled(client, tiny_pipe):
    batch = start(client, [line(str(i), image=in_base64(png()), steps=1000, strength=1.0) for i in range(6)])
    batch = client.batches.cancel(batch.id)
    assert batch.status == "cancelled" and batch.output_file_id is None
    end = time.monotonic() + 5
    while tiny_pipe.waiting:
        assert time.monotonic() < end
        time.sleep(0.02)
    clear(client, batch.input_file_id)


def test_a_batch_that_outgrows_the_room_keeps_what_it_has(tiny_pipe):
    with running(tiny_pipe, limits=Limits(files=3, files_bytes=16_000)) as server, open_ai(server) as client:
        image = client.files.create(file=("a.png", png()), purpose="vision")
        batch = ended(client, start(client, [line(str(seed), image=image.id, seed=seed) for seed in range(6)]))
        assert batch.status == "completed" and batch.request_counts.total == 6
        rows = [json.loads(row)["response"] for row in client.files.content(batch.output_file_id).text.splitlines()]
        statuses = [row["status_code"] for row in rows]
        assert {*statuses} == {200, 507} and batch.request_counts.completed == statuses.count(200)
        assert "all the room there is" in rows[statuses.index(507)]["body"]["error"]["message"]
        with pytest.raises(openai.RateLimitError, match="take all the room there is"):
            upload(client, [line("a", image=in_base64(png()))] * 20)
        clear(client, batch.input_file_id, batch.output_file_id)
        batch = ended(client, start(client, [line("a", image=image.id)]))
        assert batch.request_counts.completed == 1


def test_a_batch_keeps_its_files_until_it_ends(client):
    image = client.files.create(file=("a.png", png(1)), purpose="vision")
    batch = start(client, [line(str(seed), images=[{"file_id": image.id}], seed=seed) for seed in range(6)])
    clear(client, image.id)
    batch = ended(client, batch)
    assert batch.request_counts.completed == batch.request_counts.total == 6
    clear(client, batch.input_file_id, batch.output_file_id)


def test_files_and_batches_are_bounded(client):
    with pytest.raises(openai.RateLimitError, match="take all the room there is"):
        client.files.create(file=b"x" * 200_001, purpose="batch")
    slow = [line(str(i), image=in_base64(png()), steps=1000, strength=1.0) for i in range(2)]
    batches = [start(client, slow) for _ in range(2)]
    with pytest.raises(openai.RateLimitError, match="2 batches are on their way"):
        start(client, slow)
    for batch in batches:
        client.batches.cancel(batch.id)
    batch = start(client, [line("a", image=in_base64(png()))])
    with pytest.raises(openai.NotFoundError, match="no such batch"):
        client.batches.retrieve(batches[0].id)
    assert ended(client, batch).status == "completed"
    assert client.files.list().data == [] and client.batches.list().data == []


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "a batch must have from 1 to 1000 lines, got 0"),
        ([dict(custom_id="a")], f"line 1: a line of an OpenAI batch must be a POST to {EDITS}, got 'POST None'"),
        (
            [dict(line("a"), url="/v1/chat/completions")],
            f"line 1: a line of an OpenAI batch must be a POST to {EDITS}, got 'POST",
        ),
        ([line("a"), line("a")], "each custom_id must be another"),
    ],
)
def test_what_is_no_batch_is_refused(client, lines, sentence):
    file = upload(client, lines)
    with pytest.raises(openai.BadRequestError) as error:
        client.batches.create(input_file_id=file.id, endpoint=EDITS, completion_window="24h")
    assert sentence in error.value.message and error.value.param == "input_file_id"
    clear(client, file.id)


def test_wrong_uploads_and_endpoints_name_the_field(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.files.create(file=b"x", purpose="fine-tune")
    assert error.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as error:
        client.batches.create(input_file_id="file-none", endpoint="/v1/responses", completion_window="24h")
    assert error.value.param == "endpoint"
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-none", endpoint=EDITS, completion_window="24h")

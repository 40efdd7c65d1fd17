"""The server as an application of Ray Serve: what it is told to run, and two replicas of which one is killed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import namespace

from ssd1b_jax.errors import RequestError

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # Ray's

DRIVE = """
import base64, collections, os, signal, threading, time
from pathlib import Path
import httpx2 as httpx
from ray import serve
from ssd1b_jax.cli import serve_ray

KEY = {"x-api-key": "a-long-secret"}
serve.start(http_options=dict(host="127.0.0.1", port=8123))
os.environ["SSD1B_API_KEY"] = KEY["x-api-key"]
app = serve_ray.app(dict(options="--model emoji --grace 5", replicas=2, resources={"CPU": 0.5}))
serve.run(app, route_prefix="/")
image = base64.b64encode(Path("in.png").read_bytes()).decode()
client = httpx.Client(base_url="http://127.0.0.1:8123", timeout=120, headers=KEY)
assert client.get("/readyz").json()["status"] == "ready"
assert httpx.get("http://127.0.0.1:8123/readyz").status_code == 401
wrong = client.post("/v1/ssd-img2img", json=dict(image=image, prompt="x", strength=2))
assert wrong.status_code == 400 and "strength" in wrong.json()["error"], wrong.text

# each job is found again, whoever keeps it
jobs = [client.post("/jobs", json=dict(image=image, prompt="an apple", seed=i, steps=2)).json() for i in range(12)]
owners = {job["id"].partition(".")[0] for job in jobs}
assert len(owners) == 2, owners
for _ in range(3):
    assert [client.get(f"/jobs/{job['id']}").status_code for job in jobs] == [200] * 12
lines = '{"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "an apple"}}'
for _ in range(4):
    sent = client.post("/v1/files", files=dict(file=("b.jsonl", lines.encode())), data=dict(purpose="batch"))
    made = client.post("/v1/batches", json=dict(
        input_file_id=sent.json()["id"], endpoint="/v1/images/generations", completion_window="24h"))
    assert made.status_code == 200, made.text
    assert client.get(f"/v1/batches/{made.json()['id']}").status_code == 200

def replicas():
    names = {path.parent.name: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [int(pid) for pid, name in names.items() if name.startswith(b"ray::ServeReplica:") and b":replica" in name]

# one is killed under load
statuses, seeds, stop = collections.Counter(), {}, time.monotonic() + 20

def call(caller):
    with httpx.Client(base_url=client.base_url, timeout=120, headers=KEY) as mine:
        number = 0
        while time.monotonic() < stop or number < 3:
            number += 1
            seed = caller * 1000 + number
            sent = dict(image=image, prompt="a cat", seed=seed, num_inference_steps=20)
            answer = mine.post("/v1/ssd-img2img", json=sent)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                assert answer.headers["x-seed-value"] == str(seed) and answer.content[:2] == b"\\xff\\xd8"
            else:
                assert answer.status_code == 503 and answer.json()["error"], answer.text
                assert answer.headers["retry-after"]
            time.sleep(0.01)

failures = []
def guarded(caller):
    try:
        call(caller)
    except BaseException as error:
        failures.append(error)

threads = [threading.Thread(target=guarded, args=(i,)) for i in range(6)]
for thread in threads:
    thread.start()
time.sleep(4)
there = replicas()
assert len(there) == 2, there
before = sum(statuses.values())
os.kill(there[0], signal.SIGKILL)
for thread in threads:
    thread.join()
print(dict(statuses), "before", before)
assert not failures, failures
assert statuses[200] > before + 6 and set(statuses) <= {200, 503}
until = time.monotonic() + 120
while len(replicas()) < 2 and time.monotonic() < until:
    time.sleep(0.5)
assert len(replicas()) == 2
serve.shutdown()
"""


def test_a_key_is_needed(monkeypatch):
    pytest.importorskip("ray")
    from ssd1b_jax.cli import serve_ray

    monkeypatch.delenv("SSD1B_API_KEY", raising=False)
    with pytest.raises(RequestError, match="which needs a key: give --api-key-file FILE in options"):
        serve_ray.app(dict(replicas="2"))
    with pytest.raises(RequestError, match="arguments are options, replicas, resources, fronts, got 'replica'"):
        serve_ray.app(dict(replica=2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--size 64x64", "options: unknown option --size: did you mean --sizes?"),
        ("--queue many", "options: argument --queue: a whole number is needed, got 'many'"),
        ("--memory-fraction 2", "options: argument --memory-fraction: must be above 0 and at most 1, got 2"),
        ("--dtype float8", "did you mean float"),
        ("emoji", "options: one argument too many: 'emoji'"),
    ],
)
def test_options_are_read_as_the_commands_are(options, sentence):
    pytest.importorskip("ray")
    from ssd1b_jax.cli import serve_ray

    with pytest.raises(RequestError, match=re.escape(sentence)):
        serve_ray.app(dict(options=options))


def test_replicas_reserve_what_they_are_told():
    """In a process of its own, as Ray pickles our classes, which pytest has wrapped in checks here."""
    pytest.importorskip("ray")
    program = """
from ssd1b_jax.cli import serve_ray
app = serve_ray.app(dict(options="--sizes 64x64", replicas="3", resources={"TPU": 4}))
front = app._bound_deployment
replica = front.init_args[0]._bound_deployment
assert (front.num_replicas, replica.num_replicas) == (1, 3)
assert replica.ray_actor_options["resources"] == {"TPU": 4} and replica.ray_actor_options["num_cpus"] == 0
assert replica.init_args[1].sizes == ((64, 64),)
"""
    environment = namespace.environment() | dict(SSD1B_API_KEY="a-long-secret")
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.slow
def test_of_two_replicas_one_is_killed_and_every_call_is_answered(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    if not namespace.is_allowed():
        pytest.skip("this user may not make network namespaces")
    monkeypatch.chdir(tmp_path)
    from helpers.requests import picture

    from ssd1b_jax import images

    images.save(picture(), "in.png")
    Path("drive.py").write_text(DRIVE)
    ran = namespace.run("python drive.py", timeout=400)
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]

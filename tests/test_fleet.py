"""Runs on a Ray cluster: what an actor does with a block, what is reserved, and a worker that is killed."""

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import obstore
import pytest
from helpers import namespace, stub
from helpers.commands import run as command
from helpers.stub import StubPipe

from ssd1b_jax import RunError, images, runs
from ssd1b_jax.errors import DeviceError, ModelError, RequestError
from ssd1b_jax.presets import emoji
from ssd1b_jax.runs import Policy, fleet, journal, leases
from ssd1b_jax.runs.bucket import Bucket
from ssd1b_jax.runs.fleet import Fleet

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images.save(np.full((9, 9, 3), 200, np.uint8), "in.png")
    return tmp_path


def listing(count: int, name: str = "list.jsonl") -> str:
    lines = [dict(id=f"p{i}", prompt="an apple", seed=i, image="in.png") for i in range(count)]
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return name


def digests(out: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(out).glob("*.png")}


def check_same(out: str, count: int, whole: str = "whole") -> None:
    """A run is that of this process, each picture with one line, and nothing else is left."""
    entries = [json.loads(line) for line in Path(out, "results.jsonl").read_text().splitlines()]
    assert {entry["output"]: entry["sha256"] for entry in entries} == digests(out) == digests(whole)
    assert len(entries) == count
    assert sorted(path.name for path in Path(out).iterdir() if path.suffix != ".png") == [
        "results.jsonl",
        "run.json",
        "status.json",
    ]


@dataclass(frozen=True, kw_only=True)
class Here(Fleet):
    """A worker of this process in place of a cluster; one that `dies` does so in the middle of the first block."""

    dies: bool = False

    def _blocks(self, items):
        items = list(items)
        return [(f"b{start}", items[start : start + self.block]) for start in range(0, len(items), self.block)]

    def make(self, load, items, folder, enter):
        for block, some in self._blocks(items):
            if self.dies and block == "b0":
                with pytest.raises(KeyboardInterrupt):
                    fleet.make_block(Dying(), block, some, folder)
            for entry in fleet.make_block(load(), block, some, folder):
                enter(entry)


class Dying(StubPipe):
    def _result(self, request):
        if self.asked == 3:
            raise KeyboardInterrupt
        return super()._result(request)


def run_on(place, *, dies=False, **policy):
    run = stub.open_run("list.jsonl", place, policy=Policy(fleet=True, **policy))
    pipe = StubPipe()
    try:
        run.make_on(Here(block=4, dies=dies), lambda: pipe)
    finally:
        run.close()
    return run, pipe


def test_a_block_is_tried_again_where_it_ended():
    stub.make(listing(10), "whole")
    run, pipe = run_on("out", dies=True)
    assert run.tally.completed == 10 and pipe.asked == 8  # the first worker had made two
    check_same("out", 10)
    run, pipe = run_on("out")
    assert (run.kept, pipe.asked) == (10, 0)


def test_what_another_worker_has_entered_counts_once():
    items = [item for line in runs.read(listing(3)).lines() for item in runs.Defaults(config=emoji()).items(line)]
    folder = stub.Folder(Path("out"))
    folder.prepare(is_alone=True)
    first = fleet.make_block(StubPipe(), "b0", items, folder)
    pipe = StubPipe()
    assert fleet.make_block(pipe, "b0", items, folder) == first and pipe.asked == 0
    assert [path.name for path in Path("out/.claims").iterdir()] == ["b0.jsonl"]
    [entry] = [entry for entry in first if entry["output"] == "p1.png"]
    folder.create(".claims/b1-1.jsonl", journal.dump(entry))
    assert {entry["output"] for entry in fleet.make_block(pipe, "b1", items, folder)} == {"p0.png", "p1.png", "p2.png"}
    assert pipe.asked == 2


def test_a_driver_that_died_has_lost_nothing():
    stub.make(listing(10), "whole")
    run = stub.open_run("list.jsonl", "out", policy=Policy(fleet=True))
    blocks = Here(block=4)._blocks(run._pending(lambda entry: None))
    for block, items in blocks[:2]:
        fleet.make_block(StubPipe(), block, items, run.folder)
    run._journal.close()
    run.folder.unlock()
    resumed, pipe = run_on("out")
    assert (resumed.kept, resumed.new, pipe.asked) == (8, 2, 2)
    check_same("out", 10)


def test_wrong_lines_and_pictures_that_fail_are_told_once():
    listing(5)
    with open("list.jsonl", "a") as file:
        file.write(
            json.dumps(dict(id="a", prompt="x", strength=2))
            + "\n"
            + json.dumps(dict(id="b", image="no.png", prompt="x"))
        )
    run, pipe = run_on("out")
    assert dict(run.tally.failed) == {"RequestError": 1, "ImageError": 1} and run.tally.completed == 5
    assert sorted(entry["output"] for entry in run.failures()) == ["a.png", "b.png"]
    run, pipe = run_on("out")
    assert (run.kept, run.retried, pipe.asked) == (5, 2, 1)
    with pytest.raises(RunError, match="nothing was made"):
        run_on("third", on_error="stop")


def test_a_fleet_in_an_object_store(here):
    stub.make(listing(10), "whole")
    store = obstore.store.MemoryStore()
    run, _ = run_on(Bucket("memory:", store), dies=True)
    assert run.tally.completed == 10
    names = sorted(each["path"] for some in obstore.list(store) for each in some)
    assert names == sorted([*digests("whole"), "results.jsonl", "run.json", "status.json"])
    obstore.put(store, "p3.png", b"damaged")
    run, pipe = run_on(Bucket("memory:", store))
    assert (run.kept, run.redone, pipe.asked) == (9, 1, 1)
    entries = [json.loads(line) for line in bytes(obstore.get(store, "results.jsonl").bytes()).splitlines()]
    assert {entry["output"]: entry["sha256"] for entry in entries} == digests("whole") and len(entries) == 10


@pytest.fixture
def store(monkeypatch):
    """An object store, and leases of a driver that run out soon."""
    monkeypatch.setattr(leases, "SECONDS", 3.0)
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.02)
    listing(5)
    return obstore.store.MemoryStore()


def in_use(store, **policy) -> None:
    """Whoever comes now is refused, and changes nothing."""
    before = sorted(each["path"] for some in obstore.list(store) for each in some)
    with pytest.raises(RunError, match="^memory: is in use: another process is at this run; wait for it, or end it"):
        stub.open_run("list.jsonl", Bucket("memory:", store), policy=Policy(**policy))
    assert sorted(each["path"] for some in obstore.list(store) for each in some) == before


def test_a_second_driver_is_refused(store):
    """Also in an object store, which has no locks; and so are workers by claims."""
    first = stub.open_run("list.jsonl", Bucket("memory:", store), policy=Policy(fleet=True))
    in_use(store, fleet=True)
    in_use(store, lease=60.0)
    first.make_on(Here(block=4), StubPipe)
    in_use(store, fleet=True)
    first.close()
    assert run_on(Bucket("memory:", store))[0].kept == 5


def test_a_driver_is_refused_where_workers_are_at_it_by_claims(store):
    first = stub.open_run("list.jsonl", Bucket("memory:", store), policy=Policy(lease=60.0))
    assert first._takes(next(first.manifest.lines()))
    in_use(store, fleet=True)
    first.close()
    assert run_on(Bucket("memory:", store))[0].tally.completed == 5


def test_a_driver_takes_over_from_one_that_died(store):
    dead = Bucket("memory:", store)
    dead.create(".driver/00000003", leases.data(dead, 0.4))
    assert run_on(Bucket("memory:", store))[0].tally.completed == 5
    assert not [each["path"] for some in obstore.list(store, ".driver") for each in some]


def fail(error):
    raise error


def test_what_ends_a_run_comes_back_from_a_worker():
    import pickle

    worker = fleet.Worker(lambda: fail(ModelError("no model")), "out", ".")
    [error] = worker(dict(block=["b0"], items=[pickle.dumps([])]))["error"]
    assert isinstance(pickle.loads(error), ModelError) and str(pickle.loads(error)) == "no model"

    class Broken(StubPipe):
        def stream(self, requests, on_error):
            yield 0, next(fail(DeviceError("it burns")) for _ in requests)

    items = [item for line in runs.read(listing(1)).lines() for item in runs.Defaults(config=emoji()).items(line)]
    block = dict(block=["b0"], items=[pickle.dumps(items)])
    [error] = fleet.Worker(Broken, "out", ".")(block)["error"]
    assert str(pickle.loads(error)).startswith("a worker sees no run in out: give a folder that all hosts share")
    Path("out").mkdir(exist_ok=True)
    Path("out/run.json").write_text("{}")
    [error] = fleet.Worker(Broken, "out", ".")(block)["error"]
    assert isinstance(pickle.loads(error), DeviceError)


def node(alive=True, **resources):
    return dict(Alive=alive, Resources=resources)


@pytest.mark.parametrize(
    ("nodes", "resources", "workers", "planned"),
    [
        ([node(CPU=2)], {}, None, ({"CPU": 2}, (1, 1))),
        ([node(CPU=8), node(CPU=4)], {}, None, ({"CPU": 4}, (2, 2))),
        ([node(CPU=8), node(CPU=4, GPU=2), node(GPU=2, alive=False)], {}, None, ({"GPU": 2}, (1, 1))),
        ([node(CPU=8), node(TPU=4), node(TPU=4)], {}, (1, 8), ({"TPU": 4}, (1, 8))),
        ([node()], {"TPU": 4.0}, (1, None), ({"TPU": 4.0}, (1, None))),
    ],
)
def test_what_a_worker_reserves(nodes, resources, workers, planned):
    assert fleet.plan(nodes, resources, workers) == planned


def test_a_cluster_without_hosts_is_told():
    with pytest.raises(RunError, match="no host with TPUs, GPUs or cores yet: give --ray-resources"):
        fleet.plan([node()], {}, None)


def test_options_parse():
    assert [fleet.parse_workers(text) for text in ("3", "1:8", "2:")] == [(3, 3), (1, 8), (2, None)]
    assert fleet.parse_resources("TPU=4, CPU=1.5") == {"TPU": 4.0, "CPU": 1.5}
    for text in ("0", "a", "3:2", ":", "1:x"):
        with pytest.raises(RequestError, match="ray-workers must be N or MIN:MAX"):
            fleet.parse_workers(text)
    for text in ("TPU", "TPU=0", "=1", "TPU=x", "CPU=1,CPU=2"):
        with pytest.raises(RequestError, match="ray-resources must be such as"):
            fleet.parse_resources(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ray", "--claim"], "a fleet shares its pictures out"),
        (["--ray", "--shard", "1/2"], "a fleet shares its pictures out"),
        (["--ray-workers", "2"], "ray-workers and ray-resources are for a fleet"),
        (["--ray", "--ray-workers", "0"], "ray-workers must be N or MIN:MAX from 1, got '0'"),
    ],
)
def test_options_that_do_not_go_together(capsys, arguments, sentence):
    code, out, err = command(capsys, "batch", listing(2), "-o", "out", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"error: {sentence}") and not Path("out").exists()


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:1", "connection refused"), ("127.0.0.1:x", "invalid literal for int")]
)
def test_a_cluster_that_is_not_there_is_told_before_anything_is_written(monkeypatch, capsys, address, reason):
    monkeypatch.setattr(fleet, "_ray", lambda: None)
    code, out, err = command(capsys, "batch", listing(2), "-o", "out", "--ray", address)
    assert (code, out) == (2, "") and err.startswith(f"error: no Ray cluster at {address}: {reason}")
    assert not Path("out").exists()


def test_a_driver_never_imports_jax():
    """All that comes before a cluster is asked for pictures; the slow tests see the rest."""
    program = """
import sys
from importlib.util import find_spec
from ssd1b_jax.cli import main
from ssd1b_jax.runs import fleet
if find_spec("ray") is None:
    fleet.Fleet.check = lambda self: None
fleet.Fleet.make = lambda self, load, items, folder, enter: print(len([*items]), "items")
code = main(["batch", sys.argv[1], "-o", "out", "--ray"])
heavy = {"jax", "jaxlib", "flax", "orbax", "torch"} & {name.split(".")[0] for name in sys.modules}
assert not heavy and not code, (heavy, code)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, listing(3)], capture_output=True, text=True, env=namespace.environment()
    )
    assert ran.returncode == 0 and "3 items" in ran.stdout, ran.stderr


KILLING = """
import json, os, signal, sys, threading, time
from functools import partial
from pathlib import Path
from helpers import stub
from helpers.fleet import Logging
from ssd1b_jax.runs import Policy
from ssd1b_jax.runs.fleet import Fleet

out = Path("out")

def at_work():
    return {int(path.name.rsplit("-", 2)[1]) for path in out.glob(".partial/*")} - {os.getpid()}

def kill():
    while len([*out.glob("*.png")]) < 12 or len(at_work()) < 2:
        time.sleep(0.02)
    workers = at_work()
    assert len(workers) == 2, workers
    os.kill(min(workers), signal.SIGKILL)
    lines = [line for path in out.glob(".claims/*.jsonl") for line in path.read_text().splitlines()]
    Path("entered.json").write_text(json.dumps([json.loads(line)["seed"] for line in lines]))

run = stub.open_run("list.jsonl", "out", policy=Policy(fleet=True))
killer = threading.Thread(target=kill, daemon=True)
killer.start()
how = Fleet(address="auto", workers=(2, 2), resources=dict(CPU=1), block=8)
try:
    run.make_on(how, partial(Logging, "made.log", 0.15))
finally:
    run.close()
killer.join(5)
assert run.tally.completed == 96, run.tally.summary()
heavy = {"jax", "jaxlib", "flax", "orbax", "torch"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
"""


def needs_ray() -> None:
    pytest.importorskip("ray")
    if not namespace.is_allowed():
        pytest.skip("this user may not make network namespaces")


@pytest.mark.slow
def test_of_two_workers_one_is_killed_and_each_picture_counts_once():
    needs_ray()
    stub.make(listing(96), "whole")
    Path("drive.py").write_text(KILLING)
    ran = namespace.run("python drive.py", timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    check_same("out", 96)
    made = [int(seed) for seed in Path("made.log").read_text().split()]
    entered = json.loads(Path("entered.json").read_text())
    assert entered and {made.count(seed) for seed in entered} == {1} and set(made) == set(range(96))
    assert len(made) < 96 + 2 * stub.TOGETHER * 2  # what the killed one was at


@pytest.mark.slow
def test_a_fleet_makes_what_one_process_makes(here):
    """The command, with the embedded model."""
    needs_ray()
    for index in range(4):
        images.save(np.full((64, 64, 3), 60 * index, np.uint8), f"{index}.png")
    lines = [dict(image=f"{index}.png", prompt="a red apple", steps=2) for index in range(4)]
    Path("list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = [sys.executable, "-m", "ssd1b_jax", "batch", "list.jsonl"]
    subprocess.run([*batch, "-o", "whole"], check=True, env=namespace.environment(), capture_output=True)
    ran = namespace.run(f"{shlex.join(batch)} -o out --ray --ray-workers 2 --ray-resources CPU=1", timeout=300)
    assert ran.returncode == 0 and "out: 4 made, 0 kept, 0 failed" in ran.stdout, ran.stderr[-3000:]
    check_same("out", 4)

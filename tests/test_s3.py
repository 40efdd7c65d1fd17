"""Runs in a bucket of a server that speaks S3: moto's, as a process of its own."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import obstore
import pytest
from helpers import namespace, stub
from test_fleet import check_same, digests, listing, run_on

from ssd1b_jax import images
from ssd1b_jax.cli import main
from ssd1b_jax.runs.bucket import Bucket

URL = "s3://pictures/out"


@pytest.fixture(scope="module")
def server():
    """The address of the server, to which the environment leads."""
    pytest.importorskip("moto")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def bucket(server, tmp_path, monkeypatch):
    """An empty bucket, and a folder with a picture."""
    monkeypatch.chdir(tmp_path)
    images.save(np.full((9, 9, 3), 200, np.uint8), "in.png")
    about = dict(AWS_ENDPOINT_URL=server, AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_REGION="us-east-1")
    for name, value in (about | dict(AWS_ALLOW_HTTP="true")).items():
        monkeypatch.setenv(name, value)
    program = (
        "import boto3, os; s3 = boto3.resource('s3', endpoint_url=os.environ['AWS_ENDPOINT_URL'], "
        "region_name='us-east-1'); s3.create_bucket(Bucket='pictures'); s3.Bucket('pictures').objects.all().delete()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
    return obstore.store.from_url(URL)


def objects(store) -> dict[str, str]:
    """The sha256 of each picture."""
    names = [each["path"] for some in obstore.list(store) for each in some if each["path"].endswith(".png")]
    return {name: hashlib.sha256(bytes(obstore.get(store, name).bytes())).hexdigest() for name in names}


def check_whole(store, count: int) -> None:
    assert objects(store) == digests("whole")
    Path("fetched").mkdir(exist_ok=True)
    for some in obstore.list(store):
        for each in some:
            Path("fetched", each["path"]).write_bytes(bytes(obstore.get(store, each["path"]).bytes()))
    Path("fetched", "status.json").touch()
    check_same("fetched", count)


@pytest.mark.slow
def test_of_many_that_create_an_object_one_does(bucket):
    store = Bucket(URL)
    with ThreadPoolExecutor(8) as pool:
        for name in map(str, range(20)):
            made = [*pool.map(lambda index, name=name: store.create(name, f"{index}".encode() * 999), range(8))]
            assert made.count(True) == 1 and store.read(name) == f"{made.index(True)}".encode() * 999


@pytest.mark.slow
def test_of_three_workers_of_a_bucket_one_is_killed_and_each_picture_counts_once(bucket):
    stub.make(listing(120), "whole")
    command = [sys.executable, "-m", "helpers.stub", "list.jsonl", URL, "0.01", "lease=2"]
    workers = [subprocess.Popen(command, env=namespace.environment()) for _ in range(3)]
    until = time.monotonic() + 60
    while len(objects(bucket)) < 20 and time.monotonic() < until:
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    assert workers[0].wait() == -signal.SIGKILL
    assert [worker.wait(120) for worker in workers[1:]] == [0, 0]
    check_whole(bucket, 120)


@pytest.mark.slow
def test_a_fleet_of_a_bucket(bucket):
    stub.make(listing(12), "whole")
    run, _ = run_on(URL, dies=True)
    assert run.tally.completed == 12
    check_whole(bucket, 12)


@pytest.mark.slow
def test_the_command_goes_on_in_a_bucket(bucket, capsys, tiny_folder, commands_use_tiny_pipe):
    for index in range(3):
        images.save(np.full((64, 64, 3), 60 * index, np.uint8), f"{index}.png")
    Path("list.csv").write_text("image,prompt\n" + "".join(f"{index}.png,an apple\n" for index in range(3)))
    batch = ["batch", "list.csv", "-o", URL, "--model", str(tiny_folder), "--steps", "2"]
    assert main(batch) == 0 and "3 made, 0 kept" in capsys.readouterr().out
    obstore.delete(bucket, "1.png")
    assert main(batch) == 0 and "resumed: 2 kept, 1 redone, 0 new" in capsys.readouterr().out
    assert os.path.basename(URL) == "out" and not Path("out").exists()

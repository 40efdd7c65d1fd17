"""The hub, played by a server on this machine: only what is needed is fetched, and what goes wrong is one sentence."""

import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import checkpoints, tiny

from convert import hub
from convert.hub import is_hub_id
from convert.to_model import convert
from ssd1b_jax import images
from ssd1b_jax.checkpoints.model_folder import load_model
from ssd1b_jax.checkpoints.model_json import read_manifest
from ssd1b_jax.cli import loras
from ssd1b_jax.errors import HubError, RequestError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BESIDE = ("unet/diffusion_pytorch_model.bin", "SSD-1B.safetensors", "unet/model.onnx", "demo.png")
SCRIPT = "import sys; from convert.__main__ import main; sys.exit(main(sys.argv[1:]))"
SEVERAL = "import json, sys; from convert.__main__ import main; print([main(argv) for argv in json.loads(sys.argv[1])])"


class Hub(http.server.BaseHTTPRequestHandler):
    """The few routes that huggingface_hub asks for."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, asked: list, cut: list, *arguments):
        self.folder, self.asked, self.cut = folder, asked, cut
        super().__init__(*arguments)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append((self.command, path, self.headers.get("Range")))
        for repo, status, code in (("o/absent", 404, "RepoNotFound"), ("o/gated", 403, "GatedRepo")):
            if f"{repo}/" in f"{path}/":
                return self.answer(status, b"no", {"X-Error-Code": code, "X-Error-Message": "no"})
        if path.startswith("/api/models/"):
            return self.about(path.removeprefix("/api/models/"))
        name = re.split(rf"/resolve/(?:{COMMIT}|main|v2)/", path)[-1]
        file = self.folder / name
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[start:], headers)
        self.answer(200, data, headers, cut=name in self.cut and self.command == "GET")

    def about(self, path: str):
        repo, _, rest = path.partition("/revision/")
        revision = rest.split("/")[0]
        if revision not in ("", "main", "v2", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        if "/tree/" in path:
            said = [{"type": "file", "path": name, "size": 1, "oid": "x"} for name in files]
        else:
            said = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        self.answer(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, data: bytes, headers: dict, cut: bool = False):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def log_message(self, *unused):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny.tiny_config()
    folder = tmp_path_factory.mktemp("hub") / "folder"
    parts = checkpoints.tensors(config)
    checkpoints.diffusers_folder(folder, config, parts)
    halves = {name: tensor.astype(np.float16) for name, tensor in parts["unet"].items()}
    checkpoints.save(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", halves)
    for name in BESIDE:
        (folder / name).write_bytes(b"large")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture
def served(folder):
    asked, cut = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, folder, asked, cut))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked, cut
    server.shutdown()
    server.server_close()


def run(
    address: str, cache: Path, *arguments: str, script: str = SCRIPT, **environment: str
) -> subprocess.CompletedProcess:
    """The command in a process of its own, whose hub is that address: the hub's library reads it when imported."""
    place = dict(HF_ENDPOINT=address, HF_HOME=str(cache), HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | place | dict(PYTHONPATH=paths) | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def fetched(asked: list) -> list[str]:
    return [
        path.split(f"/resolve/{COMMIT}/")[1] for method, path, _ in asked if method == "GET" and "/resolve/" in path
    ]


@pytest.mark.slow
def test_a_hub_id_is_fetched_and_converted(served, folder, tmp_path):
    address, asked, _ = served
    done = run(address, tmp_path / "cache", "o/tiny", str(tmp_path / "model"), "--dtype", "float16", "--revision", "v2")
    assert done.returncode == 0, done.stderr
    assert "licence apache-2.0" in done.stdout
    manifest = read_manifest(tmp_path / "model")
    assert (manifest.source, manifest.revision) == ("o/tiny", COMMIT)
    names = fetched(asked)
    assert len(names) == len({*names}) and not {*BESIDE} & {*names}
    assert [name for name in names if name.startswith("unet/diff")] == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    convert(folder, tmp_path / "local", "float16")
    here, there = load_model(tmp_path / "local"), load_model(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, here.params, there.params)
    asked.clear()
    again = run(address, tmp_path / "cache", "o/tiny", str(tmp_path / "again"), "--dtype", "float16")
    assert again.returncode == 0 and fetched(asked) == []


@pytest.mark.slow
def test_what_was_cut_off_goes_on(served, tmp_path):
    """What had come whole is not fetched again; inside a large file, huggingface_hub goes on by itself."""
    address, asked, cut = served
    name = "text_encoder_2/model.safetensors"
    cut.append(name)
    failed = run(address, tmp_path / "cache", "o/tiny", str(tmp_path / "model"))
    assert failed.returncode == 2 and not (tmp_path / "model").exists()
    assert failed.stderr.splitlines()[-1].startswith(
        "error: the hub's 'o/tiny' can't be fetched (peer closed connection"
    )
    cut.clear()
    asked.clear()
    done = run(address, tmp_path / "cache", "o/tiny", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert fetched(asked) == [name]


def test_what_the_hub_refuses(served, tmp_path):
    target = str(tmp_path / "model")
    commands = [["o/absent", target], ["o/gated", target], ["o/tiny", target, "--revision", "v9"]]
    done = run(served[0], tmp_path / "cache", json.dumps(commands), script=SEVERAL)
    assert done.stdout == "[2, 2, 2]\n"
    expected = (
        "the hub's 'o/absent' does not exist, or is private: check its name",
        "the hub's 'o/gated' is gated: accept its terms on its page",
        "the hub's 'o/tiny' has no revision 'v9'",
    )
    for line, sentence in zip(done.stderr.splitlines(), expected, strict=True):
        assert line.startswith(f"error: {sentence}")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("offline", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_no_hub(tmp_path, offline):
    address, target = "http://127.0.0.1:9", str(tmp_path / "model")
    done = run(address, tmp_path / "cache", "o/tiny", target, HF_HUB_OFFLINE=offline)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the hub's 'o/tiny' can't be fetched (")
    assert "give a folder or a file that is on this machine" in done.stderr


def test_what_reads_as_an_id():
    assert all(map(is_hub_id, ("segmind/SSD-1B", "a/b.c_d-e")))
    assert not any(map(is_hub_id, ("SSD-1B", "./a", "../b", "a/b/c", "/a", "a/", "https://a/b", "a b/c")))


LORA = "pytorch_lora_weights.safetensors"


LISTINGS = {
    "the usual name": ([LORA, "other.safetensors", "unet/x.safetensors"], None, LORA),
    "the only one": (["style.safetensors", "x.bin"], None, "style.safetensors"),
    "one that is named": (["a.safetensors", "b.safetensors"], "b.safetensors", "b.safetensors"),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_the_file_of_a_lora(monkeypatch, tmp_path, name):
    files, asked, expected = LISTINGS[name]
    monkeypatch.setattr(hub, "_listing", lambda repo, revision: hub.Listing({*files}, COMMIT))
    monkeypatch.setattr(hub, "_download", lambda repo, commit, names: tmp_path / "&".join(names))
    assert hub.fetch_lora("o/lora", asked) == tmp_path / expected / expected


@pytest.mark.parametrize(
    ("files", "is_cached", "asked", "said"),
    [
        ([], False, None, "o/lora has no safetensors file: no LoRA"),
        (["a.safetensors"], False, "b.safetensors", "o/lora has no b.safetensors: it has a.safetensors"),
        (["README.md"], True, None, "the cache lacks the LoRA of o/lora, and the hub can't be reached"),
        (["a.safetensors"], True, "b.safetensors", "the cache lacks b.safetensors of o/lora, and the hub can't be rea"),
        (["a.safetensors", "b.safetensors"], False, None, "has several files: give one, as o/lora/a.safetensors .or b"),
    ],
)
def test_a_lora_that_is_not_to_be_had(monkeypatch, files, is_cached, asked, said):
    monkeypatch.setattr(hub, "_listing", lambda repo, revision: hub.Listing({*files}, COMMIT, is_cached))
    with pytest.raises(HubError, match=said):
        hub.fetch_lora("o/lora", asked)


def test_a_lora_may_be_an_id(monkeypatch, tmp_path):
    monkeypatch.setattr(loras, "_fetched", lambda repo, file: f"{repo}@{file}")
    (tmp_path / "style.safetensors").touch()
    places = ["o/lcm-lora.v1", "o/many/b.safetensors", str(tmp_path / "style.safetensors"), "x/none.safetensors"]
    files = loras.by_name(places)
    assert files == {
        "lcm-lora.v1": "o/lcm-lora.v1@None",
        "b": "o/many@b.safetensors",
        "style": places[2],
        "none": "x/none.safetensors",
    }
    with pytest.raises(RequestError, match="two LoRAs are named 'b'"):
        loras.by_name(["o/b", "x/b"])


@pytest.mark.slow
def test_what_is_in_the_cache_needs_no_hub(served, tmp_path):
    """Also where only this program has filled it."""
    address, _, _ = served
    done = run(address, tmp_path / "cache", "o/tiny", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    for number, environment in enumerate(({}, dict(HF_HUB_OFFLINE="1"))):
        target = tmp_path / f"again{number}"
        done = run("http://127.0.0.1:9", tmp_path / "cache", "o/tiny", str(target), **environment)
        assert done.returncode == 0, done.stderr
        assert read_manifest(target).revision == COMMIT
    (weights,) = (tmp_path / "cache").rglob("snapshots/*/vae/*.safetensors")
    weights.unlink()
    done = run("http://127.0.0.1:9", tmp_path / "cache", "o/tiny", str(tmp_path / "none"))
    said = "error: the cache lacks vae/diffusion_pytorch_model.safetensors of o/tiny, and the hub can't be reached"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, said)


@pytest.mark.slow
def test_pictures_of_a_manifest_may_be_on_the_hub(served, folder, tmp_path):
    """In a process of its own, whose hub is this one; it serves the folder as any repository of any kind."""
    images.save(np.full((9, 9, 3), 200, np.uint8), folder / "cat.png")
    program = """
import json
from helpers import stub
rows = [dict(id=f"p{i}", image=f"hf://datasets/o/n{at}/{name}", prompt="x", seed=i)
        for i, (at, name) in enumerate([("", "cat.png"), ("@v2", "cat.png"), ("", "gone.png")])]
open("list.jsonl", "w").write("".join(json.dumps(row) + "\\n" for row in rows))
run = stub.make("list.jsonl", "out")
print(json.dumps(dict(made=run.tally.completed, errors=[entry["error"] for entry in run.failures()])))
"""
    address, asked, _ = served
    place = dict(HF_ENDPOINT=address, HF_HOME=str(tmp_path / "cache"), HF_HUB_DISABLE_XET="1")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    ran = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | place | dict(PYTHONPATH=paths), cwd=tmp_path,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (folder / "cat.png").unlink()
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    [error] = said["errors"]
    assert said["made"] == 2 and error.startswith("hf://datasets/o/n/gone.png: cannot be read: ")

"""A model folder gives back what was saved, and is refused when anything about it has changed."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import random_params, smallest_config

from ssd1b_jax.checkpoints import folders, model_folder, model_json, orbax
from ssd1b_jax.checkpoints.folders import whole_folder
from ssd1b_jax.checkpoints.model_folder import abstract_params, load_model, save_model, verify
from ssd1b_jax.errors import ModelError, SaveError

TINY = smallest_config()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for name in model_folder.TOKENIZERS:
        (folder / name).mkdir()
        for file in ("vocab.json", "merges.txt", "tokenizer_config.json", "notes.txt"):
            (folder / name / file).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizers):
    folder = tmp_path_factory.mktemp("saved") / "model"
    about = dict(source="here", revision="r1", licence="MIT")
    save_model(folder, TINY, random_params(TINY), tokenizers=tokenizers, dtype="float16", **about)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_load_gives_what_was_saved(saved, dtype):
    model = load_model(saved, dtype=dtype)
    wanted = jnp.dtype(dtype or "float16")
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(wanted), random_params(TINY))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), model.params, expected)
    assert model.config == TINY
    about = model.manifest
    assert (about.source, about.revision, about.licence, about.dtype) == ("here", "r1", "MIT", "float16")
    assert model.folder == saved and not (saved / "tokenizer" / "notes.txt").exists()


def test_parameters_are_placed_by_sharding(saved):
    sharding = jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("data",)), jax.P())
    model = load_model(saved, sharding=sharding)
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(model.params))


def test_a_path_is_no_pattern(tmp_path, tokenizers):
    """Orbax looks for files by patterns, in which these characters have a meaning."""
    folder = tmp_path / "[ai] what? *" / "model [bf16]"
    save_model(folder, TINY, random_params(TINY), source="here", dtype="float32", tokenizers=tokenizers)
    expected = jax.tree.map(lambda x: x.astype(np.float32), random_params(TINY))
    jax.tree.map(np.testing.assert_array_equal, load_model(folder).params, expected)


def test_a_part_that_cannot_be_read_back_is_not_certified(tmp_path, tokenizers, monkeypatch):
    def unreadable(path, shapes):
        raise ValueError("no checkpoint")

    monkeypatch.setattr(orbax, "read_leaves", unreadable)
    about = dict(source="here", dtype="float32", tokenizers=tokenizers)
    with pytest.raises(ModelError, match="unet can't be read back after it was written"):
        save_model(tmp_path / "model", TINY, random_params(TINY), **about)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["unet/.DS_Store", "vae/._manifest", "tokenizer/.ipynb_checkpoints/vocab.json"])
def test_hidden_files_are_no_part_of_a_model(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\0\5")
    assert verify(folder).config == TINY


def test_every_file_is_verified(folder):
    files = model_json.read_manifest(folder).files
    assert len(files) == 6 + 4 * 8  # two tokenizers of three files, four parts of eight
    for name in files:
        path = folder / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if data else b"x")
        with pytest.raises(ModelError, match=f"{name} is damaged.*: copy or convert the model again"):
            verify(folder)
        path.unlink()
        with pytest.raises(ModelError, match=f"{name} is missing: copy or convert the model again"):
            load_model(folder)
        path.write_bytes(data)
    (folder / "README.md").write_text("a model card is welcome")
    verify(folder)
    (folder / "unet" / "more").touch()
    with pytest.raises(ModelError, match="unet/more is not listed in model.json: remove it"):
        verify(folder)


def change(folder, **changes):
    """Change what a manifest says, with a sha256 that agrees."""
    path = folder / "model.json"
    said = json.loads(path.read_text()) | changes
    said["sha256"] = model_json.digest({key: value for key, value in said.items() if key != "sha256"})
    path.write_text(json.dumps(said))


def test_one_digit_of_the_manifest_counts(folder):
    path = folder / "model.json"
    said = path.read_text()
    assert said.count('"beta_end": 0.012') == 1
    path.write_text(said.replace('"beta_end": 0.012', '"beta_end": 0.013'))
    with pytest.raises(ModelError, match="model.json is damaged .its sha256 is wrong"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(format=2), "has format 2, this version reads 1"),
        (dict(dtype="int8"), "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (dict(files=None), "is not a readable manifest"),
        (dict(config={}), "model.json: missing .*: copy or convert the model again"),
        (dict(config={"unet": 3}), "is not a readable manifest"),
    ],
)
def test_manifests_of_others_are_refused(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_config_that_is_not_the_weights_is_refused(folder):
    config = TINY.to_dict()
    config["vae"]["layers_per_block"] = 2
    change(folder, config=config)
    with pytest.raises(ModelError, match="vae does not hold what model.json describes"):
        load_model(folder)


def test_names_and_foreign_folders(tmp_path):
    with pytest.raises(ModelError, match="^no model folder at 'emojy': give 'emoji' or a folder that"):
        load_model("emojy")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match=f"is a diffusers folder: run ssd1b convert {tmp_path} TARGET"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("[")
    with pytest.raises(ModelError, match="model.json is not a readable manifest"):
        load_model(tmp_path)


def test_a_failed_save_leaves_nothing(tmp_path, tokenizers):
    with pytest.raises(KeyError):
        save_model(tmp_path / "model", TINY, {}, tokenizers=tokenizers, dtype="float16", source="")
    with pytest.raises(ModelError, match="dtype must be one of"):
        save_model(tmp_path / "model", TINY, random_params(TINY), tokenizers=tokenizers, dtype="int8", source="")
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine").touch()
    with pytest.raises(ModelError, match="exists and is not an empty folder"):
        save_model(tmp_path, TINY, random_params(TINY), tokenizers=tokenizers, dtype="float16", source="")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_model_in_many_pieces_is_the_same(saved, tmp_path, tokenizers, monkeypatch):
    monkeypatch.setattr(orbax, "BATCH", 1000)
    told = []
    save_model(
        tmp_path / "model", TINY, random_params(TINY), tokenizers=tokenizers, dtype="float16", source="here",
        on_progress=lambda stage, count: told.append((stage, count)),
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, load_model(tmp_path / "model").params, load_model(saved).params)
    size = sum(2 * leaf.size for leaf in jax.tree.leaves(abstract_params(TINY)))
    assert sum(count for stage, count in told if stage == "writing") == size
    files = model_json.read_manifest(tmp_path / "model").files.values()
    assert sum(count for stage, count in told if stage == "hashing") == sum(entry["size"] for entry in files)


def test_leftovers_that_others_remove_do_not_matter(tmp_path, monkeypatch):
    """Found by two at once, they are removed by one; and what can't be opened stays."""
    (tmp_path / ".model.gone.partial").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".model.left.partial").mkdir()
    with whole_folder(tmp_path / "model") as partial:
        (partial / "file").write_text("here")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.gone.partial", "model"]
    assert (tmp_path / "model" / "file").read_text() == "here"


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_new_folder_that_is_taken_for_a_leftover(tmp_path, monkeypatch, moment):
    """Another process may lock and remove it in between: another is made."""
    made, opened, taken = folders.tempfile.mkdtemp, os.open, []

    def take(path):
        if not taken:
            taken.append(path)
            os.rmdir(path)
        return path

    def open_and_take(path, flags):
        descriptor = opened(path, flags)
        take(path)
        return descriptor

    if moment == "before it is opened":
        monkeypatch.setattr(folders.tempfile, "mkdtemp", lambda **about: take(made(**about)))
    else:
        monkeypatch.setattr(folders.os, "open", open_and_take)
    with whole_folder(tmp_path / "model") as partial:
        assert partial.is_dir() and str(partial) != str(taken[0])
        (partial / "file").write_text("here")
        rival = opened(partial, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(rival)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "file"]


SLOW_SAVE = """
import sys, time
sys.path[:0] = [sys.argv[3], sys.argv[3] + "/tests"]
import jax
jax.config.update("jax_platforms", "cpu")
from helpers.tiny import random_params, smallest_config
from ssd1b_jax.checkpoints import model_folder, orbax

def advance(stage, count):
    print(stage, flush=True)
    time.sleep(0.02)

model = smallest_config()
params = random_params(model)
about = dict(dtype="float16", source="", on_progress=advance)
orbax.BATCH = 2000
print("begun", flush=True)
model_folder.save_model(sys.argv[1], model, params, tokenizers=sys.argv[2], **about)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["begun", "writing 90", "hashing 20"])
def test_killed_at_any_moment_it_leaves_nothing_that_loads(tmp_path, tokenizers, moment):
    stage, _, count = moment.partition(" ")
    target = tmp_path / "model"
    arguments = [str(target), str(tokenizers), str(Path(__file__).parents[1])]
    process = subprocess.Popen([sys.executable, "-c", SLOW_SAVE, *arguments], stdout=subprocess.PIPE, text=True)
    seen = 0
    for line in process.stdout:
        seen += line.strip() == stage
        if seen == int(count or 1):
            break
    time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not target.exists()
    with pytest.raises(ModelError, match="no model folder at"):
        load_model(target)
    left = list(tmp_path.iterdir())
    assert all(path.name.startswith(".model.") and path.name.endswith(".partial") for path in left)
    for path in left:
        with pytest.raises(ModelError, match="no model folder at"):
            load_model(path)
    other = tmp_path / ".model.other.partial"  # that another process is filling
    other.mkdir()
    descriptor = os.open(other, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    save_model(target, TINY, random_params(TINY), tokenizers=tokenizers, dtype="float16", source="")
    verify(target)
    assert sorted(tmp_path.iterdir()) == [other, target]
    os.close(descriptor)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks(tmp_path, monkeypatch, number):
    """Folders are written there too; what a killed process left stays, as nothing tells it from another's work."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".model.x.partial").mkdir()
    with whole_folder(tmp_path / "model") as partial:
        (partial / "file").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.x.partial", "model"]


def test_a_system_without_locks_and_folders_that_open(tmp_path, monkeypatch):
    """As Windows is."""
    opened = os.open

    def refuse(path, flags, *more, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(folders.os, "open", refuse)
    (tmp_path / ".model.x.partial").mkdir()
    with whole_folder(tmp_path / "model") as partial:
        (partial / "file").touch()
    assert (tmp_path / "model" / "file").exists() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_what_a_disk_refuses_inside_a_library_is_one_sentence(tmp_path, number):
    """tensorstore says so in a ValueError."""
    with pytest.raises(SaveError, match=f"model: cannot be saved: {os.strerror(number).lower()}$"):
        with whole_folder(tmp_path / "model"):
            raise ValueError(f"OUT_OF_RANGE: Failed writing\n [os_error_code='{number}']")
    assert not list(tmp_path.iterdir())


def test_what_may_not_be_read_is_no_missing_file(saved, tmp_path, monkeypatch):
    """Root may read everything, so the system's answer is played."""
    walk = os.walk

    def refused(top, onerror=None):
        if Path(top).name == "text_encoder":
            onerror(PermissionError(13, "Permission denied", str(top)))
        return walk(top, onerror=onerror)

    monkeypatch.setattr(os, "walk", refused)
    with pytest.raises(ModelError, match=r"text_encoder may not be read by this user: ask its owner to run chmod"):
        verify(saved)

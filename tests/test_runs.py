"""Runs: manifests, names, what is kept and what is made again, and that nothing is lost or made twice."""

import csv
import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import obstore
import pytest
from helpers import stub
from helpers.commands import run as command
from helpers.stub import StubPipe, make, open_run

from ssd1b_jax import Output, RunError, SaveError, images, plan, runs
from ssd1b_jax.errors import RequestError
from ssd1b_jax.plan.compiler import Chip, Cost
from ssd1b_jax.presets import emoji
from ssd1b_jax.runs import Policy, Shard, claims, columns, journal, names
from ssd1b_jax.runs.bucket import Bucket
from ssd1b_jax.runs.manifest import Line

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    images.save(np.full((9, 9, 3), 200, np.uint8), "in.png")
    return tmp_path


def write(name: str, *rows) -> str:
    """A CSV file of rows, or a JSONL file of objects."""
    with open(name, "w", newline="", encoding="utf-8") as file:
        if name.endswith(".csv"):
            csv.writer(file).writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def listing(count: int = 20, name: str = "list.csv") -> str:
    return write(name, ["id", "prompt", "seed"], *([f"p{i}", f"a red apple {i}", i] for i in range(count)))


def values(manifest: str, **about):
    return [line.values if line.error is None else str(line.error) for line in runs.read(manifest, **about).lines()]


def results(out="out") -> list[dict]:
    return [json.loads(line) for line in Path(out, "results.jsonl").read_text().splitlines()]


def pictures(out="out") -> dict[str, str]:
    """The sha256 of every file but the run's own, by its name."""
    own = ("run.json", "results", "status")
    paths = (path for path in Path(out).rglob("*") if path.is_file() and not path.name.startswith(own))
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def check_whole(count: int, out="out") -> None:
    """Every picture is there with its line, once, and nothing else is."""
    entries = results(out)
    assert {entry["output"]: entry["sha256"] for entry in entries} == pictures(out)
    assert len(entries) == count and len(pictures(out)) == count
    assert not [path.name for path in Path(out).rglob(".*")]


# manifests


def test_csv_has_settings_by_any_of_their_names():
    rows = [
        ["ID", "init_image", "Text", "denoising-strength", "Steps", "exact_steps", "crop", "lora", "seed"],
        ["a", "in.png", 'say "hi", now', "0.5", "12", "yes", "8 16", '{"x": 0.5}', "-1"],
        ["", "sub/in.png", "two\nlines", "", "", "", "", "", "18446744073709551615"],
    ]
    first, second = values(write("list.csv", *rows))
    image = str(Path("in.png"))
    assert first == dict(
        id="a", image=image, prompt='say "hi", now', strength=0.5, num_inference_steps=12, exact_steps=True,
        crops_coords_top_left=(8, 16), loras={"x": 0.5},
    )  # fmt: skip
    assert second == dict(image="sub/in.png", prompt="two\nlines", seed=2**64 - 1)


def test_paths_are_relative_to_the_manifest():
    Path("deep").mkdir()
    write("deep/list.jsonl", dict(image="../in.png", prompt="x"), dict(image="/abs.png", prompt="x"))
    assert [line["image"] for line in values("deep/list.jsonl")] == ["deep/../in.png", "/abs.png"]


def test_line_numbers_are_those_of_an_editor():
    Path("list.csv").write_text('\ufeffprompt;seed\n"two\nlines";1\n\na;b;c\nx;3\n', encoding="utf-8")
    lines = [*runs.read("list.csv").lines()]
    assert [line.where for line in lines] == ["line 2", "line 5", "line 6"]
    assert str(lines[1].error).startswith("has 3 cells, and the first line has 2")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'prompt\n"open', "is no row of a CSV file"),
        (b"prompt\n\xff\xfe\n", "is not in UTF-8"),
        (b"prompt,seed\nx,1.5.5\n", "seed must be a number, got '1.5.5'"),
        (b"prompt,exact_steps\nx,maybe\n", "exact_steps must be true or false"),
        (b"prompt,image\nx,\n", "image is empty"),
        (b"prompt,image\nx,http://host/a.png\n", "image must be a file, or in one of s3, gs, az"),
    ],
)
def test_bad_csv_lines(data, sentence):
    Path("list.csv").write_bytes(data)
    [fault] = values("list.csv")
    assert fault.startswith(sentence)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[1]", "a line must be an object with settings, got list"),
        ('{"prompt": "x", "prompt": "y"}', "is not readable JSON: repeated key 'prompt'"),
        ('{"seed": NaN}', "is not readable JSON: NaN is no number"),
        ('{"promt": "x"}', "no setting is named 'promt': did you mean prompt?"),
        ('{"model": "x"}', "model is one for the whole run"),
        ('{"steps": 3, "num_inference_steps": 3}', "two columns stand for num_inference_steps"),
        ('{"id": [1]}', "id must be text, got list"),
        ('{"image": "data:image/png;base64,!"}', "a data URI of a picture is damaged"),
        ("[" * 100_000, "is not readable JSON: nested too deeply"),
    ],
)
def test_bad_json_lines(line, sentence):
    Path("list.jsonl").write_text(line + "\n")
    [fault] = values("list.jsonl")
    assert fault.startswith(sentence)


def test_manifests_that_are_none():
    write("list.csv", ["promt"], ["x"])
    Path("empty.csv").touch()
    for manifest, sentence in [
        ("list.csv", "list.csv, line 1: no setting is named 'promt': did you mean prompt?"),
        ("empty.csv", "empty.csv is empty"),
        ("list.txt", "a manifest is a folder or ends in .csv"),
        ("gone.csv", "gone.csv: cannot be read: no such file"),
    ]:
        with pytest.raises(RunError, match=f"^{sentence}"):
            runs.read(manifest)
    assert values("list.csv", ignored=["promt"]) == [{}]


def test_lines_of_an_openai_batch():
    data = images.sources.to_json(Path("in.png").read_bytes())
    body = dict(model="x", prompt="a cat", images=[dict(image_url=data)], size="64x48", n=2, quality="high", seed=3)
    batch = [
        dict(custom_id="one", method="POST", url="/v1/images/edits", body=body),
        dict(custom_id="two", method="POST", url="/v1/images/generations", body=dict(prompt="a dog", size="auto")),
        dict(custom_id="three", method="POST", url="/v1/chat/completions", body=dict(prompt="a dog")),
        dict(custom_id="four", method="POST", url="/v1/images/edits", body=dict(prompt="a dog", images=[1, 2])),
    ]
    first, second, third, fourth = values(write("batch.jsonl", *batch))
    assert first == dict(
        id="one", image=Path("in.png").read_bytes(), prompt="a cat", width=64, height=48, num_images=2, seed=3
    )
    assert second == dict(id="two", prompt="a dog")
    assert third.startswith("a line of an OpenAI batch must be a POST to /v1/images/edits")
    assert fourth.startswith("a picture is made from one picture, got 2")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            dict(images=[dict(file_id="f")]),
            "image must be text, alone or as image_url, got an obj",
        ),
        (dict(image=["a.png"]), "image must be text, alone or as image_url, got list"),
        (
            dict(image="in.png", mask=dict(file_id="f")),
            "mask must be text, alone or as image_url, got an obj",
        ),
        (dict(), "an edit needs an image: give one, or use /v1/images/generations"),
    ],
)
def test_an_edit_of_an_openai_batch_never_becomes_another_picture(body, sentence):
    edit = dict(custom_id="a", method="POST", url="/v1/images/edits", body=dict(prompt="x") | body)
    [fault] = values(write("batch.jsonl", edit))
    assert fault.startswith(sentence)


def test_parquet():
    import pyarrow
    from pyarrow import parquet

    data = Path("in.png").read_bytes()
    rows = dict(
        image=[dict(bytes=data, path="a.png"), dict(bytes=None, path="b.png")], text=["x", "y"], steps=[5, None]
    )
    parquet.write_table(pyarrow.table(rows), "list.parquet")
    assert values("list.parquet") == [
        dict(image=data, prompt="x", num_inference_steps=5),
        dict(image="b.png", prompt="y"),
    ]
    Path("bad.parquet").write_bytes(b"no")
    with pytest.raises(RunError, match="bad.parquet: "):
        runs.read("bad.parquet")


def test_a_folder_with_prompts_beside_its_pictures():
    for name in ("b/two.JPG", "a.png", "b/.hidden.png", "out/old.png", "b/note.md"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()
    Path("photos/b/two.txt").write_text("a dog\non grass\n")
    lines = [*runs.read("photos", without=Path("photos/out")).lines()]
    assert [(line.where, line.values) for line in lines] == [
        ("a.png", dict(image="photos/a.png")),
        ("b/two.JPG", dict(image="photos/b/two.JPG", prompt="a dog on grass")),
    ]
    before = runs.read("photos").sha256
    Path("photos/b/two.txt").write_text("a cat")
    assert runs.read("photos").sha256 != before


def test_every_column_that_a_request_has_is_known():
    assert columns.column("guidance-scale") == columns.column("CFG_scale") == "guidance_scale"
    with pytest.raises(RequestError, match="one for the whole run"):
        columns.column("dtype")


# names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (dict(output="x/y.webp"), "x/y.webp"),
        (dict(output="x/y"), "x/y.png"),
        (dict(id="2024-01-01T10:00"), "2024-01-01T10:00.png"),
        (dict(image="sub/photo.jpg"), "sub/photo.png"),
        (dict(image="/far/photo.tar.jpg"), "photo.tar.png"),
        (dict(image="../photo.jpg"), "photo.png"),
        (dict(image="s3://bucket/far/photo.jpg"), "photo.png"),
        (dict(), "000001.png"),
    ],
)
def test_names_of_outputs(given, name):
    write("list.jsonl", dict(prompt="x", **given))
    [line] = runs.read("list.jsonl").lines()
    assert names.name(line, Output()) == name
    assert names.numbered("a/b.png", 4, 12) == "a/b-05.png"


@pytest.mark.parametrize(
    "output",
    ["/etc/x.png", "../x.png", "a/../../x.png", "~/x.png", "a//x.png", ".x.png", ".partial/x.png", "a/con.png",
     "NUL.txt.png", "a\\x.png", "C:x.png", "x\0.png", "a./x.png", "x" * 300, "\ud800.png", "link/x.png"],
)  # fmt: skip
def test_names_that_leave_the_folder_refuse_the_run_before_any_work(output, here):
    Path("out").mkdir()
    Path("out/link").symlink_to(here)
    Path("list.jsonl").write_text(
        json.dumps(dict(prompt="x", id="ok")) + "\n" + json.dumps(dict(prompt="x", output=output))
    )
    pipe = StubPipe()
    with pytest.raises(RunError, match="output"):
        make("list.jsonl", "out", pipe)
    assert pipe.asked == 0 and sorted(path.name for path in Path("out").iterdir()) == ["link"]


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (dict(id="a"), dict(id="A"), "lines 1 and 2: A.png"),
        (dict(id="a"), dict(output="a.png"), "lines 1 and 2: a.png"),
        (dict(id="é"), dict(id="e\u0301"), "lines 1 and 2"),
        (dict(id="a.png"), dict(id="a.png/b"), "lines 1 and 2: a.png is a file and a folder"),
        (dict(id="a"), dict(id="a.jpg"), "lines 1 and 2: a.jpg"),
        (dict(image="x/in.png"), dict(image="x/in.jpg"), "lines 1 and 2: x/in.png"),
    ],
)
def test_names_that_are_alike_are_told_before_any_work(first, second, sentence):
    write("list.jsonl", dict(prompt="x", **first), dict(prompt="x", **second))
    sidecar = first.get("id") == "a" and second.get("id") == "a.jpg"
    with pytest.raises(RunError, match=sentence):
        make("list.jsonl", "out", output=Output(sidecar=sidecar))
    assert not Path("out").exists()


def test_a_jpeg_has_the_name_of_the_sidecar_that_its_record_may_need():
    write("list.jsonl", dict(id="a.jpg", prompt="x"), dict(id="a.jpeg", prompt="x"))
    with pytest.raises(RunError, match="lines 1 and 2: a.jpeg"):
        make("list.jsonl", "out")
    assert make("list.jsonl", "out", output=Output(metadata=False)).tally.completed == 2
    write("list.jsonl", dict(id="run.jpg", prompt="x"))
    with pytest.raises(RunError, match="line 1 .*the sidecar run.json is a file of the run"):
        make("list.jsonl", "out2")


# what is made


def test_a_run_makes_each_picture_once_and_says_so():
    entries, states = [], []

    def tell(entry):
        entries.append(entry)
        states.append(json.loads(Path("out/status.json").read_text())["state"])

    run = make(listing(), "out", tell=tell)
    check_whole(20)
    assert set(states) == {"running"}
    assert sorted(entries, key=lambda entry: entry["line"]) == sorted(results(), key=lambda entry: entry["line"])
    entry = next(entry for entry in results() if entry["id"] == "p7")
    assert (entry["line"], entry["output"], entry["seed"], entry["error"]) == (9, "p7.png", 7, None)
    status = json.loads(Path("out/status.json").read_text())
    assert (status["state"], status["made"], status["total"], status["failed"]) == ("done", 20, 20, 0)
    assert run.tally.summary().startswith("20 made, 0 kept, 0 failed, ")
    again = make("list.csv", "out", pipe := StubPipe())
    assert pipe.asked == 0 and (again.kept, again.redone, again.new) == (20, 0, 0)


def test_subfolders_sidecars_formats_and_several_pictures_a_line():
    write("list.jsonl", dict(id="a/b", prompt="x", n=2, seed=5, format="jpeg", sidecar=True), dict(id="c", prompt="y"))
    make("list.jsonl", "out")
    assert sorted(pictures("out")) == ["a/b-1.jpg", "a/b-1.json", "a/b-2.jpg", "a/b-2.json", "c.png"]
    assert [entry["seed"] for entry in sorted(results(), key=lambda entry: entry["output"])][:2] == [5, 6]
    Path("out/a/b-1.json").unlink()
    assert make("list.jsonl", "out").redone == 1
    assert Path("out/a/b-1.json").exists()


def test_seeds_that_are_not_given_follow_from_names():
    write("list.jsonl", dict(id="a", prompt="x"), dict(id="b", prompt="x", variation_strength=0.5))
    make("list.jsonl", "one")
    make("list.jsonl", "two")
    assert pictures("one") == pictures("two")
    first, second = (entry["seed"] for entry in results("one"))
    assert first != second


def test_a_seed_of_minus_one_is_none():
    write("list.jsonl", dict(id="a", prompt="x", variation_strength=0.5))
    make("list.jsonl", "one")
    make("list.jsonl", "two", request=dict(seed=-1, variation_seed=-1))
    assert pictures("one") == pictures("two")


def test_what_is_damaged_or_missing_is_made_again():
    make(listing(), "out")
    before = pictures()
    Path("out/p3.png").unlink()
    Path("out/p4.png").write_bytes(b"")
    data = bytearray(Path("out/p5.png").read_bytes())
    data[-20] ^= 1
    Path("out/p5.png").write_bytes(data)
    Path("out/p6.png").unlink()
    Path("out/p6.png").symlink_to("p7.png")
    with open("out/results.jsonl", "r+b") as file:
        lines = file.readlines()
        file.truncate(sum(map(len, lines[:-1])) + 9)  # as by a process that died
    lost = json.loads(lines[-1])["output"]
    redone = len({"p3.png", "p4.png", "p5.png", "p6.png"} - {lost})
    run = make("list.csv", "out", pipe := StubPipe())
    assert (run.kept, run.redone, run.new) == (19 - redone, redone, 1) and pipe.asked == redone + 1
    check_whole(20)
    assert pictures() == before and not Path("out/p6.png").is_symlink()


def test_a_disk_without_hard_links_is_no_hindrance(monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    make(listing(3), "out")
    assert make("list.csv", "out").kept == 3
    with pytest.raises(SaveError, match="cannot be saved: operation not permitted"):
        make("list.csv", "shared", shard=Shard(1, 2))


def test_a_quick_look_takes_the_size_for_the_picture():
    make(listing(3), "out")
    data = bytearray(Path("out/p0.png").read_bytes())
    data[-20] ^= 1
    Path("out/p0.png").write_bytes(data)
    Path("out/p1.png").write_bytes(b"x")
    assert make("list.csv", "out", policy=Policy(verify="size")).redone == 1
    assert make("list.csv", "out").redone == 1


def test_another_manifest_or_other_settings_are_refused_with_what_differs():
    make(listing(3), "out", request=dict(guidance_scale=5.0))
    with pytest.raises(
        RunError, match="out has another run: guidance_scale was 5.0, now 6.0: choose another folder, --add"
    ):
        make("list.csv", "out", request=dict(guidance_scale=6.0))
    with pytest.raises(RunError, match="output format was not given, now webp"):
        make("list.csv", "out", request=dict(guidance_scale=5.0), output=Output(format="webp"))
    listing(4)
    with pytest.raises(RunError, match="manifest sha256 was "):
        make("list.csv", "out", request=dict(guidance_scale=5.0))
    check_whole(3)
    run = make("list.csv", "out", request=dict(guidance_scale=5.0), policy=Policy(add=True))
    assert (run.kept, run.new) == (3, 1)
    check_whole(4)
    run = make(listing(2), "out", policy=Policy(restart=True))
    assert (run.kept, run.new) == (0, 2)
    check_whole(2)


def test_a_run_that_goes_on_does_not_look_at_every_setting_again(monkeypatch):
    about = dict(request=dict(guidance_interval=(0.0, 0.5), loras={"x": 0.5}), loras=frozenset("x"))
    make(listing(3), "out", **about)
    monkeypatch.setattr(runs.checking, "_count", lambda *_: pytest.fail("looked"))
    assert make("list.csv", "out", **about).kept == 3


def test_files_of_others_are_never_replaced():
    Path("out").mkdir()
    Path("out/p1.png").write_bytes(b"mine")
    with pytest.raises(RunError, match=r"out has files that would be replaced \(p1.png\)"):
        make(listing(3), "out")
    assert os.listdir("out") == ["p1.png"]
    Path("out/run.json").write_text("{}")
    with pytest.raises(RunError, match="does not describe a run"):
        make("list.csv", "out")


@pytest.mark.parametrize("policy", [Policy(add=True), Policy(restart=True)])
def test_another_run_removes_nothing_before_it_is_refused(policy):
    make(listing(2), "out", output=Output(sidecar=True))
    Path("out/p2.json").write_text("mine")
    before = pictures()
    with pytest.raises(RunError, match=r"out has files that would be replaced \(p2.json\): move them, or choose"):
        make(listing(3), "out", policy=policy, output=Output(sidecar=True))
    assert pictures() == before and len(results()) == 2
    Path("out/p2.json").unlink()
    run = make("list.csv", "out", policy=policy, output=Output(sidecar=True))
    assert (run.kept, run.new) == ((2, 1) if policy.add else (0, 3)) and len(pictures()) == 6


def test_the_same_run_removes_nothing_before_its_restart_is_refused():
    make(listing(2), "out")
    before = pictures()
    Path("out/results.jsonl").write_text(json.dumps(results()[0]) + "\n")
    with pytest.raises(RunError, match="would be replaced"):
        make("list.csv", "out", policy=Policy(restart=True))
    assert pictures() == before


def test_an_input_is_never_replaced():
    Path("photos").mkdir()
    images.save(np.zeros((4, 4, 3), np.uint8), "photos/a.png")
    with pytest.raises(RunError, match="would be replaced"):
        make("photos", "photos", request=dict(prompt="x"))
    Path("photos/a.png").rename("a.png")
    write("list.jsonl", dict(id="b", prompt="x"), dict(image="photos/a.png", prompt="x", output="a"))
    make("list.jsonl", "photos")
    Path("a.png").rename("photos/a.png")
    run = make("list.jsonl", "photos")
    assert dict(run.tally.failed) == {"RequestError": 1} and images.load("photos/a.png").pixels.max() == 0


# failures


def faulty() -> str:
    images.save(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), "cut.png")
    Path("cut.png").write_bytes(Path("cut.png").read_bytes()[:2000])
    Path("none.png").write_text("no picture")
    good = [dict(id=f"p{i}", image="in.png", prompt="x") for i in range(6)]
    bad = [
        dict(id="cut", image="cut.png", prompt="x"),
        dict(id="none", image="none.png", prompt="x"),
        dict(id="strong", image="in.png", prompt="x", strength=2),
        dict(id="silent", image="in.png"),
        7,
    ]
    return write("list.jsonl", *good[:3], *bad, *good[3:])


def test_a_failure_fails_alone_and_is_tried_again():
    run = make(faulty(), "out")
    assert dict(run.tally.failed) == dict(ImageError=2, RequestError=3)
    assert (run.tally.completed, run.tally.done, run.tally.total) == (6, 11, 11)
    told = {entry["where"]: entry["error"] for entry in run.failures()}
    assert told["line 6 (strong)"] == "strength must be in (0, 1], got 2.0"
    assert told["line 7 (silent)"] == "prompt must be given, in the line or by --prompt"
    assert told["line 8"].startswith("a line must be an object")
    assert "cannot be read" in told["line 4 (cut)"] and "not a picture" in told["line 5 (none)"]
    Path("cut.png").write_bytes(Path("in.png").read_bytes())
    again = make("list.jsonl", "out")
    assert (again.kept, again.retried, again.new) == (6, 4, 1) and again.tally.completed == 1
    assert len(results()) == 11


def test_stop_refuses_lines_that_are_wrong_before_any_work():
    with pytest.raises(RunError, match=r"line 6 \(strong\): strength must be.*nothing was made"):
        make(faulty(), "out", pipe := StubPipe(), policy=Policy(on_error="stop"))
    assert pipe.asked == 0 and not Path("out").exists()


def test_stop_refuses_lines_that_are_wrong_of_a_run_that_goes_on():
    make(faulty(), "out")
    with pytest.raises(RunError, match=r"line 6 \(strong\): strength must be.*nothing was made"):
        make("list.jsonl", "out", policy=Policy(on_error="stop"))


def test_stop_ends_the_run_at_a_picture_that_fails():
    Path("none.png").write_text("no picture")
    rows = ([f"p{i}", "none.png" if i == 9 else "in.png", "x", i] for i in range(40))
    write("list.csv", ["id", "image", "prompt", "seed"], *rows)
    run = make("list.csv", "out", policy=Policy(on_error="stop"))
    assert dict(run.tally.failed) == {"ImageError": 1} and run.tally.completed < 15
    assert json.loads(Path("out/status.json").read_text())["state"] == "stopped"


def test_a_manifest_without_a_good_line_is_refused():
    write("list.jsonl", dict(promt="x"), dict(promt="y"))
    with pytest.raises(RunError, match="list.jsonl has no line that can be used: line 1: no setting is named 'promt'"):
        make("list.jsonl", "out")
    write("list.csv", ["prompt"])
    with pytest.raises(RunError, match="lists no picture"):
        make("list.csv", "out")


def test_a_full_disk_keeps_what_is_done(monkeypatch):
    written, real = [], os.fsync

    def full(descriptor):
        written.append(descriptor)
        if len(written) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SaveError, match="no space left on device") as caught:
            make(listing(), "out")
        assert caught.value.exit_code == 3
    kept = len(results())
    assert 3 < kept < 20
    run = make("list.csv", "out")
    assert (run.kept, run.new) == (kept, 20 - kept)
    check_whole(20)


def test_a_journal_that_is_full_takes_back_half_a_line(monkeypatch):
    run = open_run(listing(2), "out")
    real, calls = os.write, []

    def half(file, data):
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(SaveError, match="results.jsonl: cannot be saved: no space left"):
            run._journal.add(dict(output="x", error="y" * 9))
    assert Path("out/results.jsonl").read_bytes() == b""
    run.close()


# many workers


def test_two_processes_never_have_one_run():
    run = open_run(listing(3), "out")
    with pytest.raises(RunError, match="out is in use: another process is at this run"):
        open_run("list.csv", "out")
    run.close()
    make("list.csv", "out")
    check_whole(3)


def test_shards_are_all_of_a_run_and_stay_when_lines_are_added():
    listing(40)
    runs_made = [make("list.csv", "out", shard=Shard(i, 4)) for i in (1, 2, 3, 4)]
    assert [run.tally.completed for run in runs_made] == [run.tally.total for run in runs_made]
    assert sum(run.tally.completed for run in runs_made) == 40 and min(run.tally.completed for run in runs_made) > 2
    assert sorted(path.name for path in Path("out").glob("results*")) == [
        f"results-{i}-of-4.jsonl" for i in (1, 2, 3, 4)
    ]
    share = {name for name in (f"p{i}.png" for i in range(40)) if Shard(2, 4).has(name)}
    assert {entry["output"] for entry in journal.read(stub.Folder(Path("out")), "results-2-of-4.jsonl")} == share
    assert make("list.csv", "out", pipe := StubPipe()).kept == 40 and pipe.asked == 0
    check_whole(40)


def test_lines_whose_names_are_no_text_fail_alone():
    write("list.jsonl", dict(id="\ud800", prompt="x", num_images=0), dict(id="b", prompt="x"))
    run = make("list.jsonl", "out")
    assert dict(run.tally.failed) == {"RequestError": 1} and run.tally.completed == 1


def test_a_share_reads_its_own_pictures_alone(monkeypatch):
    listing(20)
    for index in (1, 2):
        make("list.csv", "out", shard=Shard(index, 2))
    read, sha256 = [], stub.Folder.sha256
    monkeypatch.setattr(stub.Folder, "sha256", lambda folder, name: read.append(name) or sha256(folder, name))
    make("list.csv", "out", shard=Shard(1, 2))
    assert sorted(read) == sorted(name for name in pictures() if Shard(1, 2).has(name))


def test_shards_parse():
    assert Shard.parse("2/8") == Shard(2, 8)
    for text in ("0/2", "3/2", "a/b", "2"):
        with pytest.raises(RequestError, match="shard must be I/N"):
            Shard.parse(text)


def test_one_worker_claims_everything_and_leaves_nothing():
    run = make(listing(50), "out", policy=Policy(lease=5.0))
    assert run.tally.completed == 50
    check_whole(50)
    assert sorted(path.name for path in Path("out").glob("*.json*")) == ["results.jsonl", "run.json"]
    Path("out/p3.png").unlink()
    run = make("list.csv", "out", policy=Policy(lease=5.0))
    assert (run.kept, run.redone, run.tally.completed) == (49, 1, 1)
    check_whole(50)


def test_a_lease_is_taken_by_one_and_stolen_once_it_has_run_out(here):
    folders = [stub.Folder(here / "out") for _ in range(2)]
    for folder in folders:
        folder.make("")
        folder.prepare(is_alone=False)
    first, second = (claims.Claims(folder, 0.5) for folder in folders)
    for each in (first, second):
        each.begin()
    assert first.takes(3) and not second.takes(3) and second.takes(16)
    second.end()
    time.sleep(0.8)  # the first one's lease is renewed
    second.begin()
    assert not second.takes(3)
    second.end()
    first._ended.set()  # as if its process had died
    first._renewer.join()
    assert second.wait()
    second.begin()
    assert second.takes(3)
    second.expect()
    second.add(dict(line=3, output="a"))
    second.end()
    first.expect()
    first.add(dict(line=3, output="a"))
    first.end()
    assert (first.lost, second.lost) == (1, 0)
    assert [*journal.read(folders[0], ".claims/00000000.jsonl")] == [dict(line=3, output="a")]
    second.close()


# object stores


def objects(store) -> dict[str, str]:
    """The sha256 of every object but the run's own, by its name."""
    names = [each["path"] for some in obstore.list(store) for each in some]
    data = {name: bytes(obstore.get(store, name).bytes()) for name in names}
    own = ("run.json", "results.jsonl")
    return {name: hashlib.sha256(data[name]).hexdigest() for name in data if name not in own}


def test_a_run_in_an_object_store_is_that_of_a_folder():
    make(listing(50), "whole")
    store = obstore.store.MemoryStore()
    run = make("list.csv", Bucket("memory://", store), policy=Policy(lease=5.0))
    assert run.tally.completed == 50 and objects(store) == pictures("whole")
    entries = [json.loads(line) for line in bytes(obstore.get(store, "results.jsonl").bytes()).splitlines()]
    assert {entry["output"]: entry["sha256"] for entry in entries} == objects(store) and len(entries) == 50
    obstore.delete(store, "p3.png")
    obstore.put(store, "p4.png", b"damaged")
    run = make("list.csv", Bucket("memory://", store), policy=Policy(lease=5.0))
    assert (run.kept, run.redone, run.tally.completed) == (48, 2, 2) and objects(store) == pictures("whole")


def test_workers_of_an_object_store_count_each_picture_once():
    make(listing(100), "whole")
    store = obstore.store.MemoryStore()
    how = dict(pipe=StubPipe(0.002), policy=Policy(lease=2.0))
    with ThreadPoolExecutor() as pool:
        done = [*pool.map(lambda _: make("list.csv", Bucket("memory://", store), **how), range(3))]
    assert sum(run.tally.completed for run in done) == 100 and objects(store) == pictures("whole")
    assert all(run.tally.done == 100 for run in done)


def test_an_object_store_is_claimed_and_has_no_files_of_others(here):
    store = obstore.store.MemoryStore()
    obstore.put(store, "p1.png", b"mine")
    with pytest.raises(RunError, match=r"memory: has files that would be replaced \(p1.png\)"):
        make(listing(3), Bucket("memory:", store), policy=Policy(lease=5.0))
    with pytest.raises(RunError, match="give --claim"):
        make("list.csv", Bucket("memory:", store))
    with pytest.raises(RunError, match="nowhere://x cannot be reached"):
        Bucket("nowhere://x")


@pytest.mark.parametrize(
    ("call", "done"),
    [
        (lambda bucket: bucket.exists("a"), "a: cannot be read"),
        (lambda bucket: bucket.read("a"), "a: cannot be read"),
        (lambda bucket: [*bucket.lines("a")], "a: cannot be read"),
        (lambda bucket: bucket.sha256("a"), "a: cannot be read"),
        (lambda bucket: bucket.names("a/", ""), "a: cannot be listed"),
        (lambda bucket: bucket.create("a", b""), "a: cannot be saved"),
        (lambda bucket: bucket.discard("a"), "a: cannot be removed"),
    ],
)
def test_an_object_store_that_cannot_be_reached_is_told(monkeypatch, call, done):
    def fail(*_, **__):
        raise obstore.exceptions.GenericError("No route to the host\nand more")

    for name in ("delete", "get", "head", "list", "put"):
        monkeypatch.setattr(obstore, name, fail)
    with pytest.raises(SaveError, match=f"^memory:/{done}: no route to the host$"):
        call(Bucket("memory:", obstore.store.MemoryStore()))


def test_pictures_are_fetched_from_object_stores(here):
    url = f"file://{here}"
    rows = [dict(id=f"p{i}", image=f"{url}/in.png", prompt="x", seed=i) for i in range(30)]
    write("list.jsonl", *rows, dict(id="gone", image=f"{url}/gone.png", prompt="x"))
    run = make("list.jsonl", "out")
    assert run.tally.completed == 30 and dict(run.tally.failed) == {"ImageError": 1}
    [failure] = run.failures()
    assert failure["error"].startswith(f"{url}/gone.png: cannot be read: ")
    record = json.loads(images.read_text("out/p3.png")["ssd1b"])
    assert record["request"]["image"]["sha256"] == hashlib.sha256(Path("in.png").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("hf://datasets/o/n", "hf://datasets/o/n can have no outputs: each would be a commit"),
        ("ftp://a/b", "outputs go to a folder, or to one of s3, gs, az, memory, file, got 'ftp://a/b'"),
    ],
)
def test_places_that_take_no_outputs(url, sentence):
    with pytest.raises(RunError, match=re.escape(sentence)):
        make(listing(2), url)


def test_addresses_on_the_hub_are_whole():
    write("list.jsonl", dict(id="a", image="hf://cat.png", prompt="x"), dict(id="b", prompt="x"))
    [failure] = make("list.jsonl", "out").failures()
    assert failure["error"].startswith("hf://cat.png: must be hf://datasets/OWNER/NAME/PATH")


# the command


@pytest.fixture
def photos(here):
    """A CSV of six pictures, and one that is none."""
    Path("photos").mkdir()
    for i in range(6):
        images.save(np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8), f"photos/{i}.png")
    Path("photos/none.png").write_text("no picture")
    rows = [[f"photos/{name}.png", "a red apple", 3] for name in (0, 1, "none", 2, 3, 4, 5)]
    return write("list.csv", ["image", "prompt", "steps"], *rows)


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_batch_makes_what_it_can_and_names_the_rest(capsys, tiny_folder, photos):
    code, out, err = command(capsys, "batch", photos, "-o", "out", "--model", tiny_folder, "--strength", "0.7")
    assert code == 1 and err == (
        f"line 4: {Path('photos/none.png')}: not a picture in a known format ({', '.join(images.reading.FORMATS)})\n"
    )
    assert out.startswith("7 pictures to make\nout: 6 made, 0 kept, 1 failed (1 ImageError), ")
    assert sorted(pictures()) == [f"photos/{i}.png" for i in range(6)]
    assert "notes" not in results()[0]
    record = json.loads(images.read_text("out/photos/3.png")["ssd1b"])
    assert (record["request"]["strength"], record["request"]["num_inference_steps"]) == (0.7, 3)
    Path("out/photos/2.png").unlink()
    images.save(np.zeros((8, 8, 3), np.uint8), "photos/none.png")
    code, out, err = command(capsys, "batch", photos, "-o", "out", "--model", tiny_folder, "--strength", "0.7")
    assert (code, err) == (0, "")
    assert out.startswith("resumed: 5 kept, 1 redone, 0 new, 1 tried again\nout: 2 made, 5 kept, 0 failed, ")
    code, _, err = command(capsys, "batch", photos, "-o", "out", "--model", tiny_folder, "--steps", "4")
    assert code == 2 and err.startswith("error: out has another run: strength was 0.7, now not given; ")


@pytest.mark.usefixtures("commands_use_tiny_pipe")
@pytest.mark.parametrize(("first", "made"), [("photos/none.png", 1), ("file://{here}/photos/0.png", 2)])
def test_the_first_picture_is_not_needed_to_begin(capsys, tiny_folder, photos, here, first, made):
    rows = [[first.format(here=here), "a red apple", 3, "a"], ["photos/1.png", "a red apple", 3, "b"]]
    write("list.csv", ["image", "prompt", "steps", "id"], *rows)
    code, out, err = command(capsys, "batch", photos, "-o", "out", "--model", tiny_folder, "--strength", "0.7")
    assert code == (made < 2) and f"\nout: {made} made, 0 kept, {2 - made} failed" in out and "error:" not in err


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_batch_as_json(capsys, tiny_folder, photos):
    code, out, _ = command(
        capsys, "batch", "photos", "-o", "out", "--model", tiny_folder, "--json", "--prompt", "a cat"
    )
    first, *events, last = map(json.loads, out.splitlines())
    assert code == 1 and first == dict(event="start", folder="out", kept=0, redone=0, retried=0, new=7)
    assert sorted(event["event"] for event in events) == ["failed", *["picture"] * 6]
    assert (last["event"], last["made"], last["failures"]) == ("summary", 6, {"ImageError": 1})


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_dry_run_checks_every_line_and_says_what_it_takes(capsys, tiny_folder, photos, here):
    text = Path(photos).read_text()
    Path(photos).write_text(text.replace("photos/0.png", f"file://{here}/photos/0.png"))  # is timed
    with open(photos, "a") as file:
        file.write("photos/in.png,x,2000\n")
    code, out, err = command(capsys, "batch", photos, "-o", "out", "--model", tiny_folder, "--dry-run")
    assert code == 1 and not Path("out").exists()
    assert err.splitlines()[0].startswith("line 4: photos/none.png: not a picture")
    assert err.splitlines()[1:] == ["line 9: num_inference_steps must be a whole number from 1 to 1000, got 2000"]
    assert re.fullmatch(r"8 lines, 2 of them wrong: 6 pictures, 6 model calls; about \d s on 1 x cpu\n", out)


def test_a_plan_of_a_run(capsys, monkeypatch):
    def make_plan(*_, size, **__):
        """One call of a second at 128 pixels, four at 256."""
        cost = Cost(flops=1e12 * size[0] ** 2 / 128**2)
        programs = [plan.PlannedProgram(title="a program", cost=cost, weights=0, idle=0)] * 3
        about = dict(devices=4, device_kind="chip", per_device=1, dtype="bfloat16", quick=True)
        return plan.Plan(programs=tuple(programs), chip=Chip(1e12, 1e12, 10**9), width=128, height=128, **about)

    monkeypatch.setattr(plan, "make", make_plan)
    common = dict(image="in.png", steps=10, strength=1.0)
    unguided = common | dict(guidance_scale=1.0, width=256, height=256)
    write("list.jsonl", dict(id="a", **common), dict(id="b", **unguided), dict(id="c", strength=2, image="in.png"))
    arguments = ("--manifest", "list.jsonl", "--hosts", "2", "--efficiency", "0.5", "--price", "10")
    code, out, _ = command(capsys, "plan", "emoji", "--json", *arguments)
    facts = json.loads(out)
    # (2 + 10) s, and (2 + 10 / 2) x 4 s, at half the speed on 8 devices
    assert code == 0 and facts["hours"] * 3600 == pytest.approx((12 + 28) / 0.5 / 8)
    assert facts["cost"] == pytest.approx(facts["device_hours"] * 10) and facts["estimate"] is True
    assert (facts["pictures"], facts["calls"], facts["lines_that_are_wrong"]) == (2, 20, 1)
    _, out, _ = command(capsys, "plan", "emoji", *arguments)
    assert "an ESTIMATE for 8 x chip at 50% of the roofline: 10 s, 0.20 pictures/s" in out
    code, _, err = command(capsys, "plan", "emoji", "--manifest", "list.jsonl", "--efficiency", "2")
    assert code == 2 and err == "error: efficiency must be in (0, 1], got 2\n"
    code, _, err = command(capsys, "plan", "emoji", "--manifest", "list.jsonl", "--topology", "cpu")
    assert code == 2 and err.startswith("error: no limits of CPUs are known")  # before anything is compiled


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--shard", "3/2"], 2, "shard must be I/N with I from 1 to N, got '3/2'"),
        (["--shard", "1/2", "--claim"], 2, "a worker has a share or claims what is left"),
        (["--claim", "--restart"], 2, "restart removes what other workers make"),
        (["--claim", "--lease", "0"], 2, "lease must be above 0 seconds, got 0"),
        (["--width", "33"], 2, "list.csv has no line that can be used: line 2: width must be a multiple of"),
        (["--embed-input", "--format", "webp"], 2, "the input can be embedded in a PNG only"),
        (["--model", "nowhere"], 2, "no model folder at 'nowhere'"),
    ],
)
def test_mistakes_are_told_before_weights_are_read(capsys, tiny_folder, photos, arguments, code, sentence):
    got, out, err = command(capsys, "batch", photos, "-o", "out", "--model", tiny_folder, *arguments)
    assert (got, out) == (code, "") and err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert not Path("out").exists()


# killed at any moment


def spawn(*arguments) -> subprocess.Popen:
    environment = os.environ | dict(PYTHONPATH=f"{TESTS}{os.pathsep}{TESTS.parent}")
    return subprocess.Popen([sys.executable, "-m", "helpers.stub", *map(str, arguments)], env=environment)


def entries_in(out: str) -> int:
    path = Path(out, "results.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_at_40_random_moments_it_is_as_if_never_killed():
    count, moments = 400, random.Random(16)
    listing(count)
    make("list.csv", "whole")
    kills, seen = 0, set()
    while kills < 40:
        process = spawn("list.csv", "out", 0.01, "1/1")
        before = entries_in("out")
        while kills % 4 and entries_in("out") == before and process.poll() is None:
            time.sleep(0.01)  # three of four are killed at work, the others where it begins
        time.sleep(moments.uniform(0, 0.5 if kills % 4 == 0 else 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        seen.add(entries_in("out"))
        if entries_in("out") > count - 40:
            for path in sorted(Path("out").glob("*.png"))[: count // 2]:
                path.unlink()
    assert len(seen) > 20
    run = make("list.csv", "out")
    assert run.kept + run.redone + run.new == count
    check_whole(count)
    assert pictures("out") == pictures("whole")


@pytest.mark.slow
def test_of_four_workers_one_is_killed_and_every_picture_counts_once():
    listing(300)
    make("list.csv", "whole")
    workers = [spawn("list.csv", "out", 0.01, "lease=1") for _ in range(4)]
    time.sleep(1.2)
    workers[0].send_signal(signal.SIGKILL)
    assert workers[0].wait() == -signal.SIGKILL
    assert [worker.wait(60) for worker in workers[1:]] == [0, 0, 0]
    check_whole(300)
    assert sorted(path.name for path in Path("out").glob("*.json*")) == ["results.jsonl", "run.json"]
    assert pictures("out") == pictures("whole")


@pytest.mark.slow
def test_ctrl_c_ends_within_a_second_and_says_how_to_go_on(photos):
    heard = (  # also where pytest runs in the background, which ignores Ctrl-C
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-m", "ssd1b_jax", "batch", photos, "-o", "out", "--steps", "1000", "--exact-steps"]
    write("list.csv", ["image", "prompt"], *([f"photos/{i}.png", "a cat"] for i in range(6)))
    environment = os.environ | dict(PYTHONPATH=str(TESTS.parent))
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, "-c", heard, *command[1:]], env=environment, **pipes)
    until = time.monotonic() + 120
    while not Path("out/status.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)  # into compiling, or into the first pictures
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate()
    assert time.monotonic() - began < 1 and process.returncode == 130
    assert "interrupted, 0 of 6 are done; to go on: ssd1b batch list.csv -o out --steps 1000 --exact-steps" in err


@pytest.mark.parametrize("url", ["s3://bucket/a.png", "hf://datasets/o/n/a.png"])
def test_the_shape_of_a_picture_that_is_fetched_is_not_looked_at(url):
    line = Line(number=1, where="line 1", values=dict(prompt="a cat", image=url, resize_mode="fit"))
    with pytest.raises(RequestError, match=f"fit needs a picture in a file, got {url}: choose another mode"):
        list(runs.Defaults(config=emoji()).items(line))

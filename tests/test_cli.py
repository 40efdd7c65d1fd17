"""The `ssd1b` command: what it prints, what it writes, and how it fails."""

import dataclasses
import json
import logging
import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import tiny
from helpers.commands import run

from convert.__main__ import main as convert
from ssd1b_jax import Request, cli, images, pipeline, records, settings
from ssd1b_jax.checkpoints.safetensors import write_safetensors
from ssd1b_jax.cli import settings as options
from ssd1b_jax.cli.settings import of_request
from ssd1b_jax.engine import jobs
from ssd1b_jax.errors import DeviceError, NonFiniteError
from ssd1b_jax.images import writing
from ssd1b_jax.models import PARTS
from ssd1b_jax.samplers import SAMPLERS
from ssd1b_jax.training.__main__ import main as train


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    images.save(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), "in.png")
    return tmp_path


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test if a model is loaded."""
    monkeypatch.setattr(pipeline, "load_model", lambda *_, **__: pytest.fail("loaded a model"))


def counted(monkeypatch, owner, name: str) -> list:
    """What a function is called with from now on."""
    calls, function = [], getattr(owner, name)

    def counting(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counting)
    return calls


@pytest.mark.usefixtures("one_device")
def test_img2img_writes_the_picture_and_says_what_it_did(capsys, tiny_folder, here, monkeypatch):
    decoded = counted(monkeypatch, images, "load")
    tokenized = counted(monkeypatch, jobs.prompts, "encode")
    resolved, planned = counted(monkeypatch, Request, "resolve"), counted(monkeypatch, jobs.Planner, "plan")
    code, out, err = run(
        capsys, "img2img", "in.png", "a cat", "-o", "out.png", "--model", tiny_folder, "--seed", 0, "--strength", 0.7
    )
    assert code == 0 and err == ""
    assert len(decoded) == 1 and len(tokenized) == 4, "the input once, both prompts once for each encoder"
    assert len(resolved) == len(planned) == 1
    assert re.fullmatch(
        r"out\.png: 32 x 32, 4 of 6 steps \(euler\), strength 0\.7, guidance 3, seed 0, \d+\.\d s\n", out
    )
    assert images.load("out.png").pixels.shape == (tiny.SIZE, tiny.SIZE, 3)


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_txt2img_makes_a_picture_of_words_alone(capsys, tiny_folder, here):
    code, out, err = run(capsys, "txt2img", "A cat, on a  red!", "--model", tiny_folder, "--seed", 2)
    assert (code, err) == (0, "") and out.startswith("a-cat-on-a-2.png: 32 x 32, 6 of 6 steps (euler), strength 1, ")
    assert records.read("a-cat-on-a-2.png")["request"]["image"] is None
    code, out, _ = run(capsys, "txt2img", "?!", "--model", tiny_folder, "--seed", 2)
    assert code == 0 and out.startswith("picture-2.png: ")


@pytest.mark.usefixtures("each_way_of_loading")
def test_more_pictures_are_named_by_seed_and_enlarged_when_asked(capsys, tiny_folder, here):
    arguments = ("--model", tiny_folder, "--seed", 7, "--num-images", 2, "--upscale", 3)
    code, out, _ = run(capsys, "img2img", "in.png", "a cat", *arguments)
    assert code == 0 and len(out.splitlines()) == 2
    for seed in (7, 8):
        assert images.load(f"in-{seed}.png").pixels.shape == (96, 96, 3)
    run(capsys, "img2img", "in.png", "a cat", "-o", "b.webp", *arguments)
    assert (here / "b-7.webp").exists() and (here / "b-8.webp").exists()


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_name_that_nobody_asked_for_replaces_nothing(capsys, tiny_folder, here):
    arguments = ("img2img", "in.png", "a cat", "--model", tiny_folder, "--seed", 9)
    for name in ("in-9.png", "in-9-2.png", "in-9-3.png"):
        code, out, _ = run(capsys, *arguments)
        assert code == 0 and out.startswith(f"{name}: ")
        assert records.read(name)["written"]["name"] == name
    before = (here / "in-9.png").read_bytes()
    run(capsys, *arguments, "--strength", 1, "-o", "in-9.png", "--no-overwrite")
    assert (here / "in-9.png").read_bytes() == before and (here / "in-9-4.png").exists()
    run(capsys, *arguments, "--strength", 1, "-o", "in-9.png")
    assert (here / "in-9.png").read_bytes() != before, "this name was asked for"


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_names_of_several_pictures_sort_as_their_seeds(capsys, tiny_folder, here):
    arguments = ("--model", tiny_folder, "--seed", 9, "--num-images", 2, "--format", "webp")
    code, _, _ = run(capsys, "img2img", "in.png", "a cat", *arguments)
    assert code == 0 and sorted(os.listdir()) == ["in-09.webp", "in-10.webp", "in.png"]
    code, _, err = run(capsys, "img2img", "in.png", "a cat", *arguments, "-o", "b.png")
    assert (code, err) == (2, "error: the name of a webp file must end in .webp, got 'b.png'\n")


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_dropped_part_of_the_picture_is_noted(capsys, tiny_folder, here):
    images.to_pil(np.zeros((8, 8, 3), np.uint8)).convert("LA").save("clear.png")
    clear = images.to_pil(np.zeros((8, 8, 3), np.uint8)).convert("RGBA")
    clear.putalpha(128)
    clear.save("clear.png")
    code, _, err = run(capsys, "img2img", "clear.png", "a cat", "--model", tiny_folder)
    assert code == 0 and err == "note: transparent parts were put on white\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["missing.png", "a cat"], 2, "missing.png: cannot be read: no such file or directory"),
        (["notes.txt", "a cat"], 2, "notes.txt: not a picture in a known format"),
        (["cut.png", "a cat"], 2, "cut.png: cannot be read"),
        (["in.png", "a cat", "-o", "out.bmp"], 2, "a picture's name must end in .png"),
        (
            ["in.png", "a cat", "-o", "nowhere/out.png"],
            3,
            "nowhere/out.png: cannot be saved: its folder does not exist",
        ),
        (["in.png", "a cat", "-o", "in.png"], 2, "in.png is an input, which would be lost: choose another output"),
        (["in.png", "a cat", "--upscale", "0"], 2, "upscale must be a whole number from 1 to 8, got 0"),
        (["in.png", "a cat", "--per-device", "0"], 2, "per_device must be a whole number from 1 to 256, got 0"),
        (["in.png", "a cat", "--mask", "missing.png"], 2, "missing.png: cannot be read: no such file or directory"),
        (["in.png", "a cat", "--lora", "missing:0.5"], 2, "no LoRA at 'missing': give a safetensors file"),
        (["in.png", "a cat", "--lora", "a/in.safetensors", "--lora", "in.y:0.1"], 2, "two LoRAs are named 'in'"),
        (
            ["in.png", "a cat", "--embed-input", "-o", "a.jpg"],
            2,
            "the input can be embedded in a PNG only, got 'a.jpg'",
        ),
        (["in.png", "a cat", "--embed-input", "--no-metadata"], 2, "the input is embedded along with the metadata"),
    ],
)
def test_bad_input_is_told_before_a_model_is_loaded(capsys, no_model, here, arguments, code, sentence):
    (here / "notes.txt").write_text("no picture")
    (here / "cut.png").write_bytes((here / "in.png").read_bytes()[:200])
    before = sorted(here.iterdir())
    got, out, err = run(capsys, "img2img", *arguments)
    assert (got, out) == (code, "")
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--strength", "1.5"], "strength must be in (0, 1], got 1.5"),
        (["--steps", "0"], "num_inference_steps must be a whole number from 1 to 1000, got 0"),
        (["--width", "33"], "width must be a multiple of 2, got 33: try 32 or 34"),
        (["--seed", "-2"], "seed must be a whole number from 0 to 2**64 - 1, got -2"),
        (["--scheduler", "best"], "scheduler must be one of euler, "),
        (["--num-images", "0"], "num_images must be a whole number from 1, got 0"),
    ],
)
def test_settings_out_of_range_are_told_before_the_weights_are_read(
    capsys, no_model, tiny_folder, here, arguments, sentence
):
    got, out, err = run(capsys, "img2img", "in.png", "a cat", "--model", tiny_folder, *arguments)
    assert (got, out) == (2, "")
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1


def test_a_lora_of_another_model_is_told_before_the_weights_are_read(capsys, monkeypatch, tiny_folder, here):
    monkeypatch.setattr(pipeline, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    name, down = "unet.nowhere.lora_A.weight", np.ones((2, 8), np.float32)
    write_safetensors(here / "other.safetensors", {name: (down.shape, down.dtype)}, [(name, down)])
    arguments = ("in.png", "a cat", "--lora", "other.safetensors", "--model", tiny_folder)
    code, out, err = run(capsys, "img2img", *arguments)
    assert (code, out) == (2, "") and f"1 unknown ({name})" in err and err.count("\n") == 1


def test_files_that_could_not_be_written_are_told_before_the_weights_are_read(
    capsys, no_model, tiny_folder, here, monkeypatch
):
    monkeypatch.setitem(writing._ENCODERS, ".webp", ("WEBP", 100, {}))  # as if made for small models
    (here / "a.json").write_text("precious")
    arguments = ("img2img", "in.png", "a cat", "--model", tiny_folder)
    code, out, err = run(capsys, *arguments, "-o", "a.webp", "--upscale", 4)
    assert (code, out) == (2, "")
    assert err == "error: a WEBP file has at most 100 pixels a side, got 128 x 128: make it a .png\n"
    code, out, err = run(capsys, *arguments, "-o", "a.png", "--sidecar")
    assert (code, out) == (3, "") and err.startswith(
        "error: a.json: cannot be saved: a file is there that is no record"
    )
    assert sorted(path.name for path in here.iterdir()) == ["a.json", "in.png"]


def test_an_unknown_model_is_told(capsys, here):
    code, _, err = run(capsys, "img2img", "in.png", "a cat", "--model", "sdxl")
    assert code == 2 and err.startswith("error: no model folder at 'sdxl'") and err.count("\n") == 1
    code, _, err = run(capsys, "info", "emojis")
    assert code == 2 and err.endswith("(did you mean emoji?)\n")
    with pytest.raises(SystemExit):
        cli.main(["sampler"])
    assert "did you mean samplers?" in capsys.readouterr().err


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_full_disk_has_its_own_code(capsys, tiny_folder, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(capsys, "img2img", "in.png", "a cat", "-o", "out.png", "--model", tiny_folder, "--quiet")
    assert code == 3 and err == "error: out.png: cannot be saved: no space left on device\n"
    assert [path.name for path in here.iterdir()] == ["in.png"]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.usefixtures("commands_use_tiny_pipe")
@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a trace"),
            70,
            "the device failed: RESOURCE_EXHAUSTED: out of memory",
        ),
        (DeviceError("no TPU: set\nJAX_PLATFORMS=cpu"), 70, "no TPU: set JAX_PLATFORMS=cpu"),
        (NonFiniteError("the unet gave NaN"), 1, "the unet gave NaN"),
        (MemoryError(), 70, "the memory is full: make smaller pictures, or fewer at a time"),
        (OSError(28, "No space left on device"), 3, "the disk refuses: no space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_have_codes_of_their_own(capfd, tiny_folder, monkeypatch, error, code, sentence):
    monkeypatch.setattr(pipeline.Pipeline, "stream", raising(error))
    got, out, err = run(capfd, "img2img", "in.png", "a cat", "--model", tiny_folder)
    assert (got, out, err) == (code, "", f"error: {sentence}\n")


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_bug_shows_its_traceback_and_is_not_called_bad_input(capsys, tiny_folder, monkeypatch):
    """A ValueError that NumPy raises in the engine is none of ours."""
    monkeypatch.setattr(pipeline.Pipeline, "stream", lambda *_, **__: np.zeros(3) + np.zeros(4))
    code, out, err = run(capsys, "img2img", "in.png", "a cat", "--model", tiny_folder)
    assert (code, out) == (70, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ValueError: operands could not be broadcast together with shapes (3,) (4,) \n")


@pytest.mark.parametrize("platform", ["cuda", pytest.param("nonsense", marks=pytest.mark.slow)])
def test_devices_that_are_not_there_are_told_in_one_sentence(platform):
    """By the command with code 70, and in Python as a DeviceError."""
    program = """
from ssd1b_jax import Pipeline, cli
print(cli.main(["info", "--no-verify"]))
Pipeline.from_pretrained("emoji")
"""
    environment = os.environ | {"JAX_PLATFORMS": platform}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    first, *_, last = run.stderr.splitlines()
    assert run.stdout == "70\n" and first.startswith("error: ")
    assert last == first.replace("error", "ssd1b_jax.errors.DeviceError", 1)
    assert last.startswith(f"ssd1b_jax.errors.DeviceError: JAX_PLATFORMS={platform} names a device that JAX cannot use")


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_json_is_an_object_a_line(capsys, tiny_folder):
    arguments = ("img2img", "in.png", "a cat", "--model", tiny_folder, "--json")
    code, out, err = run(capsys, *arguments, "--seed", 7, "--num-images", 2, "--mask-blur", 1, "--sidecar")
    first, second = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert first.pop("seconds") > 0
    assert first == dict(
        output="in-7.png",
        sidecar="in-7.json",
        width=tiny.SIZE,
        height=tiny.SIZE,
        seed=7,
        variation_seed=None,
        steps_run=first["steps_run"],
        notes=["mask_blur has no effect without a mask"],
    )
    assert first["steps_run"] > 0 and second["output"] == "in-8.png"
    code, out, _ = run(capsys, "info", tiny_folder, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["verified"] is True and facts["parameters"].keys() == {*PARTS}
    code, out, _ = run(capsys, "samplers", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == [*SAMPLERS]


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_quiet_is_quiet(capsys, tiny_folder, here):
    code, out, err = run(
        capsys, "img2img", "in.png", "a cat", "--model", tiny_folder, "--mask-blur", 1, "--quiet", "-o", "a.png"
    )
    assert (code, out, err) == (0, "", "") and (here / "a.png").exists()


@pytest.mark.slow
def test_a_console_that_lacks_letters_costs_no_picture(here, tiny_folder):
    """As on Windows with redirected output; the names are printed with escapes."""
    (here / "in.png").rename(here / "\u732b.png")
    for encoding in ("cp1252", "ascii"):
        command = [sys.executable, "-m", "ssd1b_jax", "img2img", "\u732b.png", "a cat", "--seed", "1"]
        told = subprocess.run(
            [*command, "--model", str(tiny_folder)],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert (told.returncode, told.stderr) == (0, b"")
        assert told.stdout.startswith(rb"\u732b-1.png: ")
        (here / "\u732b-1.png").unlink()  # the next one's name


@pytest.mark.slow
def test_the_demo_needs_nothing_and_replaces_nothing(here):
    """The command that it prints makes the same picture."""
    command = [sys.executable, "-m", "ssd1b_jax"]
    (here / "demo.png").write_text("precious")
    told = subprocess.run([*command, "demo", "--json"], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    facts = json.loads(told.stdout)
    assert facts["output"] == "demo-2.png" and (here / "demo.png").read_text() == "precious"
    again = shlex.split(facts["command"].replace("demo-2.png", "again.png"))
    assert again[0] == "ssd1b"
    subprocess.run([*command, *again[1:]], check=True, capture_output=True)
    assert np.array_equal(images.load("demo-2.png").pixels, images.load("again.png").pixels)


def test_convert_is_ours_where_the_folder_has_another(here, tiny_folder):
    """A user's convert.py in the working folder hides the package from `python -m convert`, not from `ssd1b`."""
    (here / "convert.py").write_text("raise SystemExit('not this one')")
    command = [sys.executable, "-m", "ssd1b_jax", "convert", "--to-diffusers", str(tiny_folder), "target", "--json"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert (here / "target" / "unet" / "config.json").exists()
    size = sum(path.stat().st_size for path in (here / "target").rglob("*") if path.is_file())
    expected = dict(output="target", model="a model of the SDXL family", bytes=size, dtype="float32", licence="unknown")
    assert json.loads(told.stdout) == expected


def test_what_does_not_go_with_the_way_back_is_told(capsys):
    code = convert(["--to-diffusers", "a", "b", "--revision", "c"])
    assert (code, capsys.readouterr().err) == (
        2,
        "error: --revision does not go with --to-diffusers: leave it out\n",
    )


def test_help_and_samplers_load_no_jax():
    program = """
import sys
from ssd1b_jax.cli import main
for arguments in (["--help"], ["img2img", "--help"], ["convert", "--help"], ["samplers"]):
    try:
        main(arguments)
    except SystemExit:
        pass
    heavy = {"jax", "jaxlib", "flax", "orbax"} & {name.split(".")[0] for name in sys.modules}
    assert not heavy, (arguments, heavy)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_package_logs_nothing_unasked():
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("ssd1b_jax").handlers)


@pytest.mark.parametrize(
    ("set_up", "options", "expected"),
    [
        ("", [], ["warning: ours", "error: absl: bad"]),
        ("", ["--quiet"], ["error: absl: bad"]),
        ("logging.basicConfig(format='USER %(message)s')", ["--quiet"], ["USER chatter", "USER ours", "USER bad"]),
    ],
    ids=["warnings", "quiet", "user"],
)
def test_standard_error_has_our_warnings_and_no_chatter(set_up, options, expected):
    """A command's process; logging that the user has set up stays as it is."""
    program = f"""
import logging, sys
from unittest import mock
from absl import logging as absl
from ssd1b_jax import cli
{set_up}

def command(arguments):
    absl.warning("chatter")
    logging.getLogger("ssd1b_jax.engine").warning("ours")
    absl.error("bad")

sys.argv = ["ssd1b", "img2img", "in.png", "a cat", *{options}]
with mock.patch.object(cli.img2img, "make", command):
    sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr.splitlines() == expected


def test_info_verifies_and_describes(capsys, tiny_folder):
    code, out, _ = run(capsys, "info", tiny_folder)
    assert code == 0
    for part in ("every file verified", "random weights", "unet", "parameters", "32 x 32", "cpu", "jax"):
        assert part in out.lower()


def test_info_refuses_a_damaged_folder(capsys, tiny_folder, here):
    import shutil

    shutil.copytree(tiny_folder, "copy")
    largest = max(
        (path for path in (here / "copy" / "unet").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    code, out, err = run(capsys, "info", "copy")
    assert (code, out) == (2, "")
    assert str(largest.relative_to(here)) in err and "damaged" in err and err.count("\n") == 1
    code, out, _ = run(capsys, "info", "copy", "--no-verify")
    assert code == 0 and "not verified" in out


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ([], {}),
        (
            ["--steps", "7", "--no-prompt-weights", "--exact-steps"],
            dict(num_inference_steps=7, prompt_weights=False, exact_steps=True),
        ),
        (
            ["--crop", "1", "2", "--negative-target-size", "8", "16"],
            dict(crops_coords_top_left=(1, 2), negative_target_size=(8, 16)),
        ),
        (["--guidance-interval", "0.1", "0.5", "--mask", "in.png"], dict(guidance_interval=(0.1, 0.5), mask="in.png")),
        (["--lora", "in.png:0.5", "--lora", "b:c"], dict(loras={"in": 0.5, "b:c": 1.0})),
    ],
)
def test_options_become_a_request(arguments, settings):
    """What is not said is the Request's own default."""
    parsed = cli.parser().parse_args(["img2img", "in.png", "a cat", *arguments])
    request = of_request(parsed)
    for field in dataclasses.fields(request):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        expected = {"image": "in.png", "prompt": "a cat", **settings}.get(field.name, default)
        assert getattr(request, field.name) == expected


@pytest.mark.parametrize("command", ["img2img", "grid"])
def test_every_setting_has_an_option(command):
    parsed = cli.parser().parse_args([command, "in.png", "a cat", *(["--x", "seed=1"] if command == "grid" else [])])
    rows = {row.name for row in settings.of("request")}
    assert rows <= vars(parsed).keys() and {"image": "in.png", "prompt": "a cat"} == options.given(parsed, "request")


@pytest.mark.parametrize("command", ["", "img2img", "grid", "replay", "samplers", "info", "plan", "demo", "convert"])
def test_help_is_readable(capsys, command):
    with pytest.raises(SystemExit) as exit:
        cli.main([*command.split(), "--help"])
    out = capsys.readouterr().out
    assert exit.value.code == 0 and max(map(len, out.splitlines())) <= 100 and "None" not in out


@pytest.mark.usefixtures("each_way_of_loading")
def test_metadata_is_written_as_asked(capsys, tiny_folder, here):
    arguments = ("img2img", "in.png", "a cat", "--model", tiny_folder, "--seed", 1, "--quiet")
    assert run(capsys, *arguments, "-o", "a.png", "--sidecar", "--embed-input")[0] == 0
    assert images.read_text("a.png").keys() == {"parameters", "ssd1b"}
    assert records.embedded("a.png").keys() == {"image"} and (here / "a.json").exists()
    assert run(capsys, *arguments, "-o", "b.jpg", "--no-metadata")[0] == 0
    assert images.read_text("b.jpg") == {}
    assert sorted(path.name for path in here.iterdir()) == ["a.json", "a.png", "b.jpg", "in.png"]


@pytest.mark.slow
@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_what_a_jpeg_has_no_room_for_is_kept_beside_it(capsys, tiny_folder, here):
    arguments = ("--model", tiny_folder, "-o", "a.jpg")
    code, _, err = run(capsys, "img2img", "in.png", "cat " * 20_000, *arguments)
    assert code == 0 and "note: the settings are too long for a JPEG's EXIF, " in err
    assert "note: the record of how it was made is too long for a JPEG: it is in a.json\n" in err
    assert images.read_text("a.jpg") == {}
    assert records.read("a.jpg")["request"]["prompt"] == "cat " * 20_000


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_pictures_that_vary_have_names_of_their_own(capsys, tiny_folder, here):
    arguments = ("--model", tiny_folder, "--seed", 7, "--num-images", 2, "--quiet")
    code, _, _ = run(
        capsys, "img2img", "in.png", "a cat", *arguments, "--variation-seed", 1, "--variation-strength", 0.5
    )
    assert code == 0 and sorted(path.name for path in here.iterdir()) == ["in-7-1.png", "in-7-2.png", "in.png"]


@pytest.mark.usefixtures("commands_use_tiny_pipe")
def test_a_drawn_variation_seed_is_said(capsys, tiny_folder):
    arguments = ("--model", tiny_folder, "--seed", 7, "--variation-strength", 0.25, "-o", "a.png")
    code, out, _ = run(capsys, "img2img", "in.png", "a cat", *arguments)
    drawn = records.read("a.png")["request"]["variation_seed"]
    assert code == 0 and f", seed 7, variation seed {drawn} at 0.25, " in out


def test_samplers_are_listed(capsys):
    code, out, _ = run(capsys, "samplers")
    assert code == 0
    lines = out.split("\n\n")[0].splitlines()
    for line, (name, sampler) in zip(lines, SAMPLERS.items(), strict=True):
        assert line.split()[0] == name and sampler.description in line
        assert name.endswith("_karras") or all(other in line for other in sampler.names)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["samplers", "--help"])
def test_a_reader_may_hang_up(arguments):
    """As `head` does."""
    command = [sys.executable, "-m", "ssd1b_jax.cli", arguments]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writing, "wb") as pipe:
        run = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, env=environment, text=True)
    assert (run.returncode, run.stderr) == (141, "")


IMG2IMG = ["img2img", "in.png", "a cat"]


@pytest.mark.parametrize(
    ("main", "arguments", "sentence", "command"),
    [
        (cli.main, [], "the following arguments are required: COMMAND", "ssd1b"),
        (cli.main, ["img"], "argument COMMAND: invalid choice: 'img' (choose from ", "ssd1b"),
        (cli.main, ["sampler"], "argument COMMAND: invalid choice: 'sampler' (choose from ", "ssd1b"),
        (cli.main, ["img2img", "in.png"], "the following arguments are required: PROMPT", "ssd1b img2img"),
        (cli.main, [*IMG2IMG, "--strength", "high"], "argument --strength: a number is needed, got 'high'", None),
        (cli.main, [*IMG2IMG, "--steps", "2.5"], "argument --steps: a whole number is needed, got '2.5'", None),
        (cli.main, [*IMG2IMG, "--crop", "1", "x"], "argument --crop: a whole number is needed, got 'x'", None),
        (cli.main, [*IMG2IMG, "--noise", "cuda"], "argument --noise: invalid choice: 'cuda'", None),
        (
            cli.main,
            [*IMG2IMG, "--lora", f"{__file__}:hi"],
            "argument --lora: the scale must be a number, got 'hi'",
            None,
        ),
        (cli.main, [*IMG2IMG, "--seed"], "argument --seed: expected one argument", None),
        (cli.main, [*IMG2IMG, "--stregth", "0.5"], "unknown option --stregth: did you mean --strength?", None),
        (cli.main, [*IMG2IMG, "--stregth=0.5"], "unknown option --stregth=0.5: did you mean --strength?", None),
        (cli.main, [*IMG2IMG, "--xyzzy\nx"], "unknown option --xyzzy x", None),
        (cli.main, [*IMG2IMG, "asleep"], "one argument too many: 'asleep'; quote text that has spaces", None),
        (cli.main, ["--quiet", *IMG2IMG], "unknown option --quiet", "ssd1b"),
        (cli.main, ["grid", "in.png", "a cat"], "the following arguments are required: --x", "ssd1b grid"),
        (cli.main, ["replay"], "the following arguments are required: FILE", "ssd1b replay"),
        (
            cli.main,
            ["replay", "a.png", "--modle", "b"],
            "unknown option --modle: did you mean --model?",
            "ssd1b replay",
        ),
        (cli.main, ["samplers", "all"], "one argument too many: 'all'", "ssd1b samplers"),
        (cli.main, ["info", "--verfy"], "unknown option --verfy: did you mean --verify?", "ssd1b info"),
        (cli.main, ["plan", "--size", "large"], "argument --size: must be a number of pixels, or ", "ssd1b plan"),
        (convert, ["a"], "the following arguments are required: TARGET", "ssd1b-convert"),
        (convert, ["a", "b", "--dtype", "c"], "argument --dtype: invalid choice: 'c'", "ssd1b-convert"),
        (convert, ["a", "b", "--tokenizers=c", "d"], "one argument too many: 'd'", "ssd1b-convert"),
        (train, [], "the following arguments are required: COMMAND", "python -m ssd1b_jax.training"),
        (train, ["denoiser", "--steps", "x"], "argument --steps: a whole ", "python -m ssd1b_jax.training denoiser"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_usage_errors_are_one_sentence_and_exit_with_2(capsys, main, arguments, sentence, command):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (2, "") and err.startswith(f"error: {sentence}")
    assert err.endswith(f" (see {command or 'ssd1b img2img'} --help)\n") and err.count("\n") == 1


def test_values_may_be_negative():
    assert cli.parser().parse_args([*IMG2IMG, "--seed", "-1"]).seed == -1


def test_an_option_cut_short_is_not_taken_for_another(capsys):
    with pytest.raises(SystemExit):
        cli.parser().parse_args([*IMG2IMG, "--prompt", "a cat"])
    assert capsys.readouterr().err.startswith("error: unknown option --prompt: did you mean --prompt-2?")

"""The `ssd1b` command: what it prints, what it writes, and how it fails."""

import re

import numpy as np
import pytest
import tiny

from ssd1b_jax import cli, images, pipeline


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    images.save(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8), "in.png")
    return tmp_path


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test if a model is loaded."""
    monkeypatch.setattr(pipeline, "load_model", lambda *_, **__: pytest.fail("loaded a model"))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_img2img_writes_the_picture_and_says_what_it_did(capsys, tiny_folder, here):
    code, out, err = run(
        capsys, "img2img", "in.png", "a cat", "-o", "out.png", "--model", tiny_folder, "--seed", 0, "--strength", 0.7
    )
    assert code == 0 and err == ""
    assert re.fullmatch(
        r"out\.png: 32 x 32, 4 of 6 steps \(euler\), strength 0\.7, guidance 3, seed 0, \d+\.\d s\n", out
    )
    assert images.load("out.png").pixels.shape == (tiny.SIZE, tiny.SIZE, 3)


def test_more_pictures_are_named_by_seed_and_enlarged_when_asked(capsys, tiny_folder, here):
    arguments = ("--model", tiny_folder, "--seed", 7, "--num-images", 2, "--upscale", 3, "--quiet")
    code, out, _ = run(capsys, "img2img", "in.png", "a cat", *arguments)
    assert code == 0 and len(out.splitlines()) == 2
    for seed in (7, 8):
        assert images.load(f"in-{seed}.png").pixels.shape == (96, 96, 3)
    run(capsys, "img2img", "in.png", "a cat", "-o", "b.webp", *arguments)
    assert (here / "b-7.webp").exists() and (here / "b-8.webp").exists()


def test_a_dropped_part_of_the_picture_is_noted(capsys, tiny_folder, here):
    images.to_pil(np.zeros((8, 8, 3), np.uint8)).convert("LA").save("clear.png")
    clear = images.to_pil(np.zeros((8, 8, 3), np.uint8)).convert("RGBA")
    clear.putalpha(128)
    clear.save("clear.png")
    code, _, err = run(capsys, "img2img", "clear.png", "a cat", "--model", tiny_folder, "--quiet")
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
        (["in.png", "a cat", "--upscale", "0"], 2, "upscale must be a whole number from 1 to 8, got 0"),
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
        (["--width", "33"], "width must be a multiple of 8, got 33: try 32 or 40"),
        (["--seed", "-1"], "seed must be a whole number from 0 to 2**64 - 1, got -1"),
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


def test_an_unknown_model_is_told(capsys, here):
    code, _, err = run(capsys, "img2img", "in.png", "a cat", "--model", "sdxl")
    assert code == 2 and err.startswith("error: no model folder at 'sdxl'") and err.count("\n") == 1


def test_a_full_disk_has_its_own_code(capsys, tiny_folder, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", full)
    code, _, err = run(capsys, "img2img", "in.png", "a cat", "-o", "out.png", "--model", tiny_folder, "--quiet")
    assert code == 3 and err == "error: out.png: cannot be saved: no space left on device\n"
    assert [path.name for path in here.iterdir()] == ["in.png"]


def test_a_device_that_fails_has_its_own_code(capsys, tiny_folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a trace")

    monkeypatch.setattr(pipeline.Pipeline, "stream", fail)
    code, _, err = run(capsys, "img2img", "in.png", "a cat", "--model", tiny_folder)
    assert code == 70 and err == "error: the device failed: RESOURCE_EXHAUSTED: out of memory\n"


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


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["img2img", "in.png"])
    assert exit.value.code == 2
    assert "PROMPT" in capsys.readouterr().err

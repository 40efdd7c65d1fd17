"""Few steps: what `fast` stands for, and the LoRA that it takes from the model's folder."""

import shutil

import jax
import numpy as np
import pytest
from helpers import tiny
from helpers.commands import run
from helpers.lora import kohya, write

from ssd1b_jax import Pipeline, Request, RequestError, presets
from ssd1b_jax.checkpoints.model_folder import load_model
from ssd1b_jax.checkpoints.model_json import FEW_STEPS
from ssd1b_jax.images import save

FEW = dict(scheduler="lcm", num_inference_steps=4, exact_steps=True, guidance_scale=1.0, loras={"fast": 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder that has a LoRA of its own."""
    model = tiny.save(tmp_path_factory.mktemp("fast") / "tiny")
    write(model / FEW_STEPS, kohya(tiny.tiny_config()).items())
    return model


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (tiny.SIZE, tiny.SIZE, 3), np.uint8)


def test_it_stands_for_settings_and_those_that_are_given_win():
    model = tiny.tiny_config()
    fast = Request(image="x.png", prompt="a cat", seed=1, fast=True).resolve(model)
    assert fast == Request(image="x.png", prompt="a cat", seed=1, **FEW).resolve(model) and not fast.fast
    given = dict(num_inference_steps=8, guidance_scale=1.5, loras={"fast": 0.7, "other": 0.5})
    fast = Request(image="x.png", prompt="a cat", fast=True, **given).resolve(model)
    assert {name: getattr(fast, name) for name in given} == given and fast.scheduler == "lcm"
    with pytest.raises(RequestError, match="scheduler must be lcm with fast, got 'heun': leave one out"):
        Request(image="x.png", prompt="a cat", fast=True, scheduler="heun").resolve(model)


def test_the_models_folder_has_the_lora(folder, image):
    pipe = Pipeline(load_model(folder), devices=jax.devices()[:1])
    assert pipe.loras == {"fast": str(folder / FEW_STEPS)}
    fast = pipe(image=image, prompt="a red apple", seed=1, fast=True)
    same = pipe(image=image, prompt="a red apple", seed=1, **FEW)
    plain = pipe(image=image, prompt="a red apple", seed=1, **FEW | dict(loras={}))
    np.testing.assert_array_equal(fast.pixels, same.pixels)
    assert not np.array_equal(fast.pixels, plain.pixels)
    assert fast.steps_run == 4 and fast.record["loras"]["fast"]["name"] == FEW_STEPS


def test_without_one_it_is_told(tiny_pipe, image):
    with pytest.raises(RequestError, match="fast needs a few-step LoRA for this model: load one by the name 'fast'"):
        tiny_pipe(image=image, prompt="a red apple", fast=True)


@pytest.mark.usefixtures("one_device")
def test_the_command_makes_it_and_replay_finds_the_lora(capsys, folder, image, tmp_path):
    save(image, tmp_path / "in.png")
    out = tmp_path / "out.png"
    made = run(capsys, "img2img", tmp_path / "in.png", "a red apple", "--model", folder, "--fast", "-o", out)
    assert made[0] == 0, made
    assert run(capsys, "replay", out)[:1] == (0,)
    elsewhere = shutil.copytree(folder, tmp_path / "without", ignore=shutil.ignore_patterns(FEW_STEPS))
    code, _, error = run(capsys, "img2img", tmp_path / "in.png", "a red apple", "--model", elsewhere, "--fast")
    assert (code, "fast has no few-step LoRA for" in error) == (2, True)


def test_families_have_theirs_on_the_hub():
    assert presets.few_steps(presets.ssd_1b()) == "latent-consistency/lcm-lora-ssd-1b"
    assert presets.few_steps(presets.sdxl_base()) == "latent-consistency/lcm-lora-sdxl"
    assert presets.few_steps(tiny.tiny_config()) is None

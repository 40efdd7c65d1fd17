"""Requests through the whole pipeline: what may change a picture, and what may not."""

import dataclasses
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import lora, tiny
from helpers.requests import digest, mixture, picture

from ssd1b_jax import NonFiniteError, Pipeline, Request, RequestError
from ssd1b_jax.engine import programs
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.request_list import as_requests

CACHE_SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
COLLECTIVES = r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"


@pytest.fixture(scope="module")
def on_one_device(tiny_pipe):
    """The digests of the first requests of the mixture."""
    known = []

    def first(count: int = len(mixture())) -> list[str]:
        known.extend(digest(tiny_pipe.generate(mixture()[len(known) : count])))
        return known[:count]

    return first


FEW = 3  # of the mixture: they share all programs


@pytest.fixture(scope="module")
def eight(tiny_model):
    return Pipeline(tiny_model, devices=jax.devices())


@pytest.mark.slow
def test_eight_devices_give_the_pixels_of_one(on_one_device, eight):
    expected = on_one_device()
    assert len(set(expected)) == len(expected), "the requests must differ for this to say anything"
    assert digest(eight.generate(mixture())) == expected


@pytest.mark.slow
def test_three_devices_give_the_pixels_of_one(on_one_device, tiny_model):
    three = Pipeline(tiny_model, devices=jax.devices()[-3:])
    assert digest(three.generate(mixture()[:5])) == on_one_device(5)


def test_order_changes_nothing(on_one_device, tiny_pipe):
    assert digest(tiny_pipe.generate(mixture()[:FEW][::-1]))[::-1] == on_one_device(FEW)


@pytest.mark.slow
def test_order_and_neighbours_change_nothing(on_one_device, eight):
    assert digest(eight.generate(mixture()[::-1]))[::-1] == on_one_device()
    alone = eight.generate([mixture()[FEW - 1]])
    assert digest(alone) == on_one_device(FEW)[-1:]


@pytest.mark.slow
def test_results_come_in_order_and_say_what_they_are(eight):
    results = eight.generate(mixture())
    assert [result.seed for result in results] == [request.seed for request in mixture()]
    assert results[9].pixels.shape == (48, tiny.SIZE, 3)
    assert [result.steps_run for result in results[:3]] == [3, 5, 2]
    assert results[7].steps_run == 3


@pytest.mark.slow
def test_another_process_with_one_device_gives_the_same_pixels(on_one_device, tiny_folder):
    program = (
        "import sys; from helpers.requests import digest, mixture; from ssd1b_jax import Pipeline;"
        "print(*digest(Pipeline.from_pretrained(sys.argv[1]).generate(mixture()[:2])))"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tiny_folder)], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == on_one_device(2)


@pytest.mark.slow
def test_two_pictures_on_a_device_are_close_to_one(tiny_model, tiny_pipe):
    """R2: rounding differs between batch sizes; 8-bit pixels may by one or two."""
    paired = Pipeline(tiny_model, devices=jax.devices()[:1], per_device=2)
    requests = mixture()[:3]
    for one, two in zip(tiny_pipe.generate(requests), paired.generate(requests), strict=True):
        assert np.abs(one.pixels.astype(int) - two.pixels).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 25), ("float16", 45)])  # numbers of 8 bits, and of 11
def test_half_precision_is_close_and_begins_with_the_same_noise(tiny_folder, tiny_pipe, dtype, least):
    """R3: with a host's noise only rounding differs, here as PSNR."""
    half = Pipeline.from_pretrained(tiny_folder, dtype=dtype, devices=jax.devices()[:1])
    request = Request(image=picture(), prompt="a red apple", seed=6, scheduler="euler_a", noise="torch")
    pixels = [pipe.generate([request])[0].pixels.astype(float) for pipe in (tiny_pipe, half)]
    assert 20 * np.log10(255 / np.sqrt(np.square(pixels[0] - pixels[1]).mean())) > least


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_picture(tiny_model, compiled):
    programs.forget()
    pipe = Pipeline(tiny_model, devices=jax.devices()[:1])
    first = Request(image=picture(), prompt="a red apple", seed=1)
    before = pipe.generate([first])[0]
    assert compiled.count > 0, "the counter counts nothing"
    compiled.count = 0
    for change in (
        dict(num_inference_steps=11),
        dict(strength=0.95),
        dict(guidance_scale=9.0),
        dict(seed=2),
        dict(scheduler="heun"),
        dict(scheduler="euler_a"),
        dict(scheduler="dpmpp_2m_karras"),
        dict(prompt="a cat"),
        dict(negative_prompt="a red apple"),
        dict(negative_prompt=""),
        dict(image=picture(2)),
        dict(image=picture(3, 100, 60)),
        dict(guidance_rescale=0.5),
        dict(exact_steps=True),
    ):
        after = pipe.generate([dataclasses.replace(first, **change)])[0]
        assert not np.array_equal(after.pixels, before.pixels), f"{change} changed nothing"
    pipe.generate([first], on_progress=lambda progress: None)
    assert compiled.count == 0


@pytest.mark.slow
def test_noise_of_the_host_compiles_one_program_more(tiny_pipe, compiled):
    drawn = Request(image=picture(), prompt="a red apple", seed=1, scheduler="euler_a", noise="torch")
    tiny_pipe.generate([drawn])
    compiled.count = 0
    tiny_pipe.generate([dataclasses.replace(drawn, num_inference_steps=n, noise="nv") for n in (3, 9, 30, 60)])
    assert compiled.count == 0


def test_progress_counts_every_call_and_changes_no_pixel(tiny_pipe, on_one_device):
    seen = []
    results = tiny_pipe.generate(mixture()[:3], on_progress=seen.append)
    assert digest(results) == on_one_device(3)
    calls = 3 + 5 + 3  # heun calls twice a step but at the last
    assert {progress.calls for progress in seen} == {calls} and {progress.pictures for progress in seen} == {3}
    done = [progress.calls_done for progress in seen]
    assert done == sorted(done) and set(done) == set(range(1, calls + 1))
    assert seen[-1].pictures_done == 3


@pytest.mark.slow
def test_the_programs_do_not_communicate(eight, monkeypatch):
    """Read what XLA made for eight devices; a sum over them is recognized, so the search can find one."""
    texts, run = {}, eight.runner.run

    def spy(name, program, *arguments):
        texts[name] = eight.runner.programs.get(name, program).as_text()
        return run(name, program, *arguments)

    monkeypatch.setattr(eight.runner, "run", spy)
    eight.generate(mixture()[:9])  # more pictures than rows: some are moved
    assert {"prepare", "advance", "decode", "put_latents"} <= set(texts)
    for text in texts.values():
        assert not re.search(COLLECTIVES, text)
    devices = Devices()
    summed = devices.map(lambda params, x: jax.lax.psum(x, "data"))
    assert re.search(COLLECTIVES, summed.lower((), np.ones((8, 1), np.float32)).compile().as_text())


def test_seeds_count_in_full(tiny_pipe):
    def make(seed):
        return tiny_pipe(image=picture(), prompt="a red apple", seed=seed)

    zero, one, beyond = make(0), make(1), make(2**32 + 1)
    assert not np.array_equal(one.pixels, beyond.pixels)
    assert zero.seed == 0 and not np.array_equal(zero.pixels, one.pixels)
    drawn, other = make(None), make(None)
    assert drawn.seed != other.seed
    assert np.array_equal(make(drawn.seed).pixels, drawn.pixels)


def test_num_images_counts_seeds_up(tiny_pipe):
    results = tiny_pipe(image=picture(), prompt="a red apple", seed=2**64 - 1, num_images=2)
    assert [result.seed for result in results] == [2**64 - 1, 0]
    assert np.array_equal(results[1].pixels, tiny_pipe(image=picture(), prompt="a red apple", seed=0).pixels)


def test_guidance_of_one_ignores_the_negative_prompt(tiny_pipe):
    def make(**settings):
        return tiny_pipe(image=picture(), prompt="a red apple", seed=1, **settings).pixels

    off = make(guidance_scale=1)
    assert np.array_equal(off, make(guidance_scale=1, negative_prompt="blue"))
    assert not np.array_equal(make(), make(negative_prompt="")), "an empty negative prompt is not an absent one"


@pytest.mark.parametrize(
    ("part", "leaf", "stage"),
    [
        pytest.param("text_encoder", ("token_embedding", "embedding"), "text encoders", marks=pytest.mark.slow),
        pytest.param("vae", ("encoder", "conv_in", "bias"), "VAE encoder", marks=pytest.mark.slow),
        ("unet", ("conv_out", "bias"), "UNet"),
        pytest.param("vae", ("decoder", "conv_in", "bias"), "VAE decoder", marks=pytest.mark.slow),
    ],
)
def test_a_value_that_is_not_finite_names_its_stage(tiny_model, part, leaf, stage):
    params = jax.tree.map(np.array, tiny_model.params)
    inner = params[part]
    for name in leaf:
        inner = inner[name]
    inner[...] = np.nan
    pipe = Pipeline(dataclasses.replace(tiny_model, params=params), devices=jax.devices()[:1])
    with pytest.raises(NonFiniteError, match=f"the {stage} gave values that are not finite for picture 1"):
        pipe(image=picture(), prompt="a red apple", seed=1)


def test_nothing_runs_if_one_request_is_bad(tiny_pipe, monkeypatch):
    monkeypatch.setattr(tiny_pipe.runner, "run", lambda *_: pytest.fail("ran"))
    good = Request(image=picture(), prompt="a red apple")
    with pytest.raises(RequestError, match=r"strength must be in \(0, 1\], got 1.5"):
        tiny_pipe.generate([good, dataclasses.replace(good, strength=1.5)])


@pytest.mark.slow
def test_what_is_asked_for_at_loading_is_compiled_by_then(tiny_folder, on_one_device, compiled):
    every, expected = mixture(), on_one_device()
    wanted = [0, 3, 6, 11]  # guided, not guided, noise of the host's, both in one picture
    requests = [every[i] for i in wanted]
    programs.forget()
    before = compiled.count
    pipe = Pipeline.from_pretrained(tiny_folder, devices=jax.devices()[:1], requests=requests)
    loaded = compiled.count
    assert loaded - before >= 3 + 3 + 1  # the last two share all but one
    assert digest(pipe.generate(requests)) == [expected[i] for i in wanted]
    assert compiled.count == loaded


@pytest.mark.slow
def test_loras_given_at_loading_are_those_loaded_later(tiny_folder, tiny_model, tmp_path):
    file = tmp_path / "style.safetensors"
    lora.write(file, lora.kohya(tiny.tiny_config()).items())
    early = Pipeline.from_pretrained(tiny_folder, devices=jax.devices()[:1], loras={"style": file})
    late = Pipeline(tiny_model, devices=jax.devices()[:1])
    late.load_lora(file)
    base = Request(image=picture(), prompt="a red apple", seed=1)
    requests = [base, dataclasses.replace(base, loras={"style": 0.7})]
    made = digest(early.generate(requests))
    assert made == digest(late.generate(requests)) and made[0] != made[1]


def test_devices_that_know_their_batch_are_not_overruled(tiny_folder):
    with pytest.raises(ValueError, match="per_device is 2 by the Devices given, got 3 too"):
        Pipeline.from_pretrained(tiny_folder, devices=Devices(jax.devices()[:1], 2), per_device=3)
    with pytest.raises(ValueError, match="per_device must be a whole number from 1 to 256, got 100000"):
        Pipeline.from_pretrained(tiny_folder, per_device=100000)


def test_a_bad_request_is_told_before_weights_are_read(tiny_folder, monkeypatch):
    monkeypatch.setattr("ssd1b_jax.pipeline.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(RequestError, match=r"strength must be in \(0, 1\], got 1.5"):
        Pipeline.from_pretrained(tiny_folder, requests=[Request(image=picture(), prompt="", strength=1.5)])


@pytest.mark.parametrize(
    ("wrong", "meant"), [(dict(stregth=0.5), "strength"), (dict(num_image=2), "num_images"), (dict(lora={}), "loras")]
)
def test_a_call_tells_a_misspelled_setting(tiny_pipe, wrong, meant):
    with pytest.raises(RequestError, match=f"no setting is named '{[*wrong][0]}': did you mean {meant}\\?"):
        tiny_pipe(image=picture(), prompt="a red apple", **wrong)


ONE = Request(image="a.png", prompt="")


@pytest.mark.parametrize(
    ("requests", "sentence"),
    [
        ("a cat", "requests must be an iterable of Requests, got str"),
        ({"prompt": "a cat"}, "requests must be an iterable of Requests, got dict"),
        (3, "requests must be an iterable of Requests, got int"),
        (ONE, "requests must be an iterable of Requests, got one Request: put it in a list"),
        ([ONE, {"prompt": "a cat"}], "requests must be Requests, got dict at index 1"),
    ],
    ids=["str", "dict", "int", "one", "of a dict"],
)
def test_what_is_no_list_of_requests_is_told(requests, sentence):
    with pytest.raises(RequestError) as error:
        as_requests(requests)
    assert str(error.value) == sentence
    assert list(as_requests(iter([ONE]))) == [ONE]


def test_generate_tells_what_is_no_list_of_requests():
    """In a process whose annotations nobody checks, as users have it; it is told before the pipeline does anything."""
    program = """
from unittest.mock import Mock
from ssd1b_jax import Pipeline, Request
pipe = Pipeline.__new__(Pipeline)
pipe.queue = pipe._planner = Mock()
pipe.generate(Request(image="a.png", prompt=""))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    sentence = "requests must be an iterable of Requests, got one Request: put it in a list"
    assert run.stderr.splitlines()[-1] == f"ssd1b_jax.errors.RequestError: {sentence}"


def test_no_requests_give_no_results(tiny_pipe):
    assert tiny_pipe.generate([]) == []


@pytest.mark.parametrize(("told", "kept_from"), [(1.0, 0.05), (3.0, 3.0)])
def test_small_programs_are_kept_unless_jax_was_told_otherwise(tmp_path, told, kept_from):
    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", told)
        assert enable_compilation_cache() == tmp_path
        assert jax.config.jax_persistent_cache_min_compile_time_secs == kept_from
    finally:
        for name, value in before.items():
            jax.config.update(name, value)

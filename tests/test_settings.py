"""What each setting does to a picture, through the whole pipeline with a tiny model."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
from helpers import tiny
from helpers.lora import kohya, write
from helpers.requests import picture

from ssd1b_jax import NonFiniteError, Pipeline, Request, RequestError
from ssd1b_jax.images import previews
from ssd1b_jax.prompts.tokenizer import PromptTokenizer

PROMPT = "a red apple"


def make(pipe, **settings) -> np.ndarray:
    return pipe(**dict(image=picture(), prompt=PROMPT, seed=1) | settings).pixels


@pytest.fixture
def spy(tiny_pipe, monkeypatch):
    """Calls `note(name, arguments)` before each stage of `tiny_pipe` that runs."""
    notes, run = [], tiny_pipe.runner.run

    def spied(name, program, *arguments):
        for note in notes:
            note(name, arguments)
        return run(name, program, *arguments)

    monkeypatch.setattr(tiny_pipe.runner, "run", spied)
    return notes.append


@pytest.fixture
def advances(spy):
    """Of every piece of the sampling loop: whether it was guided, its first call and the call after its last."""
    seen = []

    def note(name, arguments):
        if name.startswith("advance"):
            _, state, fixed, steps = arguments
            sides, start = fixed.conditioning[0].shape[1], int(state.made.max())
            guided, stop = name == "advance" and sides == 2, start + int(steps.max())
            if seen and seen[-1][0] == guided and seen[-1][2] == start:
                start = seen.pop()[1]  # goes on where the last one ended
            seen.append((guided, start, stop))

    spy(note)
    return seen


# Guidance


def test_guidance_runs_only_in_its_interval(tiny_pipe, advances):
    whole = make(tiny_pipe, strength=1.0)
    assert advances == [(True, 0, 6)]
    advances.clear()
    part = make(tiny_pipe, strength=1.0, guidance_interval=(0.2, 0.7))
    assert advances == [(False, 0, 1), (True, 1, 4), (False, 4, 6)], (
        "int(0.2 * 6) to int(0.7 * 6), as diffusers' guiders"
    )
    assert not np.array_equal(whole, part)


def test_an_interval_without_a_step_is_guidance_off(tiny_pipe, advances):
    nothing = tiny_pipe(image=picture(), prompt=PROMPT, seed=1, guidance_interval=(0.0, 0.1))
    assert advances == [(False, 0, 3)]
    assert np.array_equal(nothing.pixels, make(tiny_pipe, guidance_scale=1.0))
    assert "nothing was guided" in nothing.notes[0]


def test_an_interval_counts_steps_not_calls(tiny_pipe, advances):
    make(tiny_pipe, scheduler="heun", strength=1.0, guidance_interval=(0.5, 1.0))
    assert advances == [(False, 0, 6), (True, 6, 11)], "two calls a step, but for the last"


@pytest.mark.slow
def test_intervals_may_be_mixed_in_a_batch(tiny_model, tiny_pipe):
    requests = [
        Request(image=picture(), prompt=PROMPT, seed=i, guidance_interval=interval, num_inference_steps=steps)
        for i, (interval, steps) in enumerate([((0.0, 1.0), 6), ((0.0, 0.5), 9), ((0.4, 0.8), 12)])
    ]
    alone = [tiny_pipe.generate([request])[0].pixels for request in requests]
    together = Pipeline(tiny_model, devices=jax.devices()[:4]).generate(requests)
    assert all(np.array_equal(a, b.pixels) for a, b in zip(alone, together, strict=True))


# Prompts


@pytest.mark.slow
def test_prompts_of_as_many_chunks_share_a_program(tiny_pipe, compiled):
    long = [f"{'a red apple ' * 8} {word}" for word in ("cat", "cat apple", "apple red cat a")]
    first = tiny_pipe(image=picture(), prompt=long[0], seed=1)
    assert first.notes == ()
    compiled.count = 0
    others = [make(tiny_pipe, prompt=prompt) for prompt in long[1:]]
    make(tiny_pipe, prompt=long[0], negative_prompt="a cat")
    assert compiled.count == 0
    assert not any(np.array_equal(first.pixels, other) for other in others), "the end of a long prompt counts"


@pytest.mark.slow
def test_a_prompt_beyond_all_chunks_says_what_was_cut(tiny_pipe):
    short = tiny_pipe(image=picture(), prompt="a red apple " * 15 + "zebra", seed=1)
    (note,) = short.notes
    assert note.startswith("the prompt is too long for the model, left out: '") and note.endswith("zebra'")
    (note,) = tiny_pipe(image=picture(), prompt="a red apple " * 99 + "zebra", seed=1).notes
    assert len(note) <= 120 and note.endswith(" …") and "apple" in note


def test_weights_weigh_and_can_be_taken_literally(tiny_pipe, compiled):
    plain = make(tiny_pipe)
    compiled.count = 0
    heavy = make(tiny_pipe, prompt="a (red:1.5) apple")
    light = make(tiny_pipe, prompt="a [red] apple")
    literal = make(tiny_pipe, prompt="a (red)", prompt_weights=False)
    assert np.array_equal(plain, make(tiny_pipe, prompt="a (red:1.0) apple"))
    assert compiled.count == 0
    assert len({pixels.tobytes() for pixels in (plain, heavy, light, literal)}) == 4


@pytest.mark.parametrize(
    "change",
    [
        dict(prompt_2="a blue cat"),
        dict(negative_prompt="", negative_prompt_2="a blue cat"),
        dict(negative_prompt_2="a blue cat"),
        dict(clip_skip=1),
        dict(original_size=(100, 50)),
        dict(target_size=(100, 50)),
        dict(crops_coords_top_left=(8, 0)),
        dict(negative_original_size=(100, 50)),
        dict(negative_target_size=(100, 50)),
        dict(negative_crops_coords_top_left=(0, 8)),
        dict(timestep_spacing="trailing"),
        dict(variation_strength=0.3, variation_seed=5),
        dict(guidance_rescale=0.4),
        dict(mask=np.tri(32, dtype=np.uint8) * 255),
    ],
    ids=str,
)
def test_a_setting_counts_and_compiles_nothing(tiny_pipe, compiled, change):
    before = make(tiny_pipe)
    compiled.count = 0
    assert not np.array_equal(before, make(tiny_pipe, **change))
    assert compiled.count == 0


def test_the_second_prompt_is_the_first_unless_given(tiny_pipe):
    assert np.array_equal(make(tiny_pipe), make(tiny_pipe, prompt_2=PROMPT))
    assert np.array_equal(
        make(tiny_pipe, negative_prompt="blue"), make(tiny_pipe, negative_prompt="blue", negative_prompt_2="blue")
    )
    assert not np.array_equal(make(tiny_pipe), make(tiny_pipe, prompt_2="")), "empty is not absent"


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        (dict(num_inference_steps=1), 1),
        (dict(num_inference_steps=2, strength=0.5), 501),
        (dict(num_inference_steps=600, strength=0.01), 600),
        (dict(num_inference_steps=2, timestep_spacing="trailing"), None),
        (dict(num_inference_steps=2, scheduler="dpmpp_2s"), None),
        (dict(num_inference_steps=30, strength=0.05), None),
        (dict(num_inference_steps=2, strength=0.5, exact_steps=True), None),
    ],
    ids=str,
)
def test_steps_that_begin_far_from_noise_are_told(tiny_pipe, settings, first):
    """Those of the full run, whatever part of it a strength runs."""
    job = tiny_pipe._planner.plan(Request(image=picture(), prompt="", **dict(strength=1.0) | settings))
    steps = settings["num_inference_steps"]
    words = "1 step spaced leading begins" if steps == 1 else f"{steps} steps spaced leading begin"
    told = f"{words} at timestep {first} of 1000, far from all noise: timestep_spacing trailing"
    assert [note.startswith(told) for note in job.notes] == ([] if first is None else [True])


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        (dict(mask_blur=3), ["mask_blur has no effect without a mask"]),
        (dict(variation_seed=3), ["variation_seed has no effect at variation_strength 0"]),
        (dict(negative_prompt="blue"), []),
        (dict(guidance_scale=1, negative_prompt=""), []),
        (dict(guidance_scale=1, negative_prompt="blue"), ["negative_prompt has no effect at guidance_scale 1"]),
        (
            dict(guidance_scale=1, guidance_rescale=0.5, guidance_interval=(0, 0.5)),
            [f"guidance_{name} has no effect at guidance_scale 1" for name in ("rescale", "interval")],
        ),
        (dict(guidance_scale=1, original_size=(64, 64)), []),
        (
            dict(guidance_scale=1, negative_target_size=(8, 8)),
            ["negative_target_size has no effect at guidance_scale 1"],
        ),
    ],
    ids=str,
)
def test_settings_without_effect_are_told(tiny_pipe, settings, notes):
    """And what is told is so: without them the pixels are the same."""
    result = tiny_pipe(image=picture(), prompt=PROMPT, seed=1, **settings)
    assert list(result.notes) == notes
    told = {note.split()[0] for note in notes}
    without = {name: value for name, value in settings.items() if name not in told}
    assert not notes or np.array_equal(result.pixels, make(tiny_pipe, **without))


# Variation


@pytest.mark.parametrize("noise", ["jax", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch", "nv"))])
def test_a_variation_goes_from_one_seeds_noise_to_the_others(tiny_pipe, noise):
    own = make(tiny_pipe, noise=noise).astype(int)
    assert np.array_equal(own, make(tiny_pipe, noise=noise, variation_seed=9)), "of strength 0"
    steps = [make(tiny_pipe, noise=noise, variation_seed=9, variation_strength=s) for s in (0.05, 0.4, 1.0)]
    distances = [np.abs(own - pixels).mean() for pixels in steps]
    assert distances == sorted(distances) and distances[0] > 0


def test_several_images_of_a_variation_count_its_seed_up(tiny_pipe):
    results = tiny_pipe(image=picture(), prompt=PROMPT, seed=1, variation_seed=7, variation_strength=0.5, num_images=2)
    assert [result.seed for result in results] == [1, 1]
    assert [result.request.variation_seed for result in results] == [7, 8]
    assert not np.array_equal(results[0].pixels, results[1].pixels)


# Masks


def test_black_is_kept_to_the_pixel_and_white_is_remade(tiny_pipe):
    image, mask = picture(), np.zeros((tiny.SIZE, tiny.SIZE), np.uint8)
    mask[:, 11:] = 255
    for blur in (0, 6):
        made = make(tiny_pipe, image=image, mask=mask, mask_blur=blur, strength=0.9)
        assert np.array_equal(made[:, :11], image[:, :11])
        assert np.abs(made[:, 20:].astype(int) - image[:, 20:]).mean() > 10


def test_a_white_mask_is_none_and_a_black_one_says_so(tiny_pipe):
    white = np.full((8, 8), 255, np.uint8)
    assert np.array_equal(make(tiny_pipe), make(tiny_pipe, mask=white))
    result = tiny_pipe(image=picture(), prompt=PROMPT, seed=1, mask=white * 0)
    assert np.array_equal(result.pixels, picture()) and "nothing was remade" in result.notes[0]


def test_what_is_kept_guides_what_is_remade(tiny_pipe):
    """The white part depends on the black part's pixels, so it is sampled beside them, not pasted over."""
    mask = np.zeros((tiny.SIZE, tiny.SIZE), np.uint8)
    mask[:, 16:] = 255
    first, second = picture(), picture()
    second[:, :16] = 255 - second[:, :16]
    made = [make(tiny_pipe, image=image, mask=mask, strength=1.0)[:, 16:] for image in (first, second)]
    assert not np.array_equal(*made)


# Previews, overlap, failures


def test_progress_offers_previews(tiny_pipe, monkeypatch, spy):
    matrix = np.random.default_rng(0).normal(size=(5, 3)) / 4
    monkeypatch.setitem(previews.MAPS, tiny.tiny_config().vae.scaling_factor, matrix.tolist())
    final, seen = [], []
    spy(lambda name, arguments: final.append(np.asarray(arguments[1])[0, 0]) if name == "decode" else None)
    requests = [Request(image=picture(), prompt=PROMPT, seed=seed) for seed in (1, 2)]
    tiny_pipe.generate(requests, on_progress=lambda progress: seen.append(progress.previews))
    first, second = ([pixels[index] for pixels in seen if index in pixels] for index in (0, 1))
    assert len(first) == len(second) == 3 and all(len(pixels) <= 1 for pixels in seen)
    assert np.array_equal(first[2], previews.preview(tiny_pipe.config.vae, final[0])), "Euler's last is the result"
    assert first[0].shape == (16, 16, 3) and not np.array_equal(first[0], first[2])


def test_the_devices_go_on_while_a_result_is_kept(tiny_pipe, spy):
    begun, third = [], threading.Event()

    def note(name, arguments):
        begun.extend([1] * (name == "prepare"))
        if len(begun) == 3:
            third.set()

    spy(note)
    stream = tiny_pipe.stream([Request(image=picture(), prompt=PROMPT, seed=seed) for seed in range(3)])
    next(stream)
    assert third.wait(60), "the third picture was not begun while the first was kept"
    assert len(list(stream)) == 2


@pytest.mark.slow
def test_a_picture_that_fails_takes_no_other_with_it(tiny_model):
    """One token's embedding is not a number."""
    params = jax.tree.map(np.array, tiny_model.params)
    tokenizer = PromptTokenizer.from_folder(tiny_model.folder / "tokenizer", length=16)
    token = next(i for i in tokenizer.encode("zebra").ids if i not in tokenizer.encode(PROMPT).ids)
    params["text_encoder"]["token_embedding"]["embedding"][token] = np.nan
    pipe = Pipeline(dataclasses.replace(tiny_model, params=params), devices=jax.devices()[:2])
    prompts = [PROMPT, "zebra", PROMPT]
    stream = pipe.stream([Request(image=picture(), prompt=prompt, seed=1) for prompt in prompts])
    assert {next(stream)[0], next(stream)[0]} == {0, 2}
    with pytest.raises(NonFiniteError, match="the text encoders gave values that are not finite for picture 2"):
        next(stream)


# LoRAs


@pytest.mark.slow
def test_loras_change_pictures_at_any_scale_and_compile_nothing_more(tiny_model, tmp_path, compiled):
    pipe = Pipeline(tiny_model, devices=jax.devices()[:1])
    tensors = [kohya(tiny_model.config, seed=seed, alpha=2.0).items() for seed in (1, 2)]
    names = [pipe.load_lora(write(tmp_path / f"style{i}.safetensors", tensors[i])) for i in (0, 1)]
    assert names == ["style0", "style1"]
    lcm = dict(scheduler="lcm", num_inference_steps=4, guidance_scale=1.0, exact_steps=True)
    plain = make(pipe, **lcm)
    both = pipe(image=picture(), prompt=PROMPT, seed=1, loras=dict.fromkeys(names, 0.5), **lcm)
    assert both.steps_run == 4 and set(both.record["loras"]) == set(names)
    compiled.count = 0
    others = [make(pipe, loras=loras, **lcm) for loras in ({"style0": 0.5}, {"style0": 1.0}, {"style1": -0.7})]
    assert np.array_equal(plain, make(pipe, loras={"style0": 0.0}, **lcm))
    assert compiled.count == 0
    assert len({pixels.tobytes() for pixels in (plain, both.pixels, *others)}) == 5
    with pytest.raises(RequestError, match="no LoRA named 'style2' is loaded"):
        make(pipe, loras={"style2": 1.0})


def test_a_lora_at_scale_0_shares_the_rows_of_plain_requests(tiny_model):
    """Whose pixels it has: see above."""
    pipe = Pipeline(tiny_model, devices=jax.devices()[:2])
    groups = [
        pipe._planner.plan(Request(image=picture(), prompt=PROMPT, loras=loras)).group
        for loras in ({"style": 0.0}, {"style": 1.0}, {}, {"style": 1.0, "other": 0.0})
    ]
    assert groups[0] == groups[2] != groups[1] == groups[3]

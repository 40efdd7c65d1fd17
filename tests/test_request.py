"""What a request may say: defaults, ranges, and the sentence for each way to be wrong."""

import dataclasses
import inspect
import pickle

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

from ssd1b_jax import ImageError, Request, RequestError, images
from ssd1b_jax.presets import ssd_1b
from ssd1b_jax.request import draw_seed, repeat

CONFIG = tiny.tiny_config()


def test_defaults_come_from_the_model():
    request = Request(image="x.png", prompt="a cat").resolve(CONFIG)
    assert (request.width, request.height, request.num_inference_steps) == (tiny.SIZE, tiny.SIZE, 6)
    assert (request.guidance_scale, request.strength) == (3.0, 0.6)
    full = Request(image="x.png", prompt="a cat").resolve(ssd_1b())
    assert (full.width, full.height, full.num_inference_steps, full.guidance_scale) == (1024, 1024, 30, 7.5)


def test_a_resolved_request_resolves_to_itself():
    request = Request(image="x.png", prompt="a cat").resolve(CONFIG)
    assert dataclasses.asdict(request.resolve(CONFIG)) == dataclasses.asdict(request)
    assert isinstance(request.seed, int)


def test_a_resolved_request_is_known_for_one():
    request = Request(image="x.png", prompt="a cat")
    resolved = request.resolve(CONFIG)
    assert resolved.is_resolved(CONFIG) and not request.is_resolved(CONFIG) and not resolved.is_resolved(ssd_1b())
    assert all(copy.is_resolved(CONFIG) for copy in (*repeat(resolved, 2), pickle.loads(pickle.dumps(resolved))))
    changed = dataclasses.replace(resolved, width=31)
    assert not changed.is_resolved(CONFIG) and resolved.to_dict().keys() == request.to_dict().keys()


def test_numbers_become_plain_python():
    request = Request(image="x.png", prompt="a cat", seed=np.uint64(2**64 - 1), strength=np.float32(0.5))
    request = dataclasses.replace(request, num_inference_steps=6.0, guidance_scale=2).resolve(CONFIG)
    assert request.seed == 2**64 - 1 and type(request.seed) is int
    assert type(request.strength) is float
    assert type(request.num_inference_steps) is int and type(request.guidance_scale) is float


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(strength=0), "strength must be in (0, 1], got 0.0"),
        (dict(strength=1.5), "strength must be in (0, 1], got 1.5"),
        (dict(strength=float("nan")), "strength must be in (0, 1], got nan"),
        (dict(strength="0.5"), "strength must be in (0, 1], got '0.5'"),
        (dict(strength=True), "strength must be in (0, 1], got True"),
        (dict(strength=0.1), "strength must be at least 0.1667 to run one of 6 steps, got 0.1"),
        (dict(num_inference_steps=0), "num_inference_steps must be a whole number from 1 to 1000, got 0"),
        (dict(num_inference_steps=2.5), "num_inference_steps must be a whole number from 1 to 1000, got 2.5"),
        (dict(num_inference_steps=1001), "num_inference_steps must be a whole number from 1 to 1000, got 1001"),
        (dict(guidance_scale=0.5), "guidance_scale must be from 1 (off) to 100, got 0.5"),
        (dict(guidance_scale=float("inf")), "guidance_scale must be from 1 (off) to 100, got inf"),
        (dict(guidance_rescale=-0.1), "guidance_rescale must be in [0, 1], got -0.1"),
        (dict(seed=-2), "seed must be a whole number from 0 to 2**64 - 1, got -2"),
        (dict(seed=2**64), f"seed must be a whole number from 0 to 2**64 - 1, got {2**64}"),
        (dict(guidance_scale=10**400), "guidance_scale must be from 1 (off) to 100, got inf"),
        (
            dict(width=72, height=64),
            "width x height must be at most 4 times the model's own size, 4096 pixels, got 72 x 64",
        ),
        (dict(image=3), "image must be a path, bytes, a file, a Pillow image or an array, or None, got int"),
        (dict(scheduler=np.zeros(2)), "scheduler must be text, got ndarray"),
        (dict(width=31), "width must be a multiple of 2, got 31: try 30 or 32"),
        (dict(height=1), "height must be a multiple of 2, got 1: try 2"),
        (dict(height=0), "height must be a whole number up to 4096, got 0"),
        (dict(width=8192), "width must be a whole number up to 4096, got 8192"),
        (dict(scheduler="eular"), "scheduler must be one of euler, "),
        (dict(timestep_spacing="log"), "timestep_spacing must be one of leading, trailing, linspace, got 'log'"),
        (dict(prompt_2=3), "prompt_2 must be text or None, got int"),
        (dict(prompt="((a:99))"), "a prompt's weights must be from -10 to 10, got 108.9 for 'a'"),
        (dict(prompt_weights=1), "prompt_weights must be True or False, got 1"),
        (dict(clip_skip=12), "clip_skip must be at most 1 with this model, got 12"),
        (dict(clip_skip=-1), "clip_skip must be a whole number from 0, got -1"),
        (dict(guidance_interval=(0.5, 0.5)), "guidance_interval must end after it begins, got (0.5, 0.5)"),
        (dict(guidance_interval=(0.5, 1.5)), "guidance_interval must be in [0, 1], got 1.5"),
        (dict(guidance_interval=0.5), "guidance_interval must be two numbers, got 0.5"),
        (dict(variation_strength=2), "variation_strength must be in [0, 1], got 2"),
        (dict(variation_seed=-2), "variation_seed must be a whole number from 0 to 2**64 - 1, got -2"),
        (dict(mask=3), "mask must be a path, bytes, a file, a Pillow image or an array, or None, got int"),
        (dict(mask_blur=2.5), "mask_blur must be a whole number of pixels up to 256, got 2.5"),
        (dict(original_size=1024), "original_size must be two numbers, got 1024"),
        (dict(target_size=(0, 5)), "target_size must be whole numbers from 1 to 65536, got 0"),
        (dict(negative_crops_coords_top_left=(-1, 0)), "negative_crops_coords_top_left must be whole numbers from 0"),
        (dict(loras=["a"]), "loras must map names to scales, got ['a']"),
        (dict(loras={"a": 11}), "the scale of LoRA 'a' must be from -10 to 10, got 11"),
        (dict(resize_mode="fill"), "resize_mode must be one of crop, fit, pad, stretch, got 'fill'"),
        (dict(noise="cuda"), "noise must be one of jax, torch, nv, got 'cuda'"),
        (dict(prompt=None), "prompt must be text, got NoneType"),
        (dict(negative_prompt=3), "negative_prompt must be text or None, got int"),
        (dict(exact_steps="yes"), "exact_steps must be True or False, got 'yes'"),
    ],
)
def test_what_is_out_of_range_is_named(settings, sentence):
    with pytest.raises(RequestError) as error:
        Request(**dict(image="x.png", prompt="a cat") | settings).resolve(CONFIG)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(stregth=0.5), "no setting is named 'stregth': did you mean strength?"),
        (dict(steps=4), "no setting is named 'steps': did you mean num_inference_steps?"),
        (dict(xyzzy=1), "no setting is named 'xyzzy': see help(ssd1b_jax.Request)"),
        (dict(image_=1), "no setting is named 'image_': did you mean image?"),
    ],
)
def test_a_name_that_is_no_settings_is_told_with_the_nearest(settings, sentence):
    good = Request(image="x.png", prompt="a cat")
    for make in (
        lambda: Request(image="x.png", prompt="a cat", **settings),
        lambda: Request(**settings),
        lambda: dataclasses.replace(good, **settings),
    ):
        with pytest.raises(RequestError) as error:
            make()
        assert str(error.value) == sentence


def test_what_must_be_given_is_told():
    with pytest.raises(RequestError, match="^image and prompt must be given$"):
        Request(seed=1)
    with pytest.raises(RequestError, match="^image must be given$"):
        Request(prompt="a cat")


def test_editors_see_every_setting():
    parameters = inspect.signature(Request).parameters
    assert list(parameters) == [field.name for field in dataclasses.fields(Request)]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    assert parameters["scheduler"].default == "euler" and parameters["image"].default is inspect.Parameter.empty
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request(image="x.png", prompt="a cat").seed = 1
    copied = pickle.loads(pickle.dumps(Request(image="x.png", prompt="a cat", seed=3)))
    assert dataclasses.asdict(copied) == dataclasses.asdict(Request(image="x.png", prompt="a cat", seed=3))


def test_exact_steps_allow_any_strength():
    request = Request(image="x.png", prompt="a cat", strength=0.02, exact_steps=True)
    assert request.resolve(CONFIG).strength == 0.02


def test_drawn_seeds_differ_and_fit_every_kind_of_noise():
    seeds = {draw_seed() for _ in range(20)}
    assert len(seeds) > 15 and all(0 <= seed < 2**32 for seed in seeds)


def test_without_an_image_the_picture_is_made_from_noise():
    request = Request(image=None, prompt="a cat").resolve(tiny.tiny_config())
    table = request.table(tiny.tiny_config())
    assert request.strength == 1 and table.signal == 0 and table.steps_run == request.num_inference_steps
    assert Request.from_dict(request.to_dict()) == request
    with pytest.raises(RequestError, match="strength must be 1 without an image, as nothing is kept, got 0.5"):
        Request(image=None, prompt="a cat", strength=0.5).resolve(tiny.tiny_config())
    with pytest.raises(RequestError, match="mask needs an image that it is laid over: give the image too"):
        Request(image=None, prompt="a cat", mask=np.ones((8, 8), bool)).resolve(tiny.tiny_config())


def test_minus_one_is_a_drawn_seed():
    request = Request(image="a.png", prompt="", seed=-1, variation_seed=-1, variation_strength=0.2).resolve(ssd_1b())
    assert 0 <= request.seed < 2**32 and 0 <= request.variation_seed < 2**32
    assert Request(image="a.png", prompt="", variation_seed=-1).resolve(ssd_1b()).variation_seed is None


def test_bits_that_torch_does_not_read_are_told():
    request = Request(image="a.png", prompt="", seed=2**32 + 5, noise="torch").resolve(ssd_1b())
    assert any(note.endswith("4294967301 is 5 to it") for note in request.notes)


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (1000, 1000), (904, 512), (640, 360), (1024, 680), (8, 8)])
def test_sizes_are_multiples_of_a_latents_pixels(size):
    request = Request(image="x.png", prompt="a harbour", width=size[0], height=size[1]).resolve(ssd_1b())
    assert (request.width, request.height) == size


FITTED = {
    (1024, 1024): (1024, 1024),
    (4032, 3024): (1152, 896),
    (3024, 4032): (896, 1152),
    (1920, 1080): (1344, 768),
    (600, 400): (1216, 832),
    (10_000, 1000): (3200, 320),
    (100_000, 10): (4096, 256),
}


@pytest.mark.parametrize("size", FITTED)
def test_a_picture_keeps_its_shape_at_the_models_area(size):
    """Those of photographs are among the sizes that SDXL was trained on (Podell et al., 2307.01952, appendix I)."""
    width, height = images.fitting(size, ssd_1b())
    assert (width, height) == FITTED[size]
    assert width * height <= 1024**2 and width % 64 == height % 64 == 0


def test_few_sizes_have_the_models_area():
    shapes = {images.fitting((width, 1000), ssd_1b()) for width in range(250, 4001, 5)}
    assert len(shapes) < 50


def test_fit_takes_the_images_shape():
    config = ssd_1b()
    tall = Request(image=np.zeros((400, 300, 3), np.uint8), prompt="a cat", resize_mode="fit")
    resolved = tall.resolve(config)
    assert (resolved.width, resolved.height) == (896, 1152) and resolved.resolve(config) == resolved
    one_side = dataclasses.replace(tall, width=768).resolve(config)
    assert (one_side.width, one_side.height) == (768, 1024)
    both = dataclasses.replace(tall, width=768, height=512).resolve(config)
    assert (both.width, both.height) == (768, 512)
    without = Request(image=None, prompt="a cat", resize_mode="fit").resolve(config)
    assert (without.width, without.height) == (1024, 1024)
    with pytest.raises(ImageError, match="missing.png: cannot be read: no such file or directory"):
        Request(image="missing.png", prompt="a cat", resize_mode="fit").resolve(config)
    with pytest.raises(RequestError, match="width must be a whole number up to 4096, got 'a'"):
        dataclasses.replace(tall, width="a").resolve(config)
    with pytest.raises(RequestError, match="^image must be a path"):
        Request(image=3, prompt="a cat", resize_mode="fit").resolve(config)


def test_the_shape_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone that was held upright
    Image.new("RGB", (40, 30)).save(tmp_path / "phone.jpg", exif=exif)
    for source in (tmp_path / "phone.jpg", (tmp_path / "phone.jpg").read_bytes(), Image.open(tmp_path / "phone.jpg")):
        assert images.measure(source) == (30, 40) == images.load(source).pixels.shape[1::-1]
    with pytest.raises(ImageError, match="an array must be uint8"):
        images.measure(np.zeros((3, 3)))

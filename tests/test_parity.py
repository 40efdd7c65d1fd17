"""The whole path against diffusers' StableDiffusionXLImg2ImgPipeline, no tensor passed between them.

With `noise="torch"` a seed draws what `torch.Generator("cpu").manual_seed(seed)` draws, so both are
given the same picture, prompts and seed, and nothing else.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from helpers import reference  # noqa: E402
from helpers.compare import assert_close  # noqa: E402

from convert.to_model import convert  # noqa: E402
from ssd1b_jax import Pipeline, images  # noqa: E402

# diffusers' schedulers make NumPy arrays of tensors in a way that NumPy 2 warns of.
pytestmark = [
    pytest.mark.slow,
    *[
        pytest.mark.filterwarnings(f"ignore:{name}:DeprecationWarning")
        for name in ("__array__ impl", "__array_wrap__ must")
    ],
]

SIZE = 32
LATENTS_TOLERANCE = 2e-4  # relative; a float32 UNet within 5e-5, some twenty calls deep
PROMPT = "a red cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return reference.tiny_pipeline_folder(tmp_path_factory.mktemp("parity") / "tiny")


@pytest.fixture(scope="module")
def theirs(folder):
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.euler_config = pipeline.scheduler.config
    return pipeline


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("converted") / "tiny"
    convert(folder, target, dtype="float32")
    pipe = Pipeline.from_pretrained(target)
    pipe.final_latents = []
    run = pipe.runner.run

    def spy(name, program, *arguments):
        if name == "decode":
            pipe.final_latents.append(np.asarray(arguments[1])[0, 0])
        return run(name, program, *arguments)

    pipe.runner.run = spy
    return pipe


def picture() -> np.ndarray:
    """Smooth, as photographs are."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    channels = [x, y, (np.sin(9 * x) * np.cos(7 * y) + 1) / 2]
    return (255 * np.stack(channels, axis=-1)).astype(np.uint8)


SCHEDULERS = {
    "euler": ("EulerDiscrete", {}),
    "euler_a": ("EulerAncestralDiscrete", {}),
    "heun": ("HeunDiscrete", {}),
    "dpm2_karras": ("KDPM2Discrete", dict(use_karras_sigmas=True)),
    "dpm2_a": ("KDPM2AncestralDiscrete", {}),
    "ddim": ("DDIM", dict(clip_sample=False, set_alpha_to_one=False)),  # as the released config has it
    "ddpm": ("DDPM", dict(clip_sample=False)),
    "lms_diffusers": ("LMSDiscrete", {}),
    "pndm_diffusers": ("PNDM", dict(skip_prk_steps=True)),
    "dpmpp_2m_karras": ("DPMSolverMultistep", dict(use_karras_sigmas=True)),
    "dpmpp_2m_sde": ("DPMSolverMultistep", dict(algorithm_type="sde-dpmsolver++")),
    "dpmpp_2s": ("DPMSolverSinglestep", {}),
    "unipc": ("UniPCMultistep", {}),
    "deis": ("DEISMultistep", {}),
    "lcm": ("LCM", {}),
}


def scheduler_of(config, name: str):
    kind, changes = SCHEDULERS[name]
    return getattr(diffusers, f"{kind}Scheduler").from_config(config, **changes)


CASES = [
    (dict(strength=0.6, negative_prompt="a cat"), "euler"),
    (dict(strength=0.6, guidance_scale=1.0), "euler"),
    (dict(strength=0.3), "euler"),
    (dict(strength=0.6), "euler"),
    (dict(strength=1.0), "euler"),
    (dict(strength=0.6, negative_prompt=""), "euler"),
    (dict(strength=0.6, guidance_rescale=0.7), "euler"),
    (dict(strength=0.6, prompt_2="a cat", negative_prompt="red", negative_prompt_2="cat"), "euler"),
    (dict(strength=0.6, clip_skip=1, negative_prompt="a cat"), "euler"),
    (dict(strength=0.6, original_size=(48, 40), target_size=(64, 32), crops_coords_top_left=(8, 4)), "euler"),
    (dict(strength=0.6, negative_original_size=(48, 40), negative_target_size=(64, 64)), "euler"),
    *((dict(strength=0.6), name) for name in SCHEDULERS if name != "euler"),
]


@pytest.mark.parametrize(("settings", "scheduler"), CASES, ids=str)
def test_the_pipeline_agrees_with_diffusers(ours, theirs, settings, scheduler):
    image, seed = picture(), 2**32 + 12345
    settings = dict(num_inference_steps=20, guidance_scale=5.0) | settings
    theirs.scheduler = scheduler_of(theirs.euler_config, scheduler)
    sizes = dict(original_size=(SIZE, SIZE), target_size=(SIZE, SIZE))
    called = dict(prompt=PROMPT, image=images.to_pil(image)) | sizes | settings

    latents = []

    def keep(pipeline, step, timestep, values):
        latents.append(values["latents"])
        return {}

    generator = torch.Generator("cpu").manual_seed(seed & 0xFFFFFFFF)
    (expected,) = theirs(**called, generator=generator, callback_on_step_end=keep).images
    ours_only = dict(width=SIZE, height=SIZE, noise="torch", scheduler=scheduler)
    result = ours(image=image, prompt=PROMPT, seed=seed, **ours_only, **settings)
    assert_close(ours.final_latents[-1], reference.nhwc(latents[-1])[0], LATENTS_TOLERANCE)
    pixels = np.asarray(expected).astype(int)
    assert pixels.std() > 5, "a flat picture would agree with anything"
    assert np.abs(result.pixels - pixels).max() <= 1


@pytest.mark.slow
def test_a_size_whose_halves_are_odd_agrees_with_diffusers(ours, theirs):
    """Latents of 13 x 9, which the UNet halves to 7 x 5 and to 4 x 3."""
    width, height = 52, 36
    image = images.resize(picture(), width, height, "stretch")
    theirs.scheduler = scheduler_of(theirs.euler_config, "euler")
    settings = dict(num_inference_steps=10, guidance_scale=5.0, strength=0.6, prompt=PROMPT)
    called = dict(image=images.to_pil(image), generator=torch.Generator("cpu").manual_seed(7)) | settings
    sizes = dict(original_size=(height, width), target_size=(height, width))
    expected = theirs(**called, **sizes, output_type="latent").images
    ours(image=image, seed=7, noise="torch", width=width, height=height, **settings)
    assert_close(ours.final_latents[-1], reference.nhwc(expected)[0], LATENTS_TOLERANCE)


TEXT_SPACINGS = [("euler", "leading"), ("euler", "trailing"), ("dpmpp_2m_karras", "leading"), ("ddim", "leading")]


@pytest.mark.parametrize(("scheduler", "spacing"), TEXT_SPACINGS)
def test_text_to_image_agrees_with_diffusers(ours, theirs, scheduler, spacing):
    """StableDiffusionXLPipeline, which begins with noise times its scheduler's init_noise_sigma."""
    config = {**theirs.euler_config, "timestep_spacing": spacing}
    parts = theirs.components | dict(scheduler=scheduler_of(config, scheduler))
    text_to_image = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    text_to_image.set_progress_bar_config(disable=True)
    settings = dict(prompt=PROMPT, num_inference_steps=12, guidance_scale=5.0, width=SIZE, height=SIZE)
    expected = text_to_image(**settings, generator=torch.Generator("cpu").manual_seed(77), output_type="latent").images
    ours(image=None, seed=77, noise="torch", scheduler=scheduler, timestep_spacing=spacing, **settings)
    assert_close(ours.final_latents[-1], reference.nhwc(expected)[0], LATENTS_TOLERANCE)


def test_a_masked_picture_agrees_with_diffusers_inpainting(ours, theirs):
    """Theirs for models that were not trained to inpaint; the mask follows the edges of latents, as both round."""
    image, seed, mask = picture(), 77, np.zeros((SIZE, SIZE), np.uint8)
    mask[8:24, 4:28] = 255
    parts = theirs.components | dict(scheduler=scheduler_of(theirs.euler_config, "euler"))
    inpaint = diffusers.StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    inpaint.set_progress_bar_config(disable=True)
    settings = dict(prompt=PROMPT, num_inference_steps=20, guidance_scale=5.0, strength=0.6)
    expected = inpaint(
        **settings,
        image=images.to_pil(image),
        mask_image=images.to_pil(np.repeat(mask[..., None], 3, axis=-1)),
        width=SIZE,
        height=SIZE,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="latent",
    ).images
    result = ours(image=image, mask=mask, seed=seed, noise="torch", width=SIZE, height=SIZE, **settings)
    expected = reference.nhwc(expected)[0]
    assert_close(ours.final_latents[-1], expected, LATENTS_TOLERANCE)
    assert np.array_equal(result.pixels[mask == 0], image[mask == 0])

"""The whole path against diffusers' StableDiffusionXLImg2ImgPipeline, no tensor passed between them.

With `noise="torch"` a seed draws what `torch.Generator("cpu").manual_seed(seed)` draws, so both are
given the same picture, prompts and seed, and nothing else.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
import reference  # noqa: E402

from convert.__main__ import convert  # noqa: E402
from ssd1b_jax import Pipeline, images  # noqa: E402

# diffusers' schedulers make NumPy arrays of tensors in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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
    return pipeline


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("converted") / "tiny"
    convert(folder, target, dtype="float32")
    pipe = Pipeline.from_pretrained(target)
    pipe.final_latents = []
    decode = pipe._decode

    def spy(params, latents):
        pipe.final_latents.append(np.asarray(latents)[0, 0])
        return decode(params, latents)

    pipe._decode = spy
    return pipe


def picture() -> np.ndarray:
    """Smooth, as photographs are."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    channels = [x, y, (np.sin(9 * x) * np.cos(7 * y) + 1) / 2]
    return (255 * np.stack(channels, axis=-1)).astype(np.uint8)


SCHEDULERS = {
    "euler": lambda config: diffusers.EulerDiscreteScheduler.from_config(config),
    "euler_a": lambda config: diffusers.EulerAncestralDiscreteScheduler.from_config(config),
    "heun": lambda config: diffusers.HeunDiscreteScheduler.from_config(config),
    "dpmpp_2m_karras": lambda config: diffusers.DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
}


@pytest.mark.parametrize(
    ("settings", "scheduler"),
    [
        (dict(strength=0.3), "euler"),
        (dict(strength=0.6), "euler"),
        (dict(strength=1.0), "euler"),
        (dict(strength=0.6, negative_prompt="a cat"), "euler"),
        (dict(strength=0.6, negative_prompt=""), "euler"),
        (dict(strength=0.6, guidance_scale=1.0), "euler"),
        (dict(strength=0.3, guidance_scale=1.0), "euler"),
        (dict(strength=0.6, guidance_rescale=0.7), "euler"),
        (dict(strength=0.6), "euler_a"),
        (dict(strength=0.6), "heun"),
        (dict(strength=0.6), "dpmpp_2m_karras"),
    ],
    ids=str,
)
def test_the_pipeline_agrees_with_diffusers(ours, theirs, settings, scheduler):
    image, seed = picture(), 2**32 + 12345
    settings = dict(num_inference_steps=20, guidance_scale=5.0) | settings
    theirs.scheduler = SCHEDULERS[scheduler](theirs.scheduler.config)
    called = dict(prompt=PROMPT, image=images.to_pil(image), original_size=(SIZE, SIZE), target_size=(SIZE, SIZE))

    def reference_run(output_type):
        generator = torch.Generator("cpu").manual_seed(seed & 0xFFFFFFFF)
        return theirs(**called, **settings, generator=generator, output_type=output_type).images

    ours_only = dict(width=SIZE, height=SIZE, noise="torch", scheduler=scheduler)
    result = ours(image=image, prompt=PROMPT, seed=seed, **ours_only, **settings)
    expected = reference.nhwc(reference_run("latent"))[0]
    error = np.abs(ours.final_latents[-1] - expected).max() / np.abs(expected).max()
    assert error <= LATENTS_TOLERANCE
    pixels = np.asarray(reference_run("pil")[0]).astype(int)
    assert pixels.std() > 5, "a flat picture would agree with anything"
    assert np.abs(result.pixels - pixels).max() <= 1

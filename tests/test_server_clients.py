"""The dialects of the server, each by a client that people have."""

import base64
import io
import urllib.request

import huggingface_hub
import numpy as np
import openai
import pytest
import segmind
import webuiapi
from helpers import tiny
from helpers.requests import picture
from helpers.server import SECONDS, alone, events, in_base64, pixels, png, running, styled
from PIL import Image

from ssd1b_jax import Request, records
from ssd1b_jax.images import previews

SIZE = tiny.SIZE
MASK = np.tri(SIZE, dtype=np.uint8) * 255  # below the diagonal is remade


@pytest.fixture(scope="module")
def pipe(tiny_model, tmp_path_factory):
    return styled(tiny_model, tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def server(pipe):
    with running(pipe) as server:
        yield server


@pytest.fixture
def raw(server):
    with server.client() as client:
        yield client


@pytest.fixture
def open_ai(server):
    with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", timeout=SECONDS, max_retries=0) as client:
        yield client


@pytest.fixture
def web_ui(server):
    client = webuiapi.WebUIApi(host="127.0.0.1", port=server.port)
    yield client
    client.session.close()


@pytest.fixture
def seg_mind(server):
    client = segmind.SegmindClient(api_key="none", base_url=f"{server.url}/v1", timeout=SECONDS)
    yield client
    client._client.close()


@pytest.fixture
def hugging_face(server):
    return huggingface_hub.InferenceClient(model=f"{server.url}/hf", timeout=SECONDS)


# One picture through all of them

COMMON = dict(prompt="a red apple", negative_prompt="blue", strength=0.7, seed=11)
STEPS, SCALE, SAMPLER = 5, 4.0, "Euler"


def by_jobs(raw, **_):
    settings = dict(COMMON, image=in_base64(png()), steps=STEPS, guidance_scale=SCALE, scheduler=SAMPLER)
    job = raw.post("/jobs", json=settings).json()
    with raw.stream("GET", f"/jobs/{job['id']}/events") as answer:
        (made,) = events(answer)[-1][1]["pictures"]
    return pixels(raw.get(made["url"]).content)


def by_openai(open_ai, **_):
    settings = {name: value for name, value in COMMON.items() if name != "prompt"}
    extra = dict(settings, steps=STEPS, cfg_scale=SCALE, sampler=SAMPLER)
    answer = open_ai.images.edit(image=png(), prompt=COMMON["prompt"], model="tiny", extra_body=extra)
    return pixels(answer.data[0].b64_json)


def by_a1111(web_ui, **_):
    answer = web_ui.img2img(
        images=[Image.fromarray(picture())],
        prompt=COMMON["prompt"],
        negative_prompt=COMMON["negative_prompt"],
        denoising_strength=COMMON["strength"],
        seed=COMMON["seed"],
        steps=STEPS,
        cfg_scale=SCALE,
        sampler_name=SAMPLER,
        width=SIZE,
        height=SIZE,
    )
    return np.asarray(answer.image)


def by_segmind(seg_mind, **_):
    answer = seg_mind.run_sync(
        "ssd-img2img",
        **COMMON,
        image=in_base64(png()),
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        scheduler=SAMPLER,
        output_format="png",
    )
    return pixels(answer.content)


def by_hugging_face(hugging_face, **_):
    settings = {name: value for name, value in COMMON.items()}
    made = hugging_face.image_to_image(
        png(), **settings, num_inference_steps=STEPS, guidance_scale=SCALE, scheduler=SAMPLER
    )
    return np.asarray(made)


@pytest.mark.parametrize("ask", [by_jobs, by_openai, by_a1111, by_segmind, by_hugging_face])
def test_a_picture_is_the_same_through_every_client(ask, pipe, raw, open_ai, web_ui, seg_mind, hugging_face):
    made = ask(raw=raw, open_ai=open_ai, web_ui=web_ui, seg_mind=seg_mind, hugging_face=hugging_face)
    expected = alone(pipe, **COMMON, num_inference_steps=STEPS, guidance_scale=SCALE, scheduler="euler")
    assert np.array_equal(made, expected)


# OpenAI


def test_openai_lists_the_model(open_ai):
    assert [model.id for model in open_ai.models.list()] == ["tiny"]


def test_openai_makes_several_at_the_size_that_is_asked_for(open_ai):
    answer = open_ai.images.edit(image=[png()], prompt="apple", n=2, size="64x128", output_format="jpeg")
    assert answer.size == "64x128" and answer.output_format == "jpeg" and answer.computed_size == "32x32"
    made = [pixels(item.b64_json) for item in answer.data]
    assert len(made) == 2 and made[0].shape == (128, 64, 3) and not np.array_equal(*made)
    assert answer.data[1].seed == answer.data[0].seed + 1
    assert answer.data[0].notes == ["made at 32x32 and brought to 64x128"]


def test_a_picture_that_was_enlarged_says_so_in_its_record(open_ai, tmp_path):
    answer = open_ai.images.edit(image=png(), prompt="apple", size="64x64", extra_body={"seed": 3})
    (tmp_path / "a.png").write_bytes(base64.b64decode(answer.data[0].b64_json))
    written = records.read(tmp_path / "a.png")["written"]
    assert (written["width"], written["height"]) == (64, 64)


def test_openai_remakes_what_is_transparent_in_the_mask(open_ai, pipe):
    alpha = np.dstack([picture(), 255 - MASK])
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG")
    settings = dict(seed=1, strength=0.7)
    answer = open_ai.images.edit(image=png(), mask=file.getvalue(), prompt="apple", extra_body=settings)
    made = pixels(answer.data[0].b64_json)
    assert np.array_equal(made, alone(pipe, prompt="apple", mask=MASK, **settings))
    assert np.array_equal(made[MASK == 0], picture()[MASK == 0])


def test_openai_masks_mean_the_same_as_text(raw, pipe):
    """Painted on a clear layer, which elsewhere is what is remade."""
    painted = np.zeros((SIZE, SIZE, 4), np.uint8)
    painted[8:24, 8:24] = 255
    file = io.BytesIO()
    Image.fromarray(painted).save(file, "PNG")
    form = dict(prompt="apple", seed="1", mask=in_base64(file.getvalue()))
    answer = raw.post("/v1/images/edits", data=form, files=dict(image=png())).json()
    made = pixels(answer["data"][0]["b64_json"])
    assert np.array_equal(made[8:24, 8:24], picture()[8:24, 8:24]) and not np.array_equal(made, picture())


def test_openai_gives_a_url_for_a_while(open_ai):
    answer = open_ai.images.edit(image=png(), prompt="apple", response_format="url", extra_body={"seed": 1})
    with urllib.request.urlopen(answer.data[0].url, timeout=SECONDS) as file:
        assert pixels(file.read()).shape == (SIZE, SIZE, 3)


def test_openai_streams_previews(open_ai, monkeypatch):
    monkeypatch.setitem(previews.MAPS, 0.5, ((0.1, 0.2, 0.3),) * 5)
    settings = {"steps": 120, "strength": 1.0, "seed": 2}
    stream = open_ai.images.edit(image=png(), prompt="apple", stream=True, partial_images=2, extra_body=settings)
    seen = [*stream]
    assert [event.type for event in seen] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event.partial_image_index for event in seen[:2]] == [0, 1]
    assert all(pixels(event.b64_json).shape == (SIZE, SIZE, 3) for event in seen)


def test_openai_hears_of_a_deadline_in_a_stream(open_ai):
    settings = {"steps": 1000, "strength": 1.0}
    late = {"x-deadline-seconds": "0.3"}
    stream = open_ai.images.edit(image=png(), prompt="apple", stream=True, extra_body=settings, extra_headers=late)
    with pytest.raises(openai.APIError, match="deadline"):
        list(stream)


@pytest.mark.parametrize(
    ("wrong", "field", "sentence"),
    [
        (dict(size="64"), "size", "size must be auto or WIDTHxHEIGHT"),
        (dict(n=11), "n", "n must be at most 10, got 11"),
        (dict(extra_body={"strength": "much"}), "strength", "strength must be a number, got 'much'"),
        (dict(extra_body={"denoising_strength": 2}), "denoising_strength", "must be in (0, 1], got 2.0"),
        (dict(response_format="png"), "response_format", "must be b64_json or url"),
        (dict(partial_images=4), "partial_images", "must be from 0 to 3"),
        (dict(image=[png(), png(1)]), "image", "image must be one picture's file, got 2 values"),
        (dict(image=b"no picture"), "image", "image: not a picture in a known format"),
        (dict(mask=b"no picture"), "mask", "mask: not a picture in a known format"),
        (dict(output_format="tiff"), "output_format", "must be one of png, jpeg, webp"),
    ],
)
def test_openai_errors_name_the_field(open_ai, wrong, field, sentence):
    with pytest.raises(openai.BadRequestError) as error:
        open_ai.images.edit(**dict(image=png(), prompt="apple") | wrong)
    assert error.value.param == field and sentence in error.value.message


def test_openai_makes_pictures_from_text(open_ai, raw, pipe):
    extra = {"seed": 4, "steps": 4}
    answer = open_ai.images.generate(prompt="apple", n=2, size="64x64", output_format="webp", extra_body=extra)
    assert [item.seed for item in answer.data] == [4, 5] and answer.size == "64x64"
    assert pixels(answer.data[0].b64_json).shape == (64, 64, 3)
    answer = open_ai.images.generate(prompt="apple", model="tiny", response_format="url", extra_body=extra)
    with urllib.request.urlopen(answer.data[0].url, timeout=SECONDS) as file:
        made = pixels(file.read())
    (expected,) = pipe.generate([Request(image=None, prompt="apple", seed=4, num_inference_steps=4)])
    assert np.array_equal(made, expected.pixels)


def test_openai_streams_a_generation(open_ai, monkeypatch):
    monkeypatch.setitem(previews.MAPS, 0.5, ((0.1, 0.2, 0.3),) * 5)
    stream = open_ai.images.generate(prompt="apple", stream=True, partial_images=1, extra_body={"steps": 80})
    seen = [event.type for event in stream]
    assert seen == ["image_generation.partial_image", "image_generation.completed"]


@pytest.mark.parametrize(
    ("wrong", "field", "sentence"),
    [
        (dict(size=64), "size", "size must be auto or WIDTHxHEIGHT"),
        (dict(n=0), "n", "n must be a whole number from 1"),
        (dict(extra_body={"strength": 0.5}), "strength", "strength must be 1 without an image"),
        (dict(extra_body={"image": "AAAA"}), "image", "image: pictures are remade at /v1/images/edits"),
        (dict(extra_body={"stream": []}), "stream", "stream must be text, got list"),
    ],
)
def test_openai_errors_of_generations_name_the_field(open_ai, wrong, field, sentence):
    with pytest.raises(openai.BadRequestError) as error:
        open_ai.images.generate(**dict(prompt="apple") | wrong)
    assert error.value.param == field and sentence in error.value.message


def test_open_web_ui_generates_and_edits(raw):
    """Its OpenAI engines: what each sends, with all that it leaves empty."""
    body = dict(model="tiny", prompt="apple", n=1, size="64x64", response_format="b64_json")
    answer = raw.post("/v1/images/generations", json=body, headers={"authorization": "Bearer none"}).json()
    assert pixels(answer["data"][0]["b64_json"]).shape == (64, 64, 3)
    form = dict(model="tiny", prompt="apple", n="1", size="64x64", response_format="b64_json")
    answer = raw.post("/v1/images/edits", data=form, files={"image": ("image.png", png(), "image/png")}).json()
    assert pixels(answer["data"][0]["b64_json"]).shape == (64, 64, 3)


# Segmind


def test_segmind_answers_with_a_jpeg_and_its_headers(seg_mind):
    answer = seg_mind.run_sync("ssd-img2img", image=in_base64(png()), prompt="apple", num_interface_steps=20, seed=9)
    assert answer.headers["content-type"] == "image/jpeg" and answer.headers["x-seed-value"] == "9"
    assert float(answer.headers["x-generation-time"]) > 0 and answer.headers["x-request-id"]
    assert pixels(answer.content).shape == (SIZE, SIZE, 3)


def test_segmind_takes_a_data_url_and_gives_base64(seg_mind):
    image = "data:image/png;base64," + in_base64(png())
    one = dict(image=image, prompt="apple", num_inference_steps=20, base64=True)
    assert pixels(seg_mind.run_sync("ssd-img2img", **one).json()["image"]).shape == (SIZE, SIZE, 3)
    assert len(seg_mind.run_sync("ssd-img2img", **one, samples=2).json()["images"]) == 2


@pytest.mark.parametrize(
    "sampler",
    ["DDIM", "DPM Multi", "DPM Single", "Euler a", "Euler", "Heun", "DPM2 a Karras", "DPM2 Karras", "LMS", "PNDM",
     "DDPM", "UniPC"],
)  # fmt: skip
def test_segmind_has_its_samplers(seg_mind, sampler):
    settings = dict(image=in_base64(png()), prompt="apple", num_inference_steps=2, scheduler=sampler)
    assert seg_mind.run_sync("ssd-img2img", **settings).status_code == 200


def test_segmind_polls(seg_mind):
    done = seg_mind.run("ssd-img2img", image=in_base64(png()), prompt="apple", num_inference_steps=20)
    assert done["status"] == "COMPLETED" and done["metrics"]["inference_time"] > 0
    with urllib.request.urlopen(done["output"], timeout=SECONDS) as file:
        assert file.headers["content-type"] == "image/jpeg" and pixels(file.read()).shape == (SIZE, SIZE, 3)


def test_a_proxy_of_this_machine_says_that_it_has_tls(raw):
    body, proxied = dict(image=in_base64(png()), prompt="apple"), {"host": "localhost", "x-forwarded-proto": "https"}
    answer = raw.post("/v2/ssd-img2img", json=body, headers=proxied).json()
    assert answer["poll_url"].startswith("https://localhost/v2/requests/")
    assert answer["response_url"].startswith("https://localhost/v2/requests/")


def test_segmind_hears_of_a_picture_that_fails(seg_mind):
    damaged = png()[:-200]
    with pytest.raises(segmind.v2.InferenceFailed, match="cannot be read"):
        seg_mind.run("ssd-img2img", image=in_base64(damaged), prompt="apple")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(image=None), "image must be given"),
        (dict(prompt=""), "prompt must be given"),
        (dict(samples=5), "samples must be from 1 to 4, got 5"),
        (dict(guidance_scale=0.5), "guidance_scale must be from 1"),
        (dict(image="http://localhost/a.png"), "addresses are not fetched"),
    ],
)
def test_segmind_errors_are_its_own(seg_mind, raw, wrong, sentence):
    settings = dict(image=in_base64(png()), prompt="apple") | wrong
    with pytest.raises(segmind.exceptions.SegmindError) as error:
        seg_mind.run_sync("ssd-img2img", **settings)
    assert sentence in str(error.value)
    assert raw.post("/v1/ssd-img2img", content="{}", headers={"content-type": "text/plain"}).status_code == 406


# Hugging Face


def test_hugging_face_takes_a_picture_alone(hugging_face):
    made = hugging_face.image_to_image(png())
    assert made.size == (SIZE, SIZE) and made.format == "PNG"


def test_hugging_face_takes_a_size(hugging_face):
    size = huggingface_hub.ImageToImageTargetSize(width=48, height=64)
    assert hugging_face.image_to_image(png(), prompt="apple", target_size=size).size == (48, 64)


def test_hugging_face_errors_are_sentences(hugging_face):
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="strength must be in"):
        hugging_face.image_to_image(png(), prompt="apple", strength=2.0)
    size = huggingface_hub.ImageToImageTargetSize(width=32, height=10**400)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="target_size: Expected `int` <= 4096"):
        hugging_face.image_to_image(png(), prompt="apple", target_size=size)

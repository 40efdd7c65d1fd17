"""AUTOMATIC1111's API, by webuiapi, and as the programs that know nothing else call it step by step."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
import webuiapi
from helpers import tiny
from helpers.requests import picture
from helpers.server import alone, in_base64, pixels, png, running, styled
from PIL import Image

from ssd1b_jax import images
from ssd1b_jax.images import masks, previews

SIZE = tiny.SIZE
MASK = np.tri(SIZE, dtype=np.uint8) * 255  # below the diagonal is remade


def notes(info: dict) -> list[str]:
    """Those of an answer, but that four steps spaced leading are few."""
    return [note for note in info["notes"] if "spaced leading" not in note]


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
def web_ui(server):
    client = webuiapi.WebUIApi(host="127.0.0.1", port=server.port)
    yield client
    client.session.close()


def test_a1111_answers_what_clients_ask_at_their_start(web_ui, raw):
    (model,) = web_ui.get_sd_models()
    assert model["model_name"] == "tiny" and model["title"] == f"tiny [{model['hash']}]"
    assert web_ui.get_options()["sd_model_checkpoint"] == model["title"]
    web_ui.set_options({"sd_model_checkpoint": model["title"]})
    assert "Euler a" in [row["name"] for row in web_ui.get_samplers()]
    assert [row["name"] for row in web_ui.get_loras()] == ["style"]
    assert web_ui.get_scripts() == {"txt2img": [], "img2img": []}
    assert web_ui.get_memory() == {"ram": {}, "cuda": {}} and web_ui.get_cmd_flags() == {}
    assert web_ui.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert [row["name"] for row in raw.get("/sdapi/v1/upscalers").json()] == ["None", "Lanczos"]
    for name in ("latent-upscale-modes", "sd-vae", "sd-modules", "hypernetworks", "face-restorers"):
        assert raw.get(f"/sdapi/v1/{name}").json() == []
    assert [row["name"] for row in raw.get("/sdapi/v1/schedulers").json()] == ["automatic", "karras"]
    for name in ("version", "module_list", "model_list", "settings"):
        assert raw.get(f"/controlnet/{name}").status_code == 200
    web_ui.refresh_checkpoints()


def test_a1111_makes_batches_and_says_how(web_ui):
    image = Image.fromarray(picture())
    answer = web_ui.img2img(images=[image], prompt="apple", seed=5, steps=4, batch_size=2, n_iter=2)
    info = answer.info
    assert len(answer.images) == 4 and answer.images[0].size == (512, 512)
    assert info["all_seeds"] == [5, 6, 7, 8] and info["sampler_name"] == "Euler a" and info["width"] == 512
    assert "Steps: 4" in info["infotexts"][0] and notes(info) == ["made at 32x32 and brought to 512x512"]
    assert answer.parameters["prompt"] == "apple" and answer.parameters["init_images"] is None


def test_a1111_reads_masks_loras_subseeds_and_schedules(web_ui, pipe):
    common = dict(images=[Image.fromarray(picture())], seed=5, steps=4, width=SIZE, height=SIZE)
    mask = Image.fromarray(MASK)
    made = np.asarray(web_ui.img2img(**common, prompt="apple", mask_image=mask, mask_blur=2).image)
    expected = dict(prompt="apple", seed=5, num_inference_steps=4, strength=0.75, guidance_scale=7.0)
    expected |= dict(scheduler="euler_a", resize_mode="stretch", negative_prompt="")
    assert np.array_equal(made, alone(pipe, **expected, mask=MASK, mask_blur=2))
    inverted = web_ui.img2img(**common, prompt="apple", mask_image=mask, mask_blur=0, inpainting_mask_invert=1)
    assert np.array_equal(np.asarray(inverted.image)[MASK > 0], picture()[MASK > 0])
    styled = web_ui.img2img(**common, prompt="apple <lora:style:0.5>", sampler_name="DPM++ 2M", scheduler="Karras")
    expected |= dict(scheduler="dpmpp_2m_karras", loras={"style": 0.5})
    assert np.array_equal(np.asarray(styled.image), alone(pipe, **expected))
    varied = web_ui.img2img(**common, prompt="apple", subseed=0, subseed_strength=0.4)
    expected |= dict(scheduler="euler_a", loras={}, variation_seed=0, variation_strength=0.4)
    assert np.array_equal(np.asarray(varied.image), alone(pipe, **expected)) and varied.info["subseed"] == 0


def test_a1111_says_how_far_it_is_and_stops(web_ui, monkeypatch):
    monkeypatch.setitem(previews.MAPS, 0.5, ((0.1, 0.2, 0.3),) * 5)
    assert web_ui.get_progress()["state"]["job_count"] == 0
    image, failed = Image.fromarray(picture()), []

    def ask():
        try:
            web_ui.img2img(images=[image], prompt="apple", steps=1000, denoising_strength=1.0)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    end = time.monotonic() + 60
    while (progress := web_ui.get_progress())["progress"] == 0 or progress["current_image"] is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert progress["state"]["job_count"] == 1 and progress["state"]["sampling_steps"] == 1000
    assert pixels(progress["current_image"]).shape == (SIZE, SIZE, 3)
    web_ui.interrupt()
    thread.join(60)
    assert not thread.is_alive() and "cancelled" in str(failed[0])
    assert web_ui.get_progress()["progress"] == 0


def test_a1111_reads_the_text_in_a_picture(raw):
    settings = dict(init_images=[in_base64(png())], prompt="apple", seed=5, steps=4, width=SIZE, height=SIZE)
    made = raw.post("/sdapi/v1/img2img", json=settings).json()
    read = raw.post("/sdapi/v1/png-info", json={"image": made["images"][0]}).json()
    assert read["info"].startswith("apple\nSteps: 4, Sampler: Euler a") and "Seed: 5" in read["info"]
    assert raw.post("/sdapi/v1/png-info", json={"image": in_base64(b"none")}).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(resize_mode=4), "resize_mode must be from 0 to 3, got 4"),
        (dict(width=0), "width must be from 1 to 4096, got 0"),
        (dict(steps=0), "steps must be a whole number from 1 to 1000, got 0"),
        (dict(sampler_name="Elvis"), "must be one of"),
        (dict(scheduler="exponential"), "scheduler must be automatic or karras"),
        (dict(batch_size=0), "batch_size must be at least 1, got 0"),
        (dict(batch_size=4, n_iter=4), "batch_size must be at most 10, got 16"),
        (dict(denoising_strength=0.0), "denoising_strength must be in (0, 1], got 0.0"),
        (dict(prompt="<lora:none:1>"), "no LoRA named 'none' is loaded"),
        (dict(prompt="<lora:style:1.2.3>"), "the scale of lora 'style' must be a number"),
        (dict(images=[]), "init_images must be one picture, got 0"),
    ],
)
def test_a1111_errors_are_sentences(web_ui, wrong, sentence):
    with pytest.raises(RuntimeError) as error:
        web_ui.img2img(**dict(images=[Image.fromarray(picture())], prompt="apple") | wrong)
    status, text = error.value.args
    assert status == 400 and sentence in text


# Text to image


def test_txt2img_is_text_to_image(web_ui, pipe):
    common = dict(prompt="apple", seed=5, steps=4, width=SIZE, height=SIZE)
    answer = web_ui.txt2img(**common, batch_size=2, n_iter=1)
    expected = dict(image=None, prompt="apple", num_inference_steps=4, guidance_scale=7.0)
    expected |= dict(scheduler="euler_a", negative_prompt="")
    assert answer.info["all_seeds"] == [5, 6]
    for seed, image in zip((5, 6), answer.images, strict=True):
        assert np.array_equal(np.asarray(image), alone(pipe, **expected, seed=seed))
    assert "init_images" not in answer.parameters and answer.parameters["prompt"] == "apple"
    noted = notes(web_ui.txt2img(**common, enable_hr=True, tiling=True).info)
    assert noted == ["enable_hr has no effect here", "tiling has no effect here"]


def test_override_settings_are_settings(web_ui, raw, pipe):
    overrides = dict(CLIP_stop_at_last_layers=3, samples_format="jpg", sd_model_checkpoint="tiny")
    body = dict(prompt="apple", seed=5, steps=4, width=SIZE, height=SIZE)
    answer = raw.post("/sdapi/v1/txt2img", json=body | dict(override_settings=overrides)).json()
    made = records_of(answer["images"][0])
    assert made["request"]["clip_skip"] == 1 and Image.open(io.BytesIO(decoded(answer["images"][0]))).format == "JPEG"
    overrides = dict(sd_model_checkpoint="other", eta_noise_seed_delta=31337, randn_source="NV")
    info = web_ui.txt2img(**body, override_settings=overrides).info
    assert notes(info) == [
        "override_settings: the model here is tiny, whatever sd_model_checkpoint says",
        "override_settings: eta_noise_seed_delta has no effect here",
    ]
    assert "RNG: NV" in info["infotexts"][0]
    with pytest.raises(RuntimeError, match="jpeg_quality must be a whole number"):
        web_ui.txt2img(**body, override_settings=dict(jpeg_quality="fine"))


# Inpainting at full resolution


WIDE = picture(3, 96, 160)
SPOT = np.zeros((96, 160), np.uint8)
SPOT[30:50, 100:110] = 255


def test_full_res_makes_the_part_round_the_mask(web_ui, pipe):
    common = dict(images=[Image.fromarray(WIDE)], prompt="apple", seed=5, steps=4, width=SIZE, height=SIZE)
    full = dict(mask_image=Image.fromarray(SPOT), inpaint_full_res=True, inpaint_full_res_padding=6)
    answer = web_ui.img2img(**common, **full, mask_blur=3)
    made = np.asarray(answer.image)
    assert made.shape == WIDE.shape and np.array_equal(made[SPOT == 0], WIDE[SPOT == 0])
    box = (slice(24, 56), slice(89, 121))  # 20 by 10 and the padding, widened to a square
    settings = dict(image=WIDE[box], mask=SPOT[box] > 0, prompt="apple", seed=5, num_inference_steps=4)
    settings |= dict(strength=0.75, guidance_scale=7.0, scheduler="euler_a", resize_mode="stretch", negative_prompt="")
    part = WIDE.copy()
    part[box] = images.resize(alone(pipe, **settings), 32, 32, "stretch")
    assert np.array_equal(made, masks.blend(WIDE, part, masks.soften(SPOT > 0, 3)))
    assert notes(answer.info) == ["the part of 32x32 pixels at 89,24 was made at 32x32 and put back"]
    assert (answer.info["width"], answer.info["height"]) == (160, 96)


def test_full_res_follows_the_mask_to_the_edge_and_inverted(web_ui):
    common = dict(images=[Image.fromarray(WIDE)], prompt="apple", seed=5, steps=4, width=SIZE, height=SIZE)
    corner = np.zeros_like(SPOT)
    corner[-3:, :2] = 255
    for mask, invert in ((corner, 0), (255 - corner, 1)):
        given = dict(mask_image=Image.fromarray(mask), inpainting_mask_invert=invert, mask_blur=0)
        made = np.asarray(web_ui.img2img(**common, **given, inpaint_full_res=True, inpaint_full_res_padding=2).image)
        assert np.array_equal(made[corner == 0], WIDE[corner == 0]) and not np.array_equal(made, WIDE)
    with pytest.raises(RuntimeError, match="inpaint_full_res_padding must be from 0 to 4096"):
        web_ui.img2img(**common, mask_image=Image.fromarray(SPOT), inpaint_full_res=True, inpaint_full_res_padding=-1)
    black = web_ui.img2img(**common, mask_image=Image.fromarray(SPOT * 0), inpaint_full_res=True)
    assert black.image.size == (SIZE, SIZE) and "nothing was remade" in notes(black.info)[0]


# Enlarging


def test_pictures_are_enlarged(web_ui, raw):
    image = Image.fromarray(WIDE)
    made = web_ui.extra_single_image(image, upscaler_1="Lanczos", upscaling_resize=1.5)
    assert np.array_equal(np.asarray(made.image), images.resize(WIDE, 240, 144, "stretch"))
    body = dict(image=in_base64(images.encode(WIDE, ".png")), upscaler_1="R-ESRGAN 4x+", resize_mode=1)
    made = raw.post(
        "/sdapi/v1/extra-single-image", json=body | dict(upscaling_resize_w=64, upscaling_resize_h=64)
    ).json()
    assert pixels(made["image"]).shape == (64, 64, 3) and made["html_info"].startswith("enlarged by Lanczos")
    body |= dict(upscaling_resize_w=64, upscaling_resize_h=64, upscaling_crop=False)
    assert pixels(raw.post("/sdapi/v1/extra-single-image", json=body).json()["image"]).shape == (38, 64, 3)
    several = web_ui.extra_batch_images([image, image], upscaler_1="None")
    assert [np.array_equal(np.asarray(one), WIDE) for one in several.images] == [True, True]


def test_what_is_enlarged_keeps_its_text_and_its_label(raw):
    sent = images.encode(WIDE, ".png", {"parameters": "apple"}, label={"AISystemUsed": "tiny"})
    answer = raw.post("/sdapi/v1/extra-single-image", json=dict(image=in_base64(sent), upscaler_1="Lanczos")).json()
    data = decoded(answer["image"])
    assert images.read_text(data) == {"parameters": "apple"} and images.read_label(data) == {"AISystemUsed": "tiny"}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (dict(upscaling_resize=0), "upscaling_resize"),
        (dict(upscaling_resize=9), "upscaling_resize"),
        (dict(resize_mode=2), "resize_mode"),
        (dict(resize_mode=1, upscaling_resize_w=0), "upscaling_resize_w"),
        (dict(resize_mode=1, upscaling_resize_w=4096, upscaling_resize_h=4097), "upscaling_resize_h"),
        (dict(image="AAAA"), "image"),
        (dict(image=None), "image"),
    ],
)
def test_enlarging_names_the_field_at_fault(raw, wrong, field):
    answer = raw.post("/sdapi/v1/extra-single-image", json=dict(image=in_base64(png())) | wrong)
    assert answer.status_code == 400 and answer.json()["errors"] == field


# Programs


def test_open_web_ui_makes_a_picture(raw):
    """Its engine for AUTOMATIC1111: options there and back, models, a picture from text, `info` as JSON in text."""
    login = {"authorization": "Basic " + in_base64(b"user:password")}
    options = raw.get("/sdapi/v1/options", headers=login).json()
    (model,) = raw.get("/sdapi/v1/sd-models", headers=login).json()
    assert options["sd_model_checkpoint"] == model["title"] and model["model_name"]
    raw.post("/sdapi/v1/options", json=options, headers=login).raise_for_status()
    body = dict(prompt="apple", batch_size=1, width=512, height=512, steps=4, negative_prompt="")
    answer = raw.post("/sdapi/v1/txt2img", json=body, headers=login).json()
    assert pixels(answer["images"][0]).shape == (512, 512, 3)
    assert json.loads(answer["info"])["all_prompts"] == ["apple"]


def test_silly_tavern_makes_a_picture(raw):
    """Its source for AUTOMATIC1111: lists, a change of model until nothing runs, a picture from text, interrupt."""
    for name in ("options", "upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "samplers", "schedulers"):
        assert raw.get(f"/sdapi/v1/{name}").status_code == 200
    title = raw.get("/sdapi/v1/sd-models").json()[0]["title"]
    raw.post("/sdapi/v1/options", json={"sd_model_checkpoint": title}).raise_for_status()
    progress = raw.get("/sdapi/v1/progress").json()
    assert progress["progress"] == 0 and progress["state"]["job_count"] == 0
    body = dict(
        prompt="apple", negative_prompt="", sampler_name="Euler a", scheduler="normal", steps=4, cfg_scale=7,
        width=512, height=512, restore_faces=False, enable_hr=False, hr_upscaler="Latent", hr_scale=2,
        denoising_strength=0.7, hr_second_pass_steps=0, seed=None, clip_skip=1, save_images=True, send_images=True,
        do_not_save_grid=False, do_not_save_samples=False, override_settings=dict(CLIP_stop_at_last_layers=1),
        override_settings_restore_afterwards=True,
    )  # fmt: skip
    answer = raw.post("/sdapi/v1/txt2img", json=body).json()
    assert pixels(answer["images"][0]).shape == (512, 512, 3)
    raw.post("/sdapi/v1/interrupt").raise_for_status()


def test_the_photoshop_plug_in_finds_what_it_asks_for(raw):
    names = ("options", "samplers", "sd-models", "loras", "embeddings", "upscalers", "scripts")
    for path in (*(f"/sdapi/v1/{name}" for name in names), "/sdapi/v1/progress?skip_current_image=false",
                 "/config", "/user", "/controlnet/version", "/controlnet/module_list", "/controlnet/model_list",
                 "/controlnet/settings"):  # fmt: skip
        assert raw.get(path).status_code == 200
    answer = raw.post("/sdapi/v1/interrogate", json=dict(image=in_base64(png()), model="clip"))
    assert answer.status_code == 404 and "no model here that describes" in answer.json()["detail"]


def test_webuiapi_finds_every_list(web_ui):
    for name in ("artist_categories", "artists", "prompt_styles", "realesrgan_models", "hypernetworks",
                 "face_restorers", "latent_upscale_modes", "sd_vae"):  # fmt: skip
        assert getattr(web_ui, f"get_{name}")() == []
    assert [row["name"] for row in web_ui.get_upscalers()] == ["None", "Lanczos"]


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


def records_of(text: str) -> dict:
    return json.loads(images.read_text(decoded(text))["ssd1b"])

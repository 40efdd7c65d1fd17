"""What a picture's file says of how it was made, who can read it, and that it suffices to make it again."""

import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
import sd_parsers
from helpers import lora, tiny
from helpers.commands import run
from PIL import Image

from ssd1b_jax import Pipeline, Request, SaveError, images, records, replay
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.errors import ImageError, RecordError
from ssd1b_jax.records import Output, saving
from ssd1b_jax.records.reading import PARTS
from ssd1b_jax.samplers import SAMPLERS, canonical

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
PROMPT = "a: (b), é"
SETTINGS = dict(prompt=PROMPT, negative_prompt="blue, ugly", seed=2**40 + 1, scheduler="dpmpp_2m_karras", strength=0.75)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with an input that has secrets in its EXIF."""
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x010E] = "home address"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save("in.png", exif=exif)
    return tmp_path


@pytest.fixture
def pipe(tiny_pipe, commands_use_tiny_pipe):
    """The one that replays use too."""
    return tiny_pipe


@pytest.fixture
def result(pipe, here):
    return pipe(image="in.png", **SETTINGS)


def sha256_of(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewrite(path, **changes) -> None:
    """Change a sidecar: keys are dotted with double underscores."""
    record = json.loads(path.read_text())
    for keys, value in changes.items():
        *outer, last = keys.split("__")
        functools.reduce(dict.__getitem__, outer, record)[last] = value
    path.write_text(json.dumps(record))


# the record


def test_a_record_says_everything(result, here, tiny_folder):
    record = result.record
    assert record["format"] == 1 and record["steps_run"] == result.steps_run == 4
    resolved = dataclasses.asdict(dataclasses.replace(result.request, image=None))
    said = dict(record["request"])
    data = (here / "in.png").read_bytes()
    assert said.pop("image") == dict(name="in.png", sha256=hashlib.sha256(data).hexdigest(), width=40, height=40)
    del resolved["image"]
    assert json.loads(json.dumps(resolved)) == said
    assert record["pixels"] == dict(sha256=images.sha256(result.pixels), width=tiny.SIZE, height=tiny.SIZE)
    manifest = json.loads((tiny_folder / "model.json").read_text())
    expected = dict(name=str(tiny_folder), source="random weights", revision=None, sha256=manifest["sha256"])
    assert record["model"] == expected
    assert record["versions"]["jax"] == jax.__version__ and {"ssd1b_jax", "python"} <= record["versions"].keys()
    assert record["device"] == dict(platform="cpu", kind="cpu") and record["machine"]["cores"] >= 1
    assert set(record["dtype"].values()) == {"float32"} and record["per_device"] == 1 and record["loras"] == {}


def test_the_bytes_of_a_file_have_its_sha256_and_no_name(pipe, result, here):
    said = pipe(image=(here / "in.png").read_bytes(), **SETTINGS).record["request"]["image"]
    assert said == result.record["request"]["image"] | dict(name=None)


def test_equal_pictures_have_equal_records(pipe, result):
    again = pipe(image="in.png", **SETTINGS)
    assert records.dumps(again.record) == records.dumps(result.record)
    other = pipe(image="in.png", **SETTINGS | dict(seed=3))
    assert [phrase.split(":")[0] for phrase in records.differences(result.record, other.record)] == ["request.seed"]


def test_a_record_names_files_without_their_folders(pipe, here):
    (here / "private").mkdir()
    shutil.move("in.png", "private/in.png")
    made = pipe(image=here / "private" / "in.png", **SETTINGS)
    assert made.record["request"]["image"]["name"] == "in.png"
    made.save("private/a.png")
    assert b"private" not in (here / "private" / "a.png").read_bytes()
    assert replay.read("private/a.png").request.image == Path("private/in.png")


def test_a_picture_in_memory_goes_by_its_pixels(pipe):
    pixels = images.load("in.png").pixels
    for source in (pixels, Image.fromarray(pixels)):
        said = pipe(image=source, **SETTINGS).record["request"]["image"]
        assert said == dict(name=None, sha256=images.sha256(pixels), width=40, height=40)


def test_differences_name_what_differs():
    then = dict(versions=dict(jax="1"), flags={}, dtype=dict(unet="float32"), pixels=dict(sha256="a"))
    now = dict(versions=dict(jax="2"), flags=dict(XLA_FLAGS="--x"), dtype=dict(unet="float32"), pixels=dict(sha256="b"))
    assert records.differences(then, now) == ["flags.XLA_FLAGS: none then, --x now", "versions.jax: 1 then, 2 now"]
    assert records.differences(then, then) == []


# what others read


def test_parameters_are_what_a1111_writes(result):
    record = json.loads(records.dumps(result.record))
    record["model"].update(name="models/fine, new", sha256="0123456789abcdef")
    assert records.parameters(record) == (
        f"{PROMPT}\nNegative prompt: blue, ugly\nSteps: 6, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, "
        f'Seed: {2**40 + 1}, Size: 32x32, Model hash: 0123456789, Model: "fine, new", Denoising strength: 0.75, '
        'RNG: JAX, Version: ssd1b_jax 0.1.0, Hashes: {"model": "0123456789"}'
    )
    record["request"] |= dict(negative_prompt="", noise="torch", scheduler="euler_a", guidance_scale=7.5)
    record["request"] |= dict(variation_seed=0, variation_strength=0.25, clip_skip=1, mask_blur=4.0)
    record["loras"] = dict(style=dict(name="style.safetensors", sha256="fedcba9876543210"))
    assert records.parameters(record) == (
        f"{PROMPT}\nSteps: 6, Sampler: Euler a, CFG scale: 7.5, Seed: {2**40 + 1}, Size: 32x32, "
        'Model hash: 0123456789, Model: "fine, new", Variation seed: 0, Variation seed strength: 0.25, '
        "Denoising strength: 0.75, Clip skip: 3, RNG: CPU, Mask blur: 4, "
        'Lora hashes: "style: fedcba9876", Version: ssd1b_jax 0.1.0, '
        'Hashes: {"model": "0123456789", "lora:style": "fedcba9876"}'
    )


def test_every_sampler_has_a_label_that_leads_back():
    for name, sampler in SAMPLERS.items():
        assert canonical(f"{sampler.label} {sampler.schedule}") == name


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_another_library_reads_the_settings(result, suffix):
    result.save(f"a.{suffix}")
    info = sd_parsers.ParserManager().parse(f"a.{suffix}")
    assert info.generator == sd_parsers.data.Generators.AUTOMATIC1111
    (sampler,) = info.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters == dict(cfg_scale="3", seed=str(2**40 + 1), steps="6", scheduler="Karras")
    assert [prompt.value for prompt in sampler.prompts] == [PROMPT]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blue, ugly"]
    assert sampler.model.hash == result.record["model"]["sha256"][:10]


# in files


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_has_the_record_and_nothing_of_the_input(result, here, suffix):
    path = here / f"a.{suffix}"
    result.save(path, upscale=2, embed_input=suffix == "png")
    record = records.read(path)
    enlarged = images.upscale(result.pixels, 2)
    assert record.pop("written") == dict(name=path.name, upscale=2, sha256=images.sha256(enlarged))
    assert record == json.loads(records.dumps(result.record))
    assert b"home address" in (here / "in.png").read_bytes() and b"home address" not in path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_says_that_a_program_made_it(result, here, suffix):
    """As any reader of XMP finds it; the pixels are those of a file without a label."""
    path = here / f"a.{suffix}"
    result.save(path)
    with Image.open(path) as picture:
        (described,) = ElementTree.fromstring(picture.info["xmp"]).iter(f"{RDF}Description")
    described = {name.removeprefix(IPTC): value for name, value in described.items()}
    assert described["DigitalSourceType"] == f"{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"
    assert described["AISystemUsed"] == "ssd1b_jax, model tiny" and described["AISystemVersionUsed"] == "0.1.0"
    assert described["AIPromptInformation"] == PROMPT
    assert images.read_label(path) == records.label(result.record)
    bare = images.encode(result.pixels, f".{suffix}")
    np.testing.assert_array_equal(images.load(path).pixels, images.load(bare).pixels)


def test_a_label_says_what_a_picture_was_made_from(result):
    record = json.loads(records.dumps(result.record))
    record["request"] |= dict(image=None, prompt="a\x00b\ud800" + "c" * 3000)
    label = records.label(record)
    assert label["DigitalSourceType"] == f"{SOURCE_TYPE}trainedAlgorithmicMedia"
    assert label["AIPromptInformation"].startswith("a b c") and len(label["AIPromptInformation"]) == 2001
    written = images.encode(result.pixels, ".jpg", label=label)
    assert images.read_label(written) == label and images.read_text(written) == {}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_no_metadata_means_none(result, here, suffix):
    path = here / f"a.{suffix}"
    result.save(path, metadata=False)
    assert path.read_bytes() == images.encode(result.pixels, f".{suffix}")
    assert (
        images.read_text(path) == images.read_attached(path) == {}
        and not Image.open(io.BytesIO(path.read_bytes())).getexif()
    )
    with pytest.raises(RecordError, match="does not say how it was made"):
        records.read(path)
    result.save(path, metadata=False, sidecar=True)
    assert path.read_bytes() == images.encode(result.pixels, f".{suffix}")
    assert sorted(os.listdir()) == sorted([path.name, "a.json", "in.png"])
    assert records.read(path) == records.read("a.json") == json.loads((here / "a.json").read_text())


def test_the_input_is_embedded_as_it_was_prepared(result):
    result.save("a.png", embed_input=True)
    (data,) = records.embedded("a.png").values()
    prepared = images.resize(images.load("in.png").pixels, tiny.SIZE, tiny.SIZE, "crop")
    np.testing.assert_array_equal(images.load(data).pixels, prepared)
    images.save(prepared, "in.png")
    with pytest.raises(ImageError, match="the image has changed since the picture was made"):
        result.save("b.png", embed_input=True)
    for path, how in {"b.jpg": {}, "b.png": dict(metadata=False)}.items():
        with pytest.raises(ImageError, match="the input (can be|is) embedded"):
            result.save(path, embed_input=True, **how)
    assert sorted(os.listdir()) == ["a.png", "in.png"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("{", "its record of how it was made is damaged or foreign"),
        ("[]", "its record of how it was made is damaged or foreign"),
        ('{"format": 1}', "its record of how it was made is damaged or foreign"),
        ('{"format": 2}', "its record has format 2, this version reads 1"),
        ("[" * 100_000, "its record of how it was made is damaged or foreign"),
    ],
)
def test_records_that_cannot_be_read(here, said, sentence):
    images.save(np.zeros((8, 8, 3), np.uint8), "a.png", {"ssd1b": said})
    (here / "b.json").write_text(said)
    for name in ("a.png", "b.json"):
        with pytest.raises(RecordError, match=f"{name}: {sentence}"):
            records.read(name)


def test_every_part_of_a_record_is_checked(result, here):
    for changes in (
        *({part.replace(" ", "__"): None} for part in PARTS),
        dict(request__mask="x"),
        dict(request__image__name=3),
        dict(loras=dict(a=dict(name="a"))),
    ):
        (here / "a.json").unlink(missing_ok=True)
        result.save("a.png", sidecar=True)
        records.read("a.json")
        rewrite(here / "a.json", **changes)
        with pytest.raises(RecordError, match="damaged or foreign"):
            records.read("a.json")


@pytest.mark.parametrize("upscale", [0, 9, 10**6, True])
def test_a_record_cannot_ask_for_a_giant(capsys, result, here, upscale):
    result.save("a.png", sidecar=True)
    rewrite(here / "a.json", written__upscale=upscale)
    code, _, err = run(capsys, "replay", "a.json", "-o", "b.png")
    sentence = f"upscale must be a whole number from 1 to 8, got {upscale}"
    assert (code, err) == (2, f"error: a.json: its record cannot be followed: {sentence}\n")


@pytest.mark.parametrize("count", [0, -1, 257, 10**9, True])
def test_a_record_cannot_ask_for_a_giant_batch(capsys, result, here, count):
    result.save("a.png", sidecar=True)
    rewrite(here / "a.json", per_device=count)
    code, _, err = run(capsys, "replay", "a.json")
    sentence = f"per_device must be a whole number from 1 to 256, got {count}"
    assert (code, err) == (2, f"error: a.json: its record cannot be followed: {sentence}\n")


@pytest.mark.parametrize("row", [-1, 2, "0", None])
def test_a_record_cannot_ask_for_a_row_that_is_not_there(capsys, result, here, row):
    result.save("a.png", sidecar=True)
    rewrite(here / "a.json", per_device=2, row=row)
    sentence = f"a batch of 2 has no row {row!r}"
    assert run(capsys, "replay", "a.json")[::2] == (2, f"error: a.json: its record cannot be followed: {sentence}\n")


@pytest.mark.slow
def test_a_picture_is_made_again_in_its_row(tiny_model, tiny_folder, here):
    pipe = Pipeline(tiny_model, devices=Devices(jax.devices()[:1], 2))
    made = pipe.generate(Request(image="in.png", **SETTINGS) for _ in range(2))
    assert sorted(result.record["row"] for result in made) == [0, 1]
    last = next(result for result in made if result.record["row"] == 1)
    saved = last.save("b.png")
    again = replay.run(replay.read(saved.picture, model=tiny_folder))
    assert again.identical and again.result.record["row"] == 1


@pytest.mark.parametrize(("length", "kept"), [(32_000, {"parameters", "ssd1b"}), (40_000, {"ssd1b"}), (70_000, set())])
def test_a_long_prompt_costs_no_picture(result, here, length, kept):
    """A JPEG has 64 KB of EXIF, with two bytes a letter, and as much of XMP."""
    long = dataclasses.replace(
        result, record={**result.record, "request": result.record["request"] | dict(prompt="x" * length)}
    )
    assert len(long.save("a.jpg").notes) == 2 - len(kept)
    assert images.read_text("a.jpg").keys() == kept and (here / "a.json").exists() == ("ssd1b" not in kept)
    assert records.read("a.jpg")["request"]["prompt"] == "x" * length
    for suffix in ("png", "webp"):
        assert long.save(f"b.{suffix}") == (Path(f"b.{suffix}"), None, ()) and len(images.read_text(f"b.{suffix}")) == 2


def test_quality_and_format_are_taken(result, here):
    sizes = [result.save(f"{quality}.jpg", quality=quality).picture.stat().st_size for quality in (20, 95)]
    assert sizes[0] < sizes[1]
    output = Output(format="jpeg", upscale=2)
    with pytest.raises(ImageError, match=r"the name of a jpeg file must end in .jpg or .jpeg, got 'a.png'"):
        result.save("a.png", output)
    result.save("a.jpeg", output, sidecar=True)
    assert records.read("a.json")["written"]["upscale"] == 2


def test_a_picture_that_cannot_be_encoded_leaves_no_empty_file(result, here):
    (here / "in.png").write_bytes(images.encode(result.pixels, ".png"))
    with pytest.raises(ImageError, match="the image has changed"):
        result.save("a.png", embed_input=True, overwrite=False)
    assert os.listdir() == ["in.png"]


def test_a_result_shows_itself(result):
    assert np.array_equal(images.load(result._repr_png_()).pixels, result.pixels)
    text = repr(result)
    assert text.startswith("Result(32 x 32, 4 steps, ") and "Request(image='in.png', prompt=" in text
    assert len(text) < 600


def test_a_save_says_what_it_wrote(result, here):
    assert result.save("a.png") == (Path("a.png"), None, ())
    (here / "a.png").unlink()
    assert result.save("a.webp", sidecar=True) == (Path("a.webp"), Path("a.json"), ())
    assert result.save("a.webp", sidecar=True).sidecar == Path("a.json"), "a sidecar of ours is replaced"


@pytest.mark.parametrize("said", ['{"mine": 1}', "[]", "precious", '{"format": 1}', ""])
def test_a_file_of_anothers_is_never_replaced(capsys, result, here, said):
    (here / "a.json").write_text(said)
    with pytest.raises(SaveError, match="a.json: cannot be saved: a file is there that is no record of a.png: move"):
        result.save("a.png", sidecar=True)
    assert not (here / "a.png").exists()
    long = result.record["request"] | dict(prompt="x" * 70_000)
    saved = dataclasses.replace(result, record={**result.record, "request": long}).save("a.jpg")
    assert saved.sidecar is None and "is lost, for a.json is of another picture or program" in saved.notes[-1]
    assert images.load("a.jpg").pixels.shape == result.pixels.shape and (here / "a.json").read_text() == said


def test_files_that_are_no_records(here):
    for name, sentence in {
        "no.png": "no.png: cannot be read: no such file or directory",
        "no.json": "no.json: cannot be read: no such file or directory",
        "in.png": "in.png: does not say how it was made",
    }.items():
        with pytest.raises(ValueError) as error:
            records.read(name)
        assert str(error.value).lower().startswith(sentence)


# made again


@pytest.mark.parametrize(("name", "how"), [("a.png", {}), ("a.png", dict(upscale=3)), ("a.jpg", {}), ("a.webp", {})])
def test_a_picture_is_made_again(capsys, result, name, how):
    result.save(name, **how)
    assert run(capsys, "replay", name) == (0, f"{name}: made again, all pixels are identical\n", "")


def test_a_sidecar_is_enough(capsys, result, here):
    result.save("a.png", sidecar=True, metadata=False)
    assert run(capsys, "replay", "a.png")[0] == 0
    (here / "a.png").unlink()
    assert run(capsys, "replay", "a.json") == (0, "a.json: made again, all pixels are identical\n", "")


def test_an_embedded_input_makes_the_file_enough(capsys, result, here):
    result.save("a.png", embed_input=True, upscale=2)
    (here / "in.png").unlink()
    assert run(capsys, "replay", "a.png", "-o", "b.png")[0] == 0
    assert (images.load("a.png").pixels == images.load("b.png").pixels).all()
    assert run(capsys, "replay", "b.png")[0] == 0


@pytest.mark.parametrize("output", ["a.png", "in.png"])
def test_what_is_made_again_never_replaces_what_it_was_made_from(capsys, result, here, output):
    result.save("a.png")
    before = (here / output).read_bytes()
    code, out, err = run(capsys, "replay", "a.png", "-o", output)
    assert (code, out) == (2, "")
    assert err == f"error: {output} is an input, which would be lost: choose another output\n"
    assert (here / output).read_bytes() == before


@pytest.mark.slow
def test_every_setting_is_made_again(capsys, pipe, here):
    """None of them at its default, and the mask not of the image's size; `fast` stands for some of them."""
    mask = np.random.default_rng(1).integers(0, 2, (9, 5, 1), np.uint8)
    images.save(255 * mask.repeat(3, axis=-1), "mask.png")
    settings = dict(
        **SETTINGS | dict(scheduler="DPM++ 2M SDE", num_inference_steps=5),
        prompt_2="a fish", negative_prompt_2="", prompt_weights=False, clip_skip=1, exact_steps=True,
        timestep_spacing="trailing", guidance_scale=4.5, guidance_rescale=0.5, guidance_interval=(0.2, 0.9),
        noise="torch", variation_seed=7, variation_strength=0.3, mask="mask.png", mask_blur=2, mask_invert=True,
        width=40, height=32, resize_mode="pad", original_size=(64, 64), target_size=(16, 32),
        crops_coords_top_left=(1, 2), negative_original_size=(8, 8), negative_target_size=(9, 9),
        negative_crops_coords_top_left=(0, 3),
    )  # fmt: skip
    for field in dataclasses.fields(Request):
        assert field.name in {*settings, "image", "loras", "fast"} and settings.get(field.name, "set") != field.default
    made = pipe(image="in.png", **settings)
    made.save("a.png")
    note = "note: torch's noise reads 32 bits of a seed: 1099511627777 is 1 to it\n"
    again = 0, "a.png: made again, all pixels are identical\n", note
    assert run(capsys, "replay", "a.png") == again
    made.save("a.png", embed_input=True)
    (here / "in.png").rename("other.png")
    (here / "mask.png").rename("other-mask.png")
    assert run(capsys, "replay", "a.png") == again
    code, out, err = run(capsys, "replay", "a.png", "--image", "other.png")
    assert code == 2 and err.startswith("error: a.png: its mask is neither beside it nor at 'mask.png'")
    given = ("--image", "other.png", "--mask", "other-mask.png")
    assert run(capsys, "replay", "a.png", *given) == again


@pytest.mark.usefixtures("each_way_of_loading")
def test_a_picture_without_an_input_is_made_again(capsys, pipe, here):
    made = pipe(image=None, prompt="a cat", seed=3)
    assert made.request.strength == 1 and made.record["request"]["image"] is None
    saved = made.save("a.png", embed_input=True)
    assert "Denoising strength" not in images.read_text(saved.picture)["parameters"]
    assert run(capsys, "replay", "a.png") == (0, "a.png: made again, all pixels are identical\n", "")


@pytest.mark.slow
def test_a_picture_with_a_lora_is_made_again(capsys, tiny_folder, here):
    """All by the command line."""
    lora.write(here / "style.safetensors", lora.kohya(tiny.tiny_config()).items())
    arguments = ("img2img", "in.png", "a cat", "--model", tiny_folder, "--seed", 1, "--quiet")
    assert run(capsys, *arguments, "-o", "plain.png")[0] == 0
    assert run(capsys, *arguments, "-o", "a.png", "--lora", "style.safetensors:0.5")[0] == 0
    assert (images.load("plain.png").pixels != images.load("a.png").pixels).any()
    record, digest = records.read("a.png"), hashlib.sha256((here / "style.safetensors").read_bytes()).hexdigest()
    assert record["loras"] == {"style": dict(name="style.safetensors", sha256=digest)}
    assert record["request"]["loras"] == {"style": 0.5}
    (here / "style.safetensors").rename("moved.safetensors")
    assert run(capsys, "replay", "a.png")[0] == 2
    moved = ("--lora", "style=moved.safetensors")
    assert run(capsys, "replay", "a.png", *moved) == (0, "a.png: made again, all pixels are identical\n", "")


@pytest.mark.slow
def test_a_png_alone_is_made_again_in_another_process(result, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone")
    result.save(alone / "a.png", embed_input=True)
    command = [sys.executable, "-m", "ssd1b_jax.cli", "replay", "a.png"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    run = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "a.png: made again, all pixels are identical\n")


def test_what_differs_is_said_and_measured(capsys, result, here):
    worse = result.pixels.copy()
    worse[0, 0, 0] ^= 8
    record = json.loads(records.dumps(result.record))
    record["versions"]["jax"] = "0.1"
    saving.save(worse, "a.png", records.with_pixels(record, worse), result.request, Output())
    code, out, err = run(capsys, "replay", "a.png")
    assert code == 1 and err == ""
    assert out == (
        f"a.png: made again, pixels differ, by up to 8 and {8 / worse.size:.3g} on average of 255\n"
        f"  versions.jax: 0.1 then, {jax.__version__} now\n"
    )
    saving.save(worse, "a.jpg", records.with_pixels(record, worse), result.request, Output())
    assert run(capsys, "replay", "a.jpg")[1].startswith("a.jpg: made again, pixels differ\n")


def test_an_edited_png_is_noticed(capsys, result):
    result.save("a.png")
    images.save(result.pixels[::-1], "a.png", images.read_text("a.png"))
    code, out, err = run(capsys, "replay", "a.png")
    assert (code, err) == (1, "")
    assert out.startswith("a.png: made again, as it is recorded; but a.png has other pixels: it was edited, or the")


def test_a_sidecar_is_of_its_own_picture(capsys, result, here):
    """By its digest, or by the pixels of a PNG; a name alone is not enough where more is known."""
    result.save("a.jpg", sidecar=True, metadata=False)
    assert json.loads((here / "a.json").read_text())["written"]["file"] == sha256_of(here / "a.jpg")
    assert run(capsys, "replay", "a.jpg")[0] == 0
    (here / "a.jpg").rename("b.jpg")
    (here / "a.json").rename("b.json")
    assert run(capsys, "replay", "b.jpg")[0] == 0  # both were renamed
    images.save(result.pixels[::-1], "b.jpg")
    code, _, err = run(capsys, "replay", "b.jpg")
    assert code == 2 and "b.json: is not the record of b.jpg but of a.jpg; give b.json to make that one again" in err
    images.save(result.pixels[::-1], "a.png")
    result.save("c.png", sidecar=True, metadata=False)
    images.save(result.pixels[::-1], "c.png")
    assert "but of other pixels: the picture was changed" in run(capsys, "replay", "c.png")[2]
    code, out, _ = run(capsys, "replay", "c.json")
    assert code == 1 and "made again, as it is recorded; but c.png has other pixels" in out


def test_a_sidecar_without_a_digest_goes_by_name(capsys, result, here):
    """As those were that are older."""
    result.save("a.jpg", sidecar=True, metadata=False)
    record = json.loads((here / "a.json").read_text())
    del record["written"]["file"]
    (here / "a.json").write_text(json.dumps(record))
    assert run(capsys, "replay", "a.jpg")[0] == 0
    record["written"]["name"] = "other.jpg"
    (here / "a.json").write_text(json.dumps(record))
    assert "a.json: is not the record of a.jpg but of other.jpg" in run(capsys, "replay", "a.jpg")[2]


def test_two_pictures_never_share_a_sidecar(result, here):
    result.save("a.png", sidecar=True)
    first = (here / "a.json").read_bytes()
    with pytest.raises(SaveError, match="a.json: cannot be saved: a file is there that is no record of a.webp: move"):
        result.save("a.webp", sidecar=True)
    assert not (here / "a.webp").exists() and (here / "a.json").read_bytes() == first
    (here / "a.png").unlink()
    assert result.save("a.webp", sidecar=True).sidecar == Path("a.json"), "the record of a picture that is gone"


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr(replay, "Pipeline", None)


def test_the_input_is_looked_for_and_checked(capsys, no_weights, result, here):
    (here / "made").mkdir()
    result.save("made/a.png")
    assert replay.read("made/a.png").request.image.name == "in.png"  # from here
    shutil.move("in.png", "made/in.png")
    assert str(replay.read("made/a.png").request.image) == "made/in.png"  # beside it
    shutil.copy("made/in.png", "in.png")
    images.save(np.zeros((8, 8, 3), np.uint8), "made/in.png")
    assert str(replay.read("made/a.png").request.image) == "in.png"  # the one that it was
    images.save(np.zeros((8, 8, 3), np.uint8), "in.png")
    code, _, err = run(capsys, "replay", "made/a.png")
    assert code == 2 and err.startswith("error: made/a.png: its image has changed (made/in.png): give it as image")
    code, _, err = run(capsys, "replay", "made/a.png", "--image", "in.png")
    assert code == 2 and err.startswith("error: in.png is not the image of made/a.png")
    for path in ("in.png", "made/in.png"):
        (here / path).unlink()
    code, _, err = run(capsys, "replay", "made/a.png")
    assert code == 2 and "its image is neither beside it nor at 'in.png'" in err and err.count("\n") == 1


def test_an_input_without_a_file_can_be_given(capsys, no_weights, pipe):
    pixels = images.load("in.png").pixels
    pipe(image=pixels, **SETTINGS).save("a.png")
    code, _, err = run(capsys, "replay", "a.png")
    assert code == 2 and err.startswith("error: a.png: its image was no file")
    images.save(pixels, "b.png")
    assert replay.read("a.png", image="b.png").request.image.name == "b.png"


def test_the_model_is_looked_for_and_checked(capsys, no_weights, result, here, tiny_folder):
    result.save("a.png", sidecar=True)
    rewrite(here / "a.json", model__name="nowhere")
    code, _, err = run(capsys, "replay", "a.json")
    assert code == 2 and err.startswith("error: a.json: its model 'nowhere' is not to be had: give another as model (")
    assert replay.read("a.json", model=tiny_folder).notes == ()
    rewrite(here / "a.json", model__name=str(tiny_folder), model__sha256="0" * 64)
    code, _, err = run(capsys, "replay", "a.json")
    assert code == 2 and err.startswith("error: a.json: its model has changed (sha256 0000000000… made the picture, ")
    (note,) = replay.read("a.json", model=tiny_folder).notes
    assert note.startswith("another model (sha256 0000000000…")
    code, _, err = run(capsys, "replay", "a.json", "--model", "sdxl")
    assert code == 2 and err.startswith("error: no model folder at 'sdxl'")


@pytest.mark.usefixtures("one_device")
def test_a_prompt_may_name_a_lora_that_is_loaded(tiny_folder, here):
    """Its tag is then no part of the prompt; one of another name stays, and is told."""
    lora.write(here / "style.safetensors", lora.kohya(tiny.tiny_config()).items())
    pipe = Pipeline.from_pretrained(tiny_folder, loras={"style": here / "style.safetensors"})
    plain = pipe(image="in.png", prompt="a cat", loras={"style": 0.5}, seed=1)
    tagged = pipe(image="in.png", prompt="a cat <lora:style:0.5>", seed=1)
    assert np.array_equal(plain.pixels, tagged.pixels) and tagged.notes == ()
    assert tagged.record["request"]["prompt"] == "a cat" and tagged.record["request"]["loras"] == {"style": 0.5}
    other = pipe(image="in.png", prompt="a cat <lora:x:1>", seed=1)
    assert "the prompt has a LoRA's tag, '<lora:x:1>', which is taken as words" in other.notes[0]


@pytest.mark.usefixtures("one_device")
def test_a_lora_that_fits_in_part_is_told_and_made_again(capsys, tiny_folder, here):
    tensors = lora.kohya(tiny.tiny_config())
    strange = {"lora_unet_middle_block_9_x.lora_down.weight": lora.draw(2, 2)}
    lora.write(here / "style.safetensors", (tensors | strange).items())
    arguments = ("img2img", "in.png", "a cat", "--seed", "3", "--model", tiny_folder, "-o", "a.png")
    code, _, err = run(capsys, *arguments, "--lora", "style.safetensors")
    assert code == 2 and err.endswith("; 3 of its 4 layers fit, which --lora-partial merges\n")
    code, _, err = run(capsys, *arguments, "--lora", "style.safetensors", "--lora-partial")
    assert code == 0 and "1 of the 4 layers of LoRA style are none of this model's: left out" in err
    assert records.read("a.png")["loras"]["style"]["partial"] is True
    assert run(capsys, "replay", "a.png")[0] == 0


def test_loras_are_looked_for_and_checked(capsys, no_weights, result, here):
    (here / "style.safetensors").write_bytes(b"style")
    said = dict(name="style.safetensors", sha256=hashlib.sha256(b"style").hexdigest())
    result.save("a.png", sidecar=True)
    rewrite(here / "a.json", loras=dict(style=said), request__loras=dict(style=0.5))
    recipe = replay.read("a.json")
    assert {name: str(file) for name, file in recipe.loras.items()} == {"style": "style.safetensors"}
    assert recipe.request.loras == {"style": 0.5}
    (here / "style.safetensors").write_bytes(b"other")
    code, _, err = run(capsys, "replay", "a.json")
    assert code == 2 and err.startswith(
        "error: a.json: its LoRA style has changed (style.safetensors): give it as lora"
    )
    for file, sentence in {
        "style.safetensors": "style.safetensors is not the LoRA style of a.json: its sha256 is not ",
        "none.safetensors": "no LoRA at 'none.safetensors': give a safetensors file",
    }.items():
        code, _, err = run(capsys, "replay", "a.json", "--lora", f"style={file}")
        assert code == 2 and err.startswith(f"error: {sentence}")
    code, _, err = run(capsys, "replay", "a.json", "--lora", "style.safetensors")
    assert code == 2 and err == "error: lora must be NAME=FILE, got 'style.safetensors'\n"


def test_a_record_of_other_settings_is_refused(capsys, no_weights, result, here):
    for changes, sentence in [
        (dict(request__magic=1), "a.json: has settings that this version does not know: magic"),
        (dict(request__strength=2), "strength must be in (0, 1], got 2"),
    ]:
        result.save("a.png", sidecar=True)
        rewrite(here / "a.json", **changes)
        code, _, err = run(capsys, "replay", "a.json")
        assert code == 2 and err.startswith(f"error: {sentence}") and err.count("\n") == 1


def test_another_model_is_tried_when_asked(capsys, result, here, tiny_folder):
    result.save("a.png", sidecar=True)
    rewrite(here / "a.json", model__sha256="0" * 64)
    code, out, err = run(capsys, "replay", "a.json", "--model", tiny_folder)
    assert code == 0 and err.startswith("note: another model")


def test_files_made_by_others_are_told(capsys, no_weights):
    code, out, err = run(capsys, "replay", "in.png")
    assert (code, out) == (2, "") and err.startswith("error: in.png: does not say how it was made")

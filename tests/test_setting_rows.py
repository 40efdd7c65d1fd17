"""The table of settings: requests, calls, outputs, the command line, the schema and the page all agree with it."""

import argparse
import dataclasses
import json
import typing
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny

from ssd1b_jax import ImageError, Output, Request, RequestError, config, images, settings
from ssd1b_jax.cli import settings as options
from ssd1b_jax.settings.fields import OutputFields, RequestFields
from ssd1b_jax.settings.page import page
from ssd1b_jax.settings.types import ResizeMode, Spacing

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("owner", "cls", "typed"), [("request", Request, RequestFields), ("output", Output, OutputFields)]
)
def test_a_setting_is_a_row_a_field_and_a_keyword(owner, cls, typed):
    rows = {row.name: row for row in settings.of(owner)}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(typed)
    assert sorted(rows) == sorted(fields) == sorted(hints)
    assert typed.__required_keys__ == {name for name, row in rows.items() if row.required}
    for name, row in rows.items():
        assert fields[name].type == hints[name]
        assert (type(None) in typing.get_args(hints[name])) == row.optional
        if not row.required and name != "loras":
            assert fields[name].default == row.default
            assert row.check(row.default) == row.default


def test_choices_are_those_of_their_owners():
    assert typing.get_args(Spacing) == config.SPACINGS
    assert typing.get_args(ResizeMode) == images.RESIZE_MODES


def test_every_setting_but_a_calls_is_an_option():
    parser = argparse.ArgumentParser()
    options.add(parser)
    names = {action.dest: action for action in parser._actions}
    rows = [row for row in settings.SETTINGS.values() if row.of != "call"]
    assert {row.name for row in rows} == names.keys() - {"help", "size", "memory_fraction"}  # no rows: other words
    assert all(row.required or names[row.name].option_strings == [row.flag] for row in rows)
    assert all((row.off or row.words) in names[row.name].help for row in rows)
    assert all(bool(row.off) == (row.default is True) for row in rows)
    assert "--upscale" in parser.format_help()


def test_the_schema_has_the_ranges_and_the_models_defaults():
    schema = settings.schema(tiny.tiny_config())
    json.dumps(schema)
    properties = schema["properties"]
    assert schema["required"] == ["image", "prompt"] and schema["additionalProperties"] is False
    strength = {key: properties["strength"][key] for key in ("type", "exclusiveMinimum", "maximum", "default")}
    assert strength == dict(type=["number", "null"], exclusiveMinimum=0.0, maximum=1.0, default=0.6)
    assert properties["seed"]["maximum"] == 2**64 - 1
    assert properties["width"]["multipleOf"] == 2 and properties["clip_skip"]["maximum"] == 1
    assert properties["noise"]["enum"] == ["jax", "torch", "nv"]
    grouped = [name for group in schema["groups"].values() for name in group["settings"]]
    assert sorted(grouped) == sorted(properties)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("denoising_strength", "strength"),
        ("--cfg-scale", "guidance_scale"),
        ("sampler_name", "scheduler"),
        ("subseed", "variation_seed"),
        ("num_step", "num_inference_steps"),
        ("stregth", "strength"),
        ("xyzzy", None),
    ],
)
def test_names_from_elsewhere_lead_to_the_setting(name, meant):
    assert settings.meant(name) == meant


def test_a_name_is_that_of_one_setting():
    names = [(name, row.name) for row in settings.SETTINGS.values() for name in {*row.names}]
    assert len({name for name, _ in names}) == len(names)


def test_the_page_is_current():
    """`python -m ssd1b_jax.settings > docs/settings.md` writes it."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page()


def test_a_request_goes_through_json():
    request = Request(image="a.png", prompt="a cat", mask=b"\x89PNG", seed=3, guidance_interval=(0.1, 0.5))
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request and again != dataclasses.replace(request, mask=b"other")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    data = Request.from_dict(Request(image=pixels, prompt="a cat").to_dict()).image
    assert np.array_equal(images.load(data).pixels, pixels)
    with pytest.raises(RequestError, match="no setting is named 'steps': did you mean num_inference_steps?"):
        Request.from_dict(dict(image="a.png", prompt="a cat", steps=3))


def test_a_request_shows_what_was_set_and_no_pixels(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"12345")
    with (tmp_path / "a.bin").open("rb") as file:
        request = Request(image=file, mask=np.zeros((4, 5), np.uint8), prompt="a cat", strength=0.5)
    assert repr(request) == "Request(image=<5 bytes>, prompt='a cat', strength=0.5, mask=<array 4 x 5 uint8>)"
    assert repr(Request(image=None, prompt="x" * 500)) == f"Request(prompt='{'x' * 80}'…)"


def test_outputs_check_themselves():
    for fields, sentence in {
        ("upscale", 9): "upscale must be a whole number from 1 to 8, got 9",
        ("quality", 0): "quality must be a whole number from 1 to 100, got 0",
        ("format", "gif"): "format must be one of png, jpeg, webp, got 'gif'",
        ("metadata", 1): "metadata must be True or False, got 1",
    }.items():
        with pytest.raises(RequestError, match=sentence):
            Output(**dict([fields]))
    with pytest.raises(ImageError, match=r"the name of a webp file must end in .webp, got 'a.png'"):
        Output(format="webp").check("a.png")


def test_a_name_that_is_taken_is_left_alone(tmp_path):
    output = Output(overwrite=False)
    names = [output.place(tmp_path / "a.png").name for _ in range(3)]
    assert names == ["a.png", "a-2.png", "a-3.png"]
    (tmp_path / "b.json").write_text("{}")
    assert output.place(tmp_path / "b.png").name == "b-2.png"
    assert Output().place(tmp_path / "a.png").name == "a.png"

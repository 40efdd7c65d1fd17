"""Prompts with choices and wildcards: chosen by the seed, the same in every run, wrong ones told."""

import json
from pathlib import Path

import pytest
from helpers.commands import run as command

from ssd1b_jax import Request, RequestError, runs
from ssd1b_jax.presets import emoji
from ssd1b_jax.runs import templates
from ssd1b_jax.runs.templates import Templates


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "words"
    (folder / "food").mkdir(parents=True)
    (folder / "color.txt").write_text("red\nblue\n")
    (folder / "food" / "fruit.txt").write_text("apple\npear  # the second\n")
    (folder / "again.txt").write_text("a __again__\n")
    return folder


def request(prompt: str, seed: int, **fields) -> Request:
    return Request(image=None, prompt=prompt, seed=seed, **fields).resolve(emoji())


def test_a_seed_chooses(here):
    expand = Templates(here).expand
    made = {seed: expand(request("a __color__ {cat|dog}, __food/fruit__", seed)).prompt for seed in range(40)}
    assert len(set(made.values())) == 8 and "a blue dog, pear" in made.values()
    again = Templates(here).expand
    assert made == {seed: again(request("a __color__ {cat|dog}, __food/fruit__", seed)).prompt for seed in made}
    both = expand(request("a cat", 1, negative_prompt="{dark|blurry}", guidance_scale=3.0))
    assert both.prompt == "a cat" and both.negative_prompt in ("dark", "blurry")


def test_weights_and_other_notations_stay(here):
    for kept in ("a (red:1.3) cat, [a:b:.5], <lora:x:0.8>", "logo #1,  50% gray"):
        assert Templates(here).expand(request(kept, 1)).prompt == kept


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a __nothing__", "prompt has a wildcard, __nothing__, but no file in .*words is of it"),
        ("a {cat|", "prompt is no template that dynamicprompts can read, 'a {cat|'"),
        ("a ${x}", "prompt is no template that dynamicprompts can read, 'a .{x}': '?Variable x is not defined"),
        ("{0::a|0::b}", "prompt is no template that dynamicprompts can read, .*: Total of weights"),
        ("a {cat|dog} #1", "prompt has a #, which begins a comment in a template"),
        ("{" * 600, "prompt is a template that is nested too deep, or a wildcard that holds itself"),
        ("a __again__", "prompt is a template that is nested too deep, or a wildcard that holds itself"),
    ],
)
def test_what_is_wrong_is_told(here, prompt, sentence):
    with pytest.raises(RequestError, match=sentence) as told:
        Templates(here).expand(request(prompt, 1))
    assert "\n" not in str(told.value)


def test_what_is_missing_is_told(here, monkeypatch):
    with pytest.raises(RequestError, match="wildcards must be a folder of files, got 'none'"):
        Templates(Path("none"))
    monkeypatch.setattr(templates, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"wildcards need dynamicprompts: run pip install 'ssd1b_jax\[wildcards\]'"):
        Templates()


def test_each_picture_of_a_line_has_its_own(here):
    Path("list.jsonl").write_text(json.dumps(dict(id="a", prompt="a __color__ {cat|dog}", seed=3, num_images=9)) + "\n")
    [line] = runs.read(Path("list.jsonl")).lines()
    plain = [item.request.prompt for item in runs.Defaults(config=emoji()).items(line)]
    chosen = [item.request.prompt for item in runs.Defaults(config=emoji(), templates=Templates(here)).items(line)]
    assert set(plain) == {"a __color__ {cat|dog}"}
    assert 1 < len(set(chosen)) and set(chosen) <= {
        f"a {color} {pet}" for color in ("red", "blue") for pet in ("cat", "dog")
    }


def test_a_folder_is_known_by_its_words(here):
    first = Templates(here).sha256
    assert first == Templates(here).sha256 != Templates().sha256
    (here / "color.txt").write_text("red\ngreen\n")
    assert Templates(here).sha256 != first


def test_the_command_checks_them(capsys, here):
    Path("list.jsonl").write_text('{"id": "a", "prompt": "a __color__ cat"}\n{"id": "b", "prompt": "a __x__"}\n')
    arguments = ("batch", "list.jsonl", "-o", "out", "--dry-run", "--no-time", "--wildcards")
    code, out, err = command(capsys, *arguments, here)
    assert code == 1 and "1 of them wrong" in out
    assert err.startswith("line 2 (b): prompt has a wildcard, __x__, but no file in")

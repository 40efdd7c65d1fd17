"""A model that lists its words says which of a prompt's it does not know."""

import json

import pytest
from helpers.commands import run

from ssd1b_jax import ModelError, Request
from ssd1b_jax.checkpoints.model_json import EMBEDDED, read_manifest
from ssd1b_jax.pipeline import planner
from ssd1b_jax.prompts.known import FILE, KnownWords

KNOWN = KnownWords("toy", {"a", "cat", "of", "on", "blue", "jack", "lantern", "o"}, {"kitten": "cat", "azure": "blue"})


@pytest.mark.parametrize(
    "prompt, named",
    [
        ("a cat on blue", None),
        ("A Cat, on BLUE", None),
        ("a jack-o'-lantern", None),
        ("2 (cat:1.3) 🐈", None),
        ("a kitten", "'kitten' (try 'cat')"),
        ("the bluee one", "'bluee' (try 'blue'), 'one' (try 'on')"),
        ("a watercolor of a watercolor", "'watercolor'"),
        ("oil painting of azure cats", "'oil', 'painting', 'azure' (try 'blue') and 1 more"),
    ],
)
def test_words_are_told_with_the_nearest(prompt, named):
    expected = [] if named is None else [f"toy does not know {named}: `ssd1b info` lists its words"]
    assert KNOWN.notes(prompt) == expected


def test_a_folder_may_list_its_words(tmp_path, tiny_folder):
    assert KnownWords.read(tiny_folder, "tiny") is None
    (tmp_path / FILE).write_text(json.dumps(dict(words=["a"])))
    assert KnownWords.read(tmp_path, "x").notes("a b") == ["x does not know 'b': `ssd1b info` lists its words"]
    for damaged in ("", "[]", '{"near": {}}', '{"words": 3}'):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(ModelError, match="is no list of words: copy the model again, or remove that file"):
            KnownWords.read(tmp_path, "x")


def test_a_picture_notes_what_the_embedded_model_does_not_know():
    plan = planner(read_manifest("emoji")).plan
    picture = dict(image=None, seed=1)
    assert plan(Request(prompt="a cat on a blue background", **picture)).notes == ()
    [note] = plan(Request(prompt="a kitten, watercolor", prompt_2="a kitten", **picture)).notes
    assert note == "emoji does not know 'kitten' (try 'cat'), 'watercolor': `ssd1b info` lists its words"
    [note] = plan(Request(prompt="a cat", negative_prompt="blurry", **picture)).notes
    assert note.startswith("emoji does not know 'blurry'")


def test_what_a_prompt_has_beside_words_is_none():
    """BREAK is one where a prompt's weights are not read, and the parts of a word that a bracket cuts are two."""
    plan = planner(read_manifest("emoji")).plan
    prompt = "a (cat:1.2) BREAK [on] a blue background <lora:kitten:1>"
    [note] = plan(Request(image=None, seed=1, prompt=prompt)).notes
    assert "has a LoRA's tag" in note
    [_, note] = plan(Request(image=None, seed=1, prompt=prompt, prompt_weights=False)).notes
    assert note == "emoji does not know 'break': `ssd1b info` lists its words"
    [note] = plan(Request(image=None, seed=1, prompt="a cat(pixel)")).notes
    assert note.startswith("emoji does not know 'pixel'")


def test_the_embedded_list_offers_what_it_knows(capsys):
    known = KnownWords.read(EMBEDDED["emoji"], "emoji")
    assert all(word in known.words for near in known.near.values() for word in near.split())
    assert not known.words & known.near.keys()
    code, out, _ = run(capsys, "info", "--no-verify", "--json")
    assert code == 0 and json.loads(out)["words"] == sorted(known.words)
    assert "words       a airplane alarm" in run(capsys, "info", "--no-verify")[1]


def test_models_without_a_list_know_every_word(tiny_folder):
    assert planner(read_manifest(tiny_folder)).plan(Request(image=None, prompt="a zyzzyva", seed=1)).notes == ()

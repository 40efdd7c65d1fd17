"""Prompts to ids, against transformers' CLIPTokenizer."""

import json

import numpy as np
import pytest

from ssd1b_jax.tokenizer import BEGIN, END, PromptTokenizer
from ssd1b_jax.training import vocabulary

STRANGE = [
    "",
    " ",
    "a red apple on a blue background",
    "A RED   Apple,\n\ton-a blue background!!",
    "isn't it the dog's? I'd say we've 1234 of 'em",
    "café cafe\u0301 ÅÉ ﬁ ß İstanbul",
    "猫と犬 и кошка",
    "🍎🏠👩‍🚀 #hash @at $5.00",
    f"before {END} after {BEGIN}",
    "word" * 40,
    "\u200b\x00\x7f\ufeff odd",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("tokenizers")
    vocabulary.save(target, ["red apple"], size=600, length=32)
    return target


def test_ids_have_a_fixed_length_and_their_own_padding(folder):
    first, second = vocabulary.load(folder, 32)
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    a, b = first("a cat").ids, second("a cat").ids
    assert a.shape == b.shape == (32,) and a.dtype == np.int32
    assert a[0] == vocab[BEGIN] and vocab[END] in a[1:6]
    end = list(a).index(vocab[END])
    assert set(a[end:]) == {vocab[END]} and set(b[end + 1 :]) == {vocab["!"]}
    assert list(a[: end + 1]) == list(b[: end + 1])


def test_a_long_prompt_is_cut_and_says_where(folder):
    first, _ = vocabulary.load(folder, 32)
    prompt = "a red apple on a blue background " * 4 + "and a ZEBRA"
    tokens = first(prompt)
    assert len(tokens.ids) == 32 and tokens.ids[-1] == first("").ids[1]
    assert tokens.dropped.endswith("a ZEBRA") and prompt.endswith(tokens.dropped)
    assert first("a red apple").dropped == ""


def test_a_vocabulary_without_its_padding_is_refused(folder):
    config = folder / "tokenizer" / "tokenizer_config.json"
    kept = config.read_text()
    config.write_text(json.dumps(json.loads(kept) | {"pad_token": "<pad>"}))
    with pytest.raises(ValueError, match="must hold .* the padding '<pad>'"):
        PromptTokenizer.from_folder(folder / "tokenizer", length=32)
    config.write_text(kept)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
@pytest.mark.parametrize("prompt", STRANGE, ids=ascii)
def test_ids_equal_those_of_transformers(folder, name, prompt):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder / name)
    ours = PromptTokenizer.from_folder(folder / name, length=32)
    expected = theirs(prompt, padding="max_length", truncation=True, max_length=32)["input_ids"]
    assert list(ours(prompt).ids) == expected


def test_a_single_file_tokenizer_gives_the_same_ids(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer_2").save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    single = PromptTokenizer.from_folder(tmp_path, length=32)
    _, second = vocabulary.load(folder, 32)
    for prompt in STRANGE:
        assert list(single(prompt).ids) == list(second(prompt).ids)

"""Prompts to ids, against transformers' CLIPTokenizer, on a large sample of strange text."""

import gzip
import hashlib
import json
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ssd1b_jax.checkpoints.model_json import EMBEDDED
from ssd1b_jax.prompts.tokenizer import BEGIN, END, PromptTokenizer
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


# Blocks of Unicode that were full long ago, so that no newer version changes what they are.
BLOCKS = [
    (0, 0x1F), (0x20, 0x7E), (0x7F, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x391, 0x3A1), (0x3A3, 0x3FF),
    (0x400, 0x4FF), (0x5D0, 0x5EA), (0x610, 0x6FF), (0x904, 0x939), (0xE01, 0xE3A), (0x10A0, 0x10C5), (0x1100, 0x11FF),
    (0x13A0, 0x13F4), (0x1E00, 0x1EFF), (0x2000, 0x205F), (0x20A0, 0x20B0), (0x2100, 0x218B), (0x2190, 0x23F3),
    (0x2460, 0x26FF), (0x3041, 0x3096), (0x30A0, 0x30FF), (0x4E00, 0x9FA5), (0xA000, 0xA48C), (0xAC00, 0xD7A3),
    (0xE000, 0xE0FF), (0xF900, 0xFA2D), (0xFB00, 0xFB06), (0xFE00, 0xFE0F), (0xFE20, 0xFE26), (0xFF01, 0xFF9F),
    (0x10400, 0x1044F), (0x1D400, 0x1D454), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F320), (0x1F400, 0x1F43E),
    (0x1F600, 0x1F640), (0x20000, 0x2A6D6), (0xE0020, 0xE007F),
]  # fmt: skip
ODD = [
    "'s", "'S", "'RE", "'re", "'LL", "'Ll", "'D", "'ve", "'t", "\u2019s", "it's", "IT'S", "DON'T", "'''s", "&amp;",
    BEGIN, END, "<|StartOfText|>", "<|ENDOFTEXT|>", "<|endoftext|", "|>", "<|", "</w>", "\u0120", "!", "!!", "! !",
    "\u200b", "\u200d", "\u200e", "\ufeff", "\u00ad", "\ufe0f", "e\u0301", "\u0301", "\u212b", "\u1100\u1161", "\ufb01",
    "\u0130", "\u0131", "\u00df", "\u1e9e", "\u03a3", "\u03c2", "\u01c5", "\u0663", "\u00bd", "\u2167", "\u00b2",
    "\U0001f469\u200d\U0001f680", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\u0645\u0631\u062d\u0628\u0627", "\u732b", "cat", "photograph",
    "a" * 90, "-_", "4k", "1234", "#tag", "@x", "!a", "_", "'", "(", ")", "[", "]", ":", "\\", "\u0967",
    " ", "  ", "\t", "\n", "\r\n", "\x00", "\x0b", "\x1c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u202f",
    "\u3000",
]  # fmt: skip
ALL = [(0, 0xD7FF), (0xE000, 0x10FFFF)]


def strange_text(count, blocks=BLOCKS):
    """Odd parts and characters at random; the characters of every second text are of one block."""
    draw = random.Random(0)
    texts = []
    for index in range(count):
        block, share = draw.choice(blocks), (0.0, 0.5, 1.0)[index % 3]
        parts = []
        for _ in range(draw.randrange(1, 24)):
            letter = chr(draw.randint(*(block if index % 2 else draw.choice(blocks))))
            parts.append(draw.choice(ODD) if draw.random() < share else letter)
        texts.append("".join(parts))
    return texts


def save_clip(folder, **config):
    """CLIP's own 49,408 entries as a tokenizer's folder.

    They are in the wheel of open_clip_torch, which does for this without what it depends on.
    """
    if find_spec("open_clip") is None:
        pytest.skip("needs CLIP's vocabulary: pip install --no-deps open_clip_torch")
    file = Path(find_spec("open_clip").origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49408 - 512 - 2 + 1]
    alphabet = list(json.loads((EMBEDDED["emoji"] / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))[:512]
    entries = [*alphabet, *(merge.replace(" ", "") for merge in merges), BEGIN, END]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({entry: index for index, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    write_config(folder, **config)
    return folder


def write_config(folder, **config):
    named = dict(tokenizer_class="CLIPTokenizer", bos_token=BEGIN, eos_token=END, unk_token=END)
    (folder / "tokenizer_config.json").write_text(json.dumps(named | dict(model_max_length=77) | config))


def flags(content, **others):
    return dict(content=content, lstrip=False, rstrip=False, single_word=False, normalized=False) | others


# What SDXL's files say of special tokens, and what older ones do: some are found in any case of letters.
RELEASED = {"49406": flags(BEGIN, normalized=True, special=False), "49407": flags(END, special=False)}
RELEASED_2 = {"0": flags("!", special=True)} | RELEASED
OLDER = [dict(flags(token, normalized=True), __type="AddedToken") for token in (BEGIN, END)]


def digest(tokenizer, texts):
    return hashlib.sha256(json.dumps([tokenizer.encode(text).ids for text in texts]).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("name", "expected"), [("tokenizer", "051d33756ffb12b4"), ("tokenizer_2", "4d7fd379d812d83d")])
def test_the_embedded_vocabulary_gives_the_ids_of_transformers(name, expected):
    """5.23's, as below, and here without it."""
    tokenizer = PromptTokenizer.from_folder(EMBEDDED["emoji"] / name, length=32)
    assert digest(tokenizer, strange_text(21_000)) == expected


@pytest.mark.parametrize(
    ("pad", "added", "expected"),
    [(END, RELEASED, "0f8e72a2e58dfdab"), ("!", RELEASED_2, "53e1a3af091b60dc")],
    ids=["end", "mark"],
)
def test_the_vocabulary_of_clip_gives_the_ids_of_transformers(tmp_path, pad, added, expected):
    folder = save_clip(tmp_path / "tokenizer", pad_token=pad, added_tokens_decoder=added)
    tokenizer = PromptTokenizer.from_folder(folder, length=77)
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (49406, 49407, 0 if pad == "!" else 49407)
    assert tokenizer.encode("a photo of a cat").ids == [320, 1125, 539, 320, 2368]
    assert digest(tokenizer, strange_text(21_000)) == expected


CONFIGS = {
    "plain": ("embedded", dict(pad_token=END)),
    "plain_2": ("embedded", dict(pad_token="!")),
    "older": ("embedded", dict(bos_token=OLDER[0], eos_token=OLDER[1], unk_token=OLDER[1], pad_token=END)),
    "older_2": ("embedded", dict(bos_token=OLDER[0], eos_token=OLDER[1], unk_token=OLDER[1], pad_token="!")),
    "mixed": ("embedded", dict(unk_token=OLDER[1], pad_token=END)),
    "released": ("clip", dict(pad_token=END, added_tokens_decoder=RELEASED)),
    "released_2": ("clip", dict(pad_token="!", added_tokens_decoder=RELEASED_2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_ids_of_strange_text_equal_those_of_transformers(tmp_path, name):
    """Read from two files, and from the one that transformers makes of them."""
    transformers = pytest.importorskip("transformers")
    words, config = CONFIGS[name]
    two, one = tmp_path / "two", tmp_path / "one"
    if words == "clip":
        save_clip(two, **config)
    else:
        shutil.copytree(EMBEDDED["emoji"] / "tokenizer", two)
        write_config(two, **config)
    theirs = transformers.CLIPTokenizer.from_pretrained(two)
    theirs.save_pretrained(one)
    assert {file.name for file in one.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    texts = strange_text(21_000) + strange_text(3_000, ALL)
    expected = theirs(texts, add_special_tokens=False, verbose=False)["input_ids"]
    for folder in (two, one):
        ours = PromptTokenizer.from_folder(folder, length=77)
        assert [text for text, ids in zip(texts, expected, strict=True) if ours.encode(text).ids != ids] == []


@pytest.mark.parametrize("style", [" ".join, list], ids=["text", "pairs"])
def test_one_file_may_hold_merges_as_text_or_as_pairs(folder, tmp_path, style):
    target = tmp_path / "tokenizer"
    shutil.copytree(folder / "tokenizer", target)
    vocab = json.loads((target / "vocab.json").read_text(encoding="utf-8"))
    lines = (target / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    single = dict(added_tokens=[], model=dict(vocab=vocab, merges=[style(line.split()) for line in lines]))
    (target / "tokenizer.json").write_text(json.dumps(single))
    (target / "vocab.json").unlink()
    ours, expected = PromptTokenizer.from_folder(target, length=32), vocabulary.load(folder, 32)[0]
    assert [list(ours(text).ids) for text in STRANGE] == [list(expected(text).ids) for text in STRANGE]


def test_tokens_know_the_characters_they_start_at(folder):
    for tokenizer in vocabulary.load(folder, 32):
        word = tokenizer.encode("zebra").ids
        for text in strange_text(500):
            ids, starts = tokenizer.encode(text + " zebra")
            assert len(ids) == len(starts) and starts == sorted(starts)
            assert ids[-len(word) :] == word and starts[-len(word)] == len(text) + 1


@pytest.mark.parametrize("prompt", ["a \ud800", "\udc80", "\udfff\ud800"], ids=ascii)
def test_half_a_character_is_refused(folder, prompt):
    first, _ = vocabulary.load(folder, 32)
    with pytest.raises(ValueError, match=r"must be Unicode text, got half a character, '\\ud"):
        first(prompt)

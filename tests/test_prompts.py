"""Prompts in AUTOMATIC1111's syntax: parsed, put into chunks of ids and weights, and applied to hidden states."""

import random
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd1b_jax import prompts
from ssd1b_jax.checkpoints.model_json import EMBEDDED
from ssd1b_jax.engine.jobs import MAX_NOTE
from ssd1b_jax.engine.stages import emphasize
from ssd1b_jax.errors import RequestError
from ssd1b_jax.prompts import Chunks, encode, pad, parse
from ssd1b_jax.prompts.tokenizer import PromptTokenizer

LENGTH = 12  # 10 tokens of text in a chunk


@pytest.fixture(scope="module")
def tokenizers():
    folder = EMBEDDED["emoji"]
    return [PromptTokenizer.from_folder(folder / name, length=LENGTH) for name in ("tokenizer", "tokenizer_2")]


@pytest.fixture(scope="module")
def tokenizer(tokenizers):
    return tokenizers[0]


UP, DOWN = 1.1, 1 / 1.1

# What the web UI's documentation and its own examples say of each.
SYNTAX = {
    "normal text": [("normal text", 1)],
    "an (important) word": [("an ", 1), ("important", UP), (" word", 1)],
    "(unbalanced": [("unbalanced", UP)],
    r"\(literal\]": [("(literal]", 1)],
    "(unnecessary)(parens)": [("unnecessaryparens", UP)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1), ("house", 1.3 * UP**2), (" ", UP), ("on", 1), (" a ", UP),
        ("hill", 0.5 * UP), (", sun, ", UP), ("sky", UP**4), (".", UP),
    ],
    "": [("", 1)],
    "()": [("", 1)],
    "((word))": [("word", UP**2)],
    "[word]": [("word", DOWN)],
    "[[a] b": [("a", DOWN**2), (" b", DOWN)],
    "(word:1.3)": [("word", 1.3)],
    "(word: 1.3 )": [("word", 1.3)],
    "(word:.5)(word:2.)(word:+1)": [("word", 0.5), ("word", 2), ("word", 1)],
    "(word:0) (word:-1)": [("word", 0), (" ", 1), ("word", -1)],
    "(a (b:2) c:1.5)": [("a ", 1.5), ("b", 3), (" c", 1.5)],
    "([word])": [("word", 1)],
    "[word:1.3]": [("word:1.3", DOWN)],  # a weight is only read in round brackets
    "[(word:1.3)]": [("word", 1.3 * DOWN)],
    "word:1.3)": [("word:1.3)", 1)],
    "(word:1.3": [("word:1.3", UP)],
    "(word:strong) (word:1.2.3)": [("word:strong", UP), (" ", 1), ("word:1.2.3", UP)],
    "(16:9:1.3)": [("16:9", 1.3)],
    "8:30, a: b": [("8:30, a: b", 1)],
    "a) b] c": [("a) b] c", 1)],
    r"a \(b\) (c\):1.2)": [("a (b) ", 1), ("c)", 1.2)],
    r"back\\slash, lost\ here": [(r"back\slash, lost here", 1)],
    "(word:١.٥)": [("word", 1.5)],  # digits of other scripts are digits
}  # fmt: skip


@pytest.mark.parametrize("prompt", SYNTAX, ids=ascii)
def test_the_syntax_is_that_of_the_web_ui(prompt):
    (pieces,) = parse(prompt)
    texts, weights = zip(*SYNTAX[prompt], strict=True)
    assert tuple(piece.text for piece in pieces) == texts
    np.testing.assert_allclose([piece.weight for piece in pieces], weights, rtol=1e-15)  # float64, other order


def texts(prompt):
    return ["|".join(f"{piece.text}" for piece in section) for section in parse(prompt)]


def test_break_starts_a_section():
    assert texts("a cat BREAK a dog") == ["a cat", "a dog"]
    assert texts("a cat\n BREAK BREAK,BREAK") == ["a cat", "", ",", ""]
    assert texts("BREAKFAST, unBREAKable, break") == ["BREAKFAST, unBREAKable, break"]
    assert texts(r"(a BREAK b:2) c") == ["a", "b| c"]
    first, second = parse("(a BREAK b:2)")
    assert first[0].weight == second[0].weight == 2


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a (cat:11)", "a prompt's weights must be from -10 to 10, got 11 for 'cat'"),
        ("(cat:-10.5)", "got -10.5 for 'cat'"),
        ("(" * 25 + "cat", "got 10.8347 for 'cat'"),
        (f"(cat:{'9' * 400})", "got inf for 'cat'"),
        ("([" * 51, r"a prompt's brackets may nest 100 deep, got one more at character 100: write \\\( for a bracket"),
    ],
    ids=["heavy", "negative", "deep", "infinite", "deeper"],
)
def test_absurd_weights_are_refused(prompt, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(prompt)


PARTS = [
    *"()[]\\:,!. \n",
    "(",
    ")",
    ":1.3)",
    ":.5)",
    "cat",
    " a red apple",
    "BREAK",
    "e\u0301",
    "👩‍🚀",
    "猫",
    "'S",
    "İ",
]


def random_prompts(count, parts=PARTS, most=30):
    draw = random.Random(7)
    return ["".join(draw.choice(parts) for _ in range(draw.randrange(most))) for _ in range(count)]


def test_any_text_is_pieces_of_the_prompt():
    for prompt in random_prompts(1000):
        pieces = [piece for section in parse(prompt) for piece in section]
        assert all(0 < piece.weight <= prompts.MAX_WEIGHT for piece in pieces)
        assert all(piece.text == "".join(prompt[place] for place in piece.places) for piece in pieces)
        places = [place for piece in pieces for place in piece.places]
        assert places == sorted(set(places))


def test_text_without_syntax_comes_back_whole():
    parts = [part for part in PARTS if not set(part) & set("()[]\\") and part != "BREAK"]
    for prompt in random_prompts(300, parts):
        assert [(piece.text, piece.weight) for section in parse(prompt) for piece in section] == [(prompt, 1)]


def test_long_prompts_are_read_in_one_pass():
    """Readers that look ahead again and again would take minutes for these."""
    spaces, deep = " " * 40_000, "[(" * 50
    assert parse(f"a:{spaces}BREAK{spaces}b")[1][0].text == "b"
    assert len(parse(spaces + "(a")[0]) == 2
    assert parse(deep + "a:" * 1000)[0][0].text == "a:" * 1000


MANY = 99_900


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("(a:" + "1" * MANY, 1),
        ("(a:1" + " " * MANY, 1),
        ("(a:" + " 1." * (MANY // 3), 1),
        (":" * MANY, 1),
        (")" * MANY, 1),
        ("(a)b" * (MANY // 4), 2 * (MANY // 4)),
        ("[(" * 49 + "(a)b" * (MANY // 5), 2 * (MANY // 5)),
        ("(a:0.5)" * (MANY // 7), 1),
        (r"\(" * (MANY // 2), 1),
        ("BREAK " * (MANY // 6), MANY // 6 + 1),
    ],
    ids=lambda value: value[:8] if isinstance(value, str) else "",
)
def test_the_time_to_read_a_prompt_grows_with_its_length(prompt, pieces):
    """Each is among the slowest of its kind; a reader that steps back or scales again would take minutes."""
    began = time.process_time()
    assert sum(map(len, parse(prompt))) == pieces
    assert time.process_time() - began < 5


@pytest.mark.parametrize("weighted", [True, False])
def test_a_prompt_longer_than_any_use_is_refused(tokenizer, weighted):
    with pytest.raises(RequestError, match="at most 100000 characters, got 500003"):
        encode(tokenizer, "(a:" + "1" * 500_000, weighted=weighted)


def body(tokenizer, chunks):
    """The ids of the text, from all chunks."""
    return [int(id) for row in chunks.ids for id in row[1 : list(row).index(tokenizer.end)]]


def test_plain_prompts_have_the_ids_of_the_whole_text(tokenizers):
    parts = [part for part in PARTS if not set(part) & set("()[]\\") and part != "BREAK"]
    for tokenizer in tokenizers:
        for prompt in random_prompts(300, parts):
            whole = tokenizer.encode(prompt).ids
            for weighted in (True, False):
                chunks = encode(tokenizer, prompt, weighted=weighted, max_chunks=99)
                assert body(tokenizer, chunks) == whole and chunks.dropped == ""
                assert len(chunks.ids) == max(1, -(-len(whole) // (LENGTH - 2)))
                assert (chunks.weights == 1).all()


def test_a_row_is_framed_and_padded(tokenizers):
    for tokenizer, padding in zip(tokenizers, ("<|endoftext|>", "!"), strict=True):
        chunks = encode(tokenizer, "a (red:1.5) apple")
        ids = [tokenizer.encode(text).ids for text in ("a", "red", "apple")]
        count = sum(map(len, ids))
        (pad_id,) = tokenizer.encode(padding).ids
        row = [tokenizer.begin, *sum(ids, []), tokenizer.end, *[pad_id] * (LENGTH - 2 - count)]
        assert chunks.ids.tolist() == [row] and chunks.ids.dtype == np.int32
        expected = np.ones((1, LENGTH), np.float32)
        expected[0, 1 + len(ids[0]) : 1 + len(ids[0] + ids[1])] = 1.5
        np.testing.assert_array_equal(chunks.weights, expected)


def test_without_weights_the_text_is_literal(tokenizer):
    prompt = r"a (cat:1.3) BREAK [dog] \(x\)"
    assert body(tokenizer, encode(tokenizer, prompt, weighted=False)) == tokenizer.encode(prompt).ids


def test_pieces_are_tokenized_by_themselves(tokenizer):
    assert tokenizer.encode("catfish").ids != tokenizer.encode("cat").ids + tokenizer.encode("fish").ids
    expected = tokenizer.encode("cat").ids + tokenizer.encode("fish").ids
    assert body(tokenizer, encode(tokenizer, "(cat)fish")) == expected


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [
        ("", [0]), ("a", [1]), ("a " * 10, [10]), ("a " * 11, [10, 1]), ("a " * 20 + "(a)", [10, 10, 1]),
        ("a BREAK a a", [1, 2]), ("a BREAK BREAK a", [1, 0, 1]), ("BREAK a", [0, 1]), ("a BREAK", [1]), ("BREAK", [0]),
        ("a " * 10 + "BREAK a", [10, 1]), ("a " * 11 + "BREAK a", [10, 1, 1]), ("BREAK BREAK", [0, 0]),
    ],
)  # fmt: skip
def test_chunks_are_filled_one_after_the_other(tokenizer, prompt, lengths):
    assert len(tokenizer.encode("a").ids) == 1
    chunks = encode(tokenizer, prompt)
    assert [list(row).index(tokenizer.end) - 1 for row in chunks.ids] == lengths


def test_what_does_not_fit_is_told_as_it_was_written(tokenizers):
    for tokenizer in tokenizers:
        prompt = "a " * 19 + "a (ZEBRA  and:1.2) [more]\n"
        assert encode(tokenizer, prompt, max_chunks=2).dropped == "ZEBRA  and:1.2) [more]\n"
        assert encode(tokenizer, "a BREAK (b BREAK c)", max_chunks=2).dropped == "c)"
        assert encode(tokenizer, "a BREAK b BREAK BREAK", max_chunks=2).dropped == ""
        for prompt in random_prompts(300, most=60):
            all_of_it, some = (encode(tokenizer, prompt, max_chunks=count) for count in (99, 2))
            assert prompt.endswith(some.dropped) and len(some.ids) == min(2, len(all_of_it.ids))
            np.testing.assert_array_equal(some.ids, all_of_it.ids[:2])
            np.testing.assert_array_equal(some.weights, all_of_it.weights[:2])
            assert bool(some.dropped) == any(row[1] != tokenizer.end for row in all_of_it.ids[2:])


def test_padding_adds_chunks_of_an_empty_prompt(tokenizers):
    for tokenizer in tokenizers:
        chunks = encode(tokenizer, "a (red:1.5) apple")
        padded, empty = pad(chunks, 3), encode(tokenizer, "")
        assert isinstance(padded, Chunks) and padded.ids.shape == padded.weights.shape == (3, LENGTH)
        np.testing.assert_array_equal(padded.ids, np.concatenate([chunks.ids, empty.ids, empty.ids]))
        np.testing.assert_array_equal(padded.weights, np.concatenate([chunks.weights, np.ones((2, LENGTH))]))
        assert padded.ids.dtype == np.int32 and padded.weights.dtype == np.float32
        np.testing.assert_array_equal(pad(padded, 1).ids, padded.ids)


def hidden_states(dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, LENGTH, 8)) + 0.2, dtype)


def test_emphasis_scales_tokens_and_keeps_the_mean_of_each_chunk():
    """A1111: z = z * multipliers; z = z * (mean before / mean after), here in float64."""
    hidden, weights = hidden_states(), np.ones((3, LENGTH), np.float32)
    weights[0, 2:5], weights[2, 7] = 1.3, 0
    got = jax.jit(emphasize)(hidden, weights)
    z = np.asarray(hidden, np.float64)
    weighted = z * weights[..., None]
    expected = weighted * (z.mean((1, 2)) / weighted.mean((1, 2)))[:, None, None]
    np.testing.assert_allclose(got, expected, rtol=1e-5)  # float32 means
    np.testing.assert_allclose(got.mean((1, 2)), z.mean((1, 2)), rtol=1e-5)
    assert (got[2, 7] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_no_emphasis_changes_no_bit(dtype):
    hidden, weights = hidden_states(dtype), np.ones((3, LENGTH), np.float32)
    weights[1, 3] = 2
    got = jax.jit(emphasize)(hidden, weights)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[::2], hidden[::2])
    assert not np.array_equal(got[1], hidden[1])


def test_states_whose_mean_is_zero_stay_finite():
    hidden, weights = jnp.tile(jnp.array([1.0, -1.0]), (1, LENGTH, 1)), jnp.ones((1, LENGTH)).at[0, 1].set(2)
    np.testing.assert_array_equal(emphasize(hidden, weights), hidden * weights[..., None])


@pytest.mark.parametrize(
    ("prompt", "notation"),
    [
        ("a red apple <lora:style:0.8>", "a LoRA's tag, '<lora:style:0.8>', which is taken as words: give the file"),
        ("a red [apple:strawberry:0.5]", "prompt editing, '[apple:strawberry:0.5]'"),
        ("a [:hat:.3] cat", "prompt editing, '[:hat:.3]'"),
        ("a red [apple|strawberry]", "alternation, '[apple|strawberry]'"),
        ("a red apple AND a green leaf", "a composition, 'AND'"),
        ("a red __fruit__", "a wildcard, '__fruit__'"),
        ("a {red|green} apple", "a choice, '{red|green}'"),
        ("a red apple embedding:EasyNegative", "an embedding, 'embedding:EasyNegative'"),
    ],
)
def test_a_notation_of_another_program_is_told(prompt, notation):
    (note,) = prompts.notations.notes("prompt", prompt)
    assert note.startswith(f"the prompt has {notation}") and re.search(": (give|write|runs|describe)", note)


@pytest.mark.parametrize(
    "prompt", ["[a hat:a {0}:.5]", "[a|{0}]", "<lora:{0}:1>", "__{0}__", "{{a|{0}}}", "embedding:{0}"]
)
def test_a_note_of_a_long_notation_has_room_for_what_to_do(prompt):
    (note,) = prompts.notations.notes("negative prompt", prompt.format("x" * 79))
    assert len(note) <= MAX_NOTE and " …', which is taken as words: " in note


@pytest.mark.parametrize("prompt", ["a cat, (red:1.2) [dull] and a dog", "SAND and LAND", "snake_case {x}", "a: b"])
def test_plain_prompts_have_no_notation_of_others(prompt):
    assert prompts.notations.notes("prompt", prompt) == []


@pytest.mark.parametrize("unit", ["[", "[a:", "{a|", "<lora:", "__a", "embedding:"])
def test_the_time_to_look_for_notations_grows_with_the_length(unit):
    began = time.perf_counter()
    prompts.notations.notes("prompt", unit * 20_000)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("prompt", "known", "rest", "loras"),
    [
        ("a cat <lora:style:0.8>", None, "a cat", {"style": 0.8}),
        ("<lora:a>a cat<lora:b:-.5:1>", None, "a cat", {"a": 1.0, "b": -0.5}),
        ("a cat <lora:style:.8> <lora:x:1>", ["style"], "a cat  <lora:x:1>", {"style": 0.8}),
        ("a cat <lora:style:.8>", [], "a cat <lora:style:.8>", {}),
        ("a cat <lora:style:1:high>", None, "a cat", {"style": 1.0}),
    ],
)
def test_loras_are_named_in_a_prompt(prompt, known, rest, loras):
    assert prompts.notations.take_loras(prompt, known) == (rest, loras)


def test_the_scale_of_a_lora_is_a_number():
    with pytest.raises(RequestError, match="prompt: the scale of lora 'x' must be a number, got '0.5.1'"):
        prompts.notations.take_loras("<lora:x:0.5.1>")

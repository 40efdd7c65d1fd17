"""Prompts to chunks of token ids with weights, for one text encoder.

The syntax, the chunks and the emphasis are those of AUTOMATIC1111's web UI (1.10, emphasis
"Original"). The web UI also reads networks, embeddings, alternatives over time and `AND` out of a
prompt, and cuts a full chunk back to its last comma. None of that is done here.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from ssd1b_jax.errors import RequestError
from ssd1b_jax.prompts.tokenizer import PromptTokenizer

ROUND, SQUARE = 1.1, 1 / 1.1  # factors of (brackets) and [brackets]
MAX_WEIGHT = 10.0
MAX_NESTING = 100
MAX_CHUNKS = 8
MAX_CHARACTERS = 100_000  # of one prompt, so that reading it takes a moment; eight chunks hold about 3,000

# Quantifiers are possessive (`++`): no text makes the search step back and try again.
_SYNTAX = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\]?)
    | :\s*+(?P<weight>[+-]?+(?:\d++(?:\.\d*+)?+|\.\d++))\s*+\)
    | (?P<bracket>[()\[\]])
    | [^\\()\[\]:]++
    | :
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b\s*")


class Piece(NamedTuple):
    """Text of one weight. `places` are the indices of its characters in the prompt."""

    text: str
    weight: float
    places: Sequence[int]


@dataclass(frozen=True)
class Chunks:
    """A prompt as rows of token ids, each of the text encoder's length.

    `weights` are 1 for plain text and for tokens that begin, end or pad a row. `empty` is the row of an
    empty prompt. `dropped` is the end of the prompt that did not fit, as it was written, or "".
    """

    ids: Int32[np.ndarray, "chunks length"]
    weights: Float32[np.ndarray, "chunks length"]
    empty: Int32[np.ndarray, " length"]
    dropped: str = ""


def parse(prompt: str) -> list[list[Piece]]:
    r"""Sections of a prompt, each a list of pieces of equal weight. A section starts a chunk.

    - `(text)` weighs 1.1 times as much, `[text]` 1 / 1.1 times, `(text:1.3)` 1.3 times. Nested factors multiply.
    - `\(`, `\)`, `\[`, `\]` and `\\` are the characters themselves. Any other backslash vanishes.
    - An open bracket closes at the end of the prompt.
    - A bracket that closes nothing, and a weight that is no number, is text.
    - `BREAK` starts a section, also within brackets, where the web UI reads it as text.

    Raises RequestError for weights beyond `MAX_WEIGHT`, brackets nested beyond `MAX_NESTING` and prompts
    longer than `MAX_CHARACTERS`.
    """
    _check_length(prompt)
    spans: list[range] = []
    breaks: list[int] = []  # indices of spans
    scaled: list[tuple[int, int, float]] = []  # the first span, the end, and the factor of each bracket, as they close
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        scaled.append((opened[bracket].pop(), len(spans), factor))

    for match in _SYNTAX.finditer(prompt):
        bracket = match["bracket"]
        if bracket in opened:
            opened[bracket].append(len(spans))
            if len(opened["("]) + len(opened["["]) > MAX_NESTING:
                raise RequestError(
                    f"a prompt's brackets may nest {MAX_NESTING} deep, got one more at character {match.start()}: "
                    rf"write \{bracket} for a bracket that is text"
                )
        elif match["weight"] and opened["("]:
            close("(", float(match["weight"]))
        elif bracket == ")" and opened["("]:
            close("(", ROUND)
        elif bracket == "]" and opened["["]:
            close("[", SQUARE)
        elif match["escaped"] is not None:
            spans.append(range(*match.span("escaped")))
        elif prompt.find("BREAK", *match.span()) < 0:
            spans.append(range(*match.span()))
        else:
            parts = _between_breaks(prompt, *match.span())
            breaks += range(len(spans) + 1, len(spans) + len(parts))
            spans += parts
    scaled += [(first, len(spans), ROUND) for first in opened["("]]
    scaled += [(first, len(spans), SQUARE) for first in opened["["]]
    weights = _weights(len(spans), scaled)
    ends = pairwise([0, *breaks, len(spans)])
    return [_merge(prompt, spans[first:last], weights[first:last]) for first, last in ends]


def _check_length(prompt: str) -> None:
    if len(prompt) > MAX_CHARACTERS:
        raise RequestError(
            f"a prompt may have at most {MAX_CHARACTERS} characters, got {len(prompt)}: "
            f"write less, a model reads {MAX_CHUNKS} chunks of it at most"
        )


def _weights(count: int, scaled: Sequence[tuple[int, int, float]]) -> list[float]:
    """The weights of `count` spans, each the product of its brackets' factors in the order in which they close."""
    weights = np.ones(count)
    with np.errstate(over="ignore", invalid="ignore"):  # too large a weight is refused in one sentence
        for first, end, factor in scaled:
            weights[first:end] *= factor
    return weights.tolist()


def _between_breaks(prompt: str, start: int, end: int) -> list[range]:
    """The parts between the `BREAK`s of a stretch of text, without the space around each `BREAK`."""
    parts = []
    for word in _BREAK.finditer(prompt, start, end):
        text = prompt[start : word.start()].rstrip()
        parts.append(range(start, start + len(text)))
        start = word.end()
    return [*parts, range(start, end)]


def _merge(prompt: str, spans: list[range], weights: list[float]) -> list[Piece]:
    """One piece for each run of equal weights. A section without text has one empty piece."""
    pieces = []
    for weight, run in groupby(zip(weights, spans, strict=True), key=lambda pair: pair[0]):
        places = [place for _, span in run for place in span]
        text = "".join(prompt[place] for place in places)
        pieces.append(Piece(text, weight, places))
        if not abs(weight) <= MAX_WEIGHT:
            raise RequestError(
                f"a prompt's weights must be from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, got {weight:g} for {text[:60]!r}"
            )
    return pieces or [Piece("", 1.0, ())]


def encode(tokenizer: PromptTokenizer, prompt: str, *, weighted: bool = True, max_chunks: int = MAX_CHUNKS) -> Chunks:
    """A prompt in as many chunks as it needs, from one to `max_chunks`. The rest is dropped.

    Every piece is tokenized by itself. So a prompt that is not `weighted`, or has no syntax, gives the
    ids of the whole text. Raises RequestError as `parse` and `PromptTokenizer.encode` do.
    """
    _check_length(prompt)
    sections = _sections(prompt, weighted)
    rows: list[list[_Token]] = []
    for section in sections:
        tokens = [token for piece in section for token in _tokens(tokenizer, piece)]
        rows += [tokens[i : i + tokenizer.room] for i in range(0, max(len(tokens), 1), tokenizer.room)]
    if len(rows) > 1 and not rows[-1]:  # a BREAK at the end breaks nothing
        rows.pop()
    kept = rows[:max_chunks]
    lost = [token for row in rows[max_chunks:] for token in row]
    weights = np.ones((len(kept), tokenizer.length), np.float32)
    for row_weights, row in zip(weights, kept, strict=True):
        row_weights[1 : 1 + len(row)] = [token.weight for token in row]
    return Chunks(
        ids=np.stack([tokenizer.frame([token.id for token in row]) for row in kept]),
        weights=weights,
        empty=tokenizer.frame([]),
        dropped=prompt[lost[0].place :] if lost else "",
    )


def plain(prompt: str, *, weighted: bool = True) -> str:
    """The text that is tokenized, with a space between its pieces. Raises RequestError as `parse` does."""
    return " ".join(piece.text for section in _sections(prompt, weighted) for piece in section)


def _sections(prompt: str, weighted: bool) -> list[list[Piece]]:
    return parse(prompt) if weighted else [[Piece(prompt, 1.0, range(len(prompt)))]]


class _Token(NamedTuple):
    id: int
    weight: float
    place: int


def _tokens(tokenizer: PromptTokenizer, piece: Piece) -> Iterator[_Token]:
    for id, start in zip(*tokenizer.encode(piece.text), strict=True):
        yield _Token(id, piece.weight, piece.places[start])


def shorten(text: str, length: int) -> str:
    """Text cut to a length, with an ellipsis where it was cut."""
    return text if len(text) <= length else f"{text[: length - 2].rstrip()} …"


def pad(chunks: Chunks, count: int) -> Chunks:
    """The same prompt in `count` chunks or more: rows of an empty prompt are added."""
    missing = max(count - len(chunks.ids), 0)
    return replace(
        chunks,
        ids=np.concatenate([chunks.ids, np.tile(chunks.empty, (missing, 1))]),
        weights=np.pad(chunks.weights, ((0, missing), (0, 0)), constant_values=1),
    )

"""Prompts to chunks of token ids with weights, for one text encoder.

The syntax, the chunks and the emphasis are those of AUTOMATIC1111's web UI (1.10, emphasis
"Original"), without what it also reads out of a prompt: networks, embeddings, alternatives over
time, `AND`; a chunk that is full is not cut back to its last comma.
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

ROUND, SQUARE = 1.1, 1 / 1.1  # what (brackets) and [brackets] multiply weights by
MAX_WEIGHT = 10.0
MAX_NESTING = 100
MAX_CHUNKS = 8

_SYNTAX = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\]?)
    | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
    | (?P<bracket>[()\[\]])
    | [^\\()\[\]:]+
    | :
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b\s*")


class Piece(NamedTuple):
    """Text of one weight; `places` are the indices of its characters in the prompt."""

    text: str
    weight: float
    places: Sequence[int]


@dataclass(frozen=True)
class Chunks:
    """A prompt as its text encoder takes it, a row at a time.

    `weights` are 1 where nothing was emphasized, and for tokens that begin, end or pad a row.
    `empty` is the row of an empty prompt. `dropped` is the end of the prompt that did not fit, as it
    was written, or "".
    """

    ids: Int32[np.ndarray, "chunks length"]
    weights: Float32[np.ndarray, "chunks length"]
    empty: Int32[np.ndarray, " length"]
    dropped: str = ""


def parse(prompt: str) -> list[list[Piece]]:
    r"""Pieces of equal weight, in sections, each of which starts a chunk.

    `(text)` weighs 1.1 times as much, `[text]` 1 / 1.1 times, `(text:1.3)` 1.3 times; nested factors
    multiply. `\(`, `\)`, `\[`, `\]` and `\\` are the characters themselves, and a backslash before
    any other vanishes. What is not closed is closed at the end. What closes nothing, and a weight that
    is no number, is text. `BREAK` starts a section, in brackets too (where the web UI reads it as text).

    Raises RequestError for weights beyond `MAX_WEIGHT` and for brackets nested beyond `MAX_NESTING`.
    """
    spans: list[range] = []  # of the prompt, and what each weighs
    weights: list[float] = []
    breaks: list[int] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for match in _SYNTAX.finditer(prompt):
        bracket, found = match["bracket"], []
        if bracket in opened:
            opened[bracket].append(len(spans))
            if sum(map(len, opened.values())) > MAX_NESTING:
                raise RequestError(
                    f"a prompt's brackets may nest {MAX_NESTING} deep, got one more at character {match.start()}: "
                    rf"write \{bracket} for a bracket that is text"
                )
        elif match["weight"] and opened["("]:
            _scale(weights, opened["("].pop(), float(match["weight"]))
        elif bracket == ")" and opened["("]:
            _scale(weights, opened["("].pop(), ROUND)
        elif bracket == "]" and opened["["]:
            _scale(weights, opened["["].pop(), SQUARE)
        elif match["escaped"] is not None:
            found = [range(*match.span("escaped"))]
        else:
            found = _between_breaks(prompt, *match.span())
            breaks += range(len(spans) + 1, len(spans) + len(found))
        spans += found
        weights += [1.0] * len(found)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for first in opened[bracket]:
            _scale(weights, first, factor)
    ends = pairwise([0, *breaks, len(spans)])
    return [_merge(prompt, spans[first:last], weights[first:last]) for first, last in ends]


def _scale(weights: list[float], first: int, factor: float) -> None:
    weights[first:] = [weight * factor for weight in weights[first:]]


def _between_breaks(prompt: str, start: int, end: int) -> list[range]:
    """The parts of a stretch of text that `BREAK`, and the space around it, takes apart."""
    parts = []
    for found in _BREAK.finditer(prompt, start, end):
        parts.append(range(start, start + len(prompt[start : found.start()].rstrip())))
        start = found.end()
    return [*parts, range(start, end)]


def _merge(prompt: str, spans: list[range], weights: list[float]) -> list[Piece]:
    """A piece for each run of equal weights; at least one."""
    pieces = []
    for weight, run in groupby(zip(weights, spans, strict=True), key=lambda pair: pair[0]):
        places = [place for _, span in run for place in span]
        pieces.append(Piece("".join(prompt[place] for place in places), weight, places))
        if not abs(weight) <= MAX_WEIGHT:
            raise RequestError(
                f"a prompt's weights must be from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, "
                f"got {weight:g} for {pieces[-1].text[:60]!r}"
            )
    return pieces or [Piece("", 1.0, ())]


def encode(tokenizer: PromptTokenizer, prompt: str, *, weighted: bool = True, max_chunks: int = MAX_CHUNKS) -> Chunks:
    """A prompt in as many chunks as it takes, at least one and at most `max_chunks`; the rest is dropped.

    Every piece is tokenized by itself, so a prompt that is not `weighted`, or has nothing that `parse`
    would read, gives the ids of the whole. Raises RequestError as `parse` and `PromptTokenizer.encode` do.
    """
    rows: list[list[_Token]] = []
    for section in parse(prompt) if weighted else [[Piece(prompt, 1.0, range(len(prompt)))]]:
        tokens = [token for piece in section for token in _tokens(tokenizer, piece)]
        rows += [tokens[i : i + tokenizer.room] for i in range(0, max(len(tokens), 1), tokenizer.room)]
    if len(rows) > 1 and not rows[-1]:  # a BREAK at the end breaks nothing
        rows.pop()
    kept, lost = rows[:max_chunks], [token for row in rows[max_chunks:] for token in row]
    weights = np.ones((len(kept), tokenizer.length), np.float32)
    for line, row in zip(weights, kept, strict=True):
        line[1 : 1 + len(row)] = [token.weight for token in row]
    return Chunks(
        ids=np.stack([tokenizer.frame([token.id for token in row]) for row in kept]),
        weights=weights,
        empty=tokenizer.frame([]),
        dropped=prompt[lost[0].place :] if lost else "",
    )


class _Token(NamedTuple):
    id: int
    weight: float
    place: int


def _tokens(tokenizer: PromptTokenizer, piece: Piece) -> Iterator[_Token]:
    for id, start in zip(*tokenizer.encode(piece.text), strict=True):
        yield _Token(id, piece.weight, piece.places[start])


def shorten(text: str, length: int) -> str:
    """Text cut to a length, with an ellipsis for what is missing."""
    return text if len(text) <= length else f"{text[: length - 2].rstrip()} …"


def pad(chunks: Chunks, count: int) -> Chunks:
    """The same prompt in `count` chunks or more: empty ones are added, as to an empty prompt."""
    missing = max(count - len(chunks.ids), 0)
    return replace(
        chunks,
        ids=np.concatenate([chunks.ids, np.tile(chunks.empty, (missing, 1))]),
        weights=np.pad(chunks.weights, ((0, missing), (0, 0)), constant_values=1),
    )

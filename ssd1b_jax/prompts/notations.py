"""Notations of other programs' prompts that have no meaning here: they are read as words, and a note says so."""

import re
from collections.abc import Collection

from ssd1b_jax.errors import RequestError
from ssd1b_jax.prompts.syntax import shorten

# Every repeat is bounded, so that the time grows with the text's length alone.
TAG = "a LoRA's tag"
NOTATIONS = {
    TAG: r"<(?:lora|lyco|hypernet):[^<>]{1,200}>",
    "prompt editing": r"\[[^][|]{0,200}:[^][|]{0,200}:\s{0,9}[0-9.]{1,9}\s{0,9}\]",
    "alternation": r"\[[^][|]{0,200}\|[^][]{0,200}\]",
    "a composition": r"\bAND\b",
    "a wildcard": r"__[\w*/-]{1,80}?__",
    "a choice": r"\{[^{}|]{0,200}\|[^{}]{0,200}\}",
    "an embedding": r"\bembedding:[^\s,]{1,80}",
}
_LORA = re.compile(r"<lora:([^:<>]{1,200})(?::([-+]?[0-9.]{1,10}))?(?::[^<>]{0,20})?>")
_PATTERNS = {name: re.compile(pattern) for name, pattern in NOTATIONS.items()}
REMEDIES = {
    TAG: "give the file as a LoRA",
    "prompt editing": "write one of the two",
    "alternation": "write one of them",
    "a composition": "write one prompt",
    "a wildcard": "runs choose by --wildcards",
    "a choice": "runs choose by --wildcards",
    "an embedding": "describe it",
}
MAX_QUOTE = 28  # characters of a notation, so that a note has room for what to do


def notes(name: str, prompt: str) -> list[str]:
    """A sentence for each notation in a prompt; `name` is what the prompt is called."""
    sentences = []
    for notation, pattern in _PATTERNS.items():
        match = pattern.search(prompt)
        if match:
            quoted = repr(shorten(match[0], MAX_QUOTE))
            sentences.append(f"the {name} has {notation}, {quoted}, which is taken as words: {REMEDIES[notation]}")
    return sentences


def without_tags(prompt: str) -> str:
    """The prompt without tags of LoRAs, known or not."""
    return _PATTERNS[TAG].sub(" ", prompt)


def take_loras(prompt: str, known: Collection[str] | None = None) -> tuple[str, dict[str, float]]:
    """The prompt without its `<lora:NAME:SCALE>`, and the scales by name; a scale that is left out is 1.

    Where the names of LoRAs are `known`, only tags of these are taken. Raises RequestError.
    """
    loras: dict[str, float] = {}

    def take(tag: re.Match) -> str:
        name, scale = tag[1], tag[2] or "1"
        if known is not None and name not in known:
            return tag[0]
        try:
            loras[name] = float(scale)
        except ValueError:
            raise RequestError(f"prompt: the scale of lora {name!r} must be a number, got {scale!r}") from None
        return ""

    rest = _LORA.sub(take, prompt)
    return (rest.strip() if loras else prompt), loras

"""Notations of other programs' prompts that have no meaning here: they are read as words, and a note says so."""

import re

# Every repeat is bounded, so that the time grows with the text's length alone.
NOTATIONS = {
    "a LoRA's tag": r"<(?:lora|lyco|hypernet):[^<>]{1,200}>",
    "prompt editing": r"\[[^][|]{0,200}:[^][|]{0,200}:\s{0,9}[0-9.]{1,9}\s{0,9}\]",
    "alternation": r"\[[^][|]{0,200}\|[^][]{0,200}\]",
    "a composition": r"\bAND\b",
    "a wildcard": r"__[\w*/-]{1,80}?__",
    "a choice": r"\{[^{}|]{0,200}\|[^{}]{0,200}\}",
    "an embedding": r"\bembedding:[^\s,]{1,80}",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in NOTATIONS.items()}
REMEDIES = {"a LoRA's tag": ": give the file as a LoRA"}


def notes(name: str, prompt: str) -> list[str]:
    """A sentence for each notation in a prompt; `name` is what the prompt is called."""
    sentences = []
    for notation, pattern in _PATTERNS.items():
        match = pattern.search(prompt)
        if match:
            remedy = REMEDIES.get(notation, "")
            sentences.append(f"the {name} has {notation}, {match[0]!r}, which is taken as words{remedy}")
    return sentences

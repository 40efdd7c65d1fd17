"""The embedded model's own CLIP vocabulary: 3,072 entries instead of 49,408, learned from its words."""

import json
from pathlib import Path

from tokenizers import pre_tokenizers
from tokenizers.trainers import BpeTrainer

from ssd1b_jax.errors import TrainingError
from ssd1b_jax.prompts.tokenizer import BEGIN, END, PromptTokenizer, clip_bpe
from ssd1b_jax.training.things import COLORS, THINGS, prompt

PADDING = {"tokenizer": END, "tokenizer_2": "!"}


def build(size: int, words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's layout: every byte, every byte that ends a word, merges by rank, the two special tokens.

    `words` are to be read well, beside the things' names.
    """
    prompts = [prompt(thing, color) for thing in range(len(THINGS)) for color in range(len(COLORS))]
    trainer = BpeTrainer(vocab_size=2 * size, end_of_word_suffix="</w>", show_progress=False)
    bpe = clip_bpe({}, [])
    bpe.train_from_iterator(prompts + words, trainer)
    alphabet = _byte_alphabet()
    entries = alphabet + [byte + "</w>" for byte in alphabet]
    merges = []
    for left, right in json.loads(bpe.to_str())["model"]["merges"]:
        if len(entries) == size - 2:
            break
        if left in entries and right in entries and left + right not in entries:
            entries.append(left + right)
            merges.append((left, right))
    if len(entries) != size - 2:
        raise TrainingError(f"{len(merges)} merges were learned, {size - 2 - 512} are wanted: give more words")
    entries += [BEGIN, END]
    return {entry: index for index, entry in enumerate(entries)}, merges


def _byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes, in CLIP's order: printable ones first, from '!'."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
    return sorted(alphabet, key=lambda character: (ord(character) not in printable, ord(character)))


def save(folder: Path, words: list[str], *, size: int, length: int) -> None:
    """Write `tokenizer/` and `tokenizer_2/` as released folders have them."""
    vocab, merges = build(size, words)
    for name, pad in PADDING.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
        (target / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = dict(tokenizer_class="CLIPTokenizer", model_max_length=length, pad_token=pad)
        config |= dict(bos_token=BEGIN, eos_token=END, unk_token=END)
        (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def load(folder: Path, length: int) -> tuple[PromptTokenizer, PromptTokenizer]:
    first, second = (PromptTokenizer.from_folder(folder / name, length=length) for name in PADDING)
    return first, second

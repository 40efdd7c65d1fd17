"""Prompts to token ids: CLIP's byte-pair encoding by the `tokenizers` library.

The rules are those of transformers' CLIPTokenizer, without importing transformers, which costs
more time than the rest of a cold start.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_bpe(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """CLIP's normalization, word splitting and merges around a vocabulary."""
    bpe = BPE(vocab=vocab, merges=list(merges), end_of_word_suffix="</w>", unk_token=END)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    if vocab:
        tokenizer.add_special_tokens([BEGIN, END])
    return tokenizer


@dataclass(frozen=True)
class Tokens:
    """`ids` of fixed length, and the end of the prompt that did not fit, if any."""

    ids: Int32[np.ndarray, " length"]
    dropped: str = ""


class PromptTokenizer:
    """One of a model's two tokenizers; they differ in what they pad with."""

    def __init__(self, bpe: Tokenizer, *, length: int, pad_token: str):
        self.length = length
        self._bpe = bpe
        self._begin, self._end = bpe.token_to_id(BEGIN), bpe.token_to_id(END)
        pad = bpe.token_to_id(pad_token)
        if None in (self._begin, self._end, pad):
            raise ValueError(f"the vocabulary must hold {BEGIN}, {END} and the padding {pad_token!r}")
        self._pad = pad

    @classmethod
    def from_folder(cls, folder: Path, *, length: int) -> "PromptTokenizer":
        """Read `vocab.json` and `merges.txt`, or `tokenizer.json`; padding is in `tokenizer_config.json`."""
        folder = Path(folder)
        if (folder / "vocab.json").exists():
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            pairs = [line.split() for line in lines if line and not line.startswith("#version")]
            bpe = clip_bpe(vocab, [(left, right) for left, right in pairs])
        else:
            bpe = Tokenizer.from_file(str(folder / "tokenizer.json"))
            bpe.no_padding()
            bpe.no_truncation()
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        pad = config.get("pad_token", END)
        pad = pad["content"] if isinstance(pad, dict) else pad
        # Special, so that it is found in a prompt before words are split: SDXL's second pads with "!".
        if bpe.token_to_id(pad) is not None:
            bpe.add_special_tokens([pad])
        return cls(bpe, length=length, pad_token=pad)

    def __call__(self, prompt: str) -> Tokens:
        """`<|startoftext|>`, the prompt, `<|endoftext|>`, padding; a prompt that is too long is cut."""
        encoded = self._bpe.encode(prompt, add_special_tokens=False)
        room = self.length - 2
        ids = np.full(self.length, self._pad, np.int32)
        kept = [self._begin, *encoded.ids[:room], self._end]
        ids[: len(kept)] = kept
        dropped = prompt[encoded.offsets[room][0] :] if len(encoded.ids) > room else ""
        return Tokens(ids, dropped)

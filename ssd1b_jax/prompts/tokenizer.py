"""Prompts to token ids: CLIP's byte-pair encoding by the `tokenizers` library.

The rules are those of transformers' CLIPTokenizer. transformers itself is not imported: that costs
more time than the rest of a cold start.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ssd1b_jax.errors import ModelError, RequestError

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
    return tokenizer


class Encoded(NamedTuple):
    """Token ids of a text, and the index of the character that each token starts at."""

    ids: list[int]
    starts: list[int]


@dataclass(frozen=True)
class Row:
    """One row of ids for a text encoder, and the end of the prompt that did not fit, if any."""

    ids: Int32[np.ndarray, " length"]
    dropped: str = ""


class PromptTokenizer:
    """One of a model's two tokenizers, which differ in their padding.

    `length` is that of a row of ids. `begin`, `end` and `pad` are ids. Special tokens must be among the
    added tokens of `bpe`, which it looks for before it splits words.
    """

    def __init__(self, bpe: Tokenizer, *, length: int, pad_token: str):
        begin, end, pad = (bpe.model.token_to_id(token) for token in (BEGIN, END, pad_token))
        if None in (begin, end, pad):
            raise ModelError(f"the vocabulary must hold {BEGIN}, {END} and the padding {pad_token!r}")
        self.length = length
        self.begin, self.end, self.pad = begin, end, pad
        self._bpe = bpe

    @classmethod
    def from_folder(cls, folder: Path, *, length: int) -> "PromptTokenizer":
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt`, and the padding from `tokenizer_config.json`.

        Of `tokenizer.json` only words, merges and added tokens are read, as in transformers. Its rules are not.
        """
        folder = Path(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        added = config.get("added_tokens_decoder", {}).values()
        if (folder / "tokenizer.json").exists():
            single = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            vocab, merges, added = single["model"]["vocab"], single["model"]["merges"], added or single["added_tokens"]
        else:
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [line for line in lines if line and not line.startswith("#version")]
        pairs = [merge.split() if isinstance(merge, str) else merge for merge in merges]
        bpe = clip_bpe(vocab, [(left, right) for left, right in pairs])
        special = _special_tokens(config, {token["content"]: _added_token(token) for token in added})
        bpe.add_tokens(list(special.values()))
        pad = config.get("pad_token") or END
        return cls(bpe, length=length, pad_token=pad["content"] if isinstance(pad, Mapping) else pad)

    def encode(self, text: str) -> Encoded:
        """The ids of a text of any length, without those that begin, end or pad a row.

        Raises RequestError for half a surrogate pair, which stands for no character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"a prompt must be Unicode text, got half a character, {text[error.start]!r}: decode its bytes as UTF-8"
            ) from None
        encoded = self._bpe.encode(text, add_special_tokens=False)
        return Encoded(encoded.ids, [start for start, _ in encoded.offsets])

    @property
    def room(self) -> int:
        """The number of a text's ids that fit into a row."""
        return self.length - 2

    def frame(self, ids: Sequence[int]) -> Int32[np.ndarray, " length"]:
        """A row: `<|startoftext|>`, the ids (at most `room`), `<|endoftext|>`, padding."""
        row = np.full(self.length, self.pad, np.int32)
        row[: len(ids) + 2] = [self.begin, *ids, self.end]
        return row

    def vocabulary(self) -> dict[str, int]:
        """The id of every word, special ones included."""
        return self._bpe.get_vocab(with_added_tokens=True)

    def __call__(self, prompt: str) -> Row:
        """One row. A prompt that is too long is cut."""
        ids, starts = self.encode(prompt)
        dropped = prompt[starts[self.room] :] if len(ids) > self.room else ""
        return Row(self.frame(ids[: self.room]), dropped)


def _special_tokens(config: Mapping[str, Any], added: Mapping[str, AddedToken]) -> dict[str, AddedToken]:
    """The added tokens, and those that only the config names. As in transformers, the last spelling counts."""
    special = dict(added)
    named = []
    for name, default in (("bos_token", BEGIN), ("eos_token", END), ("unk_token", END), ("pad_token", END)):
        token = config.get(name) or default
        if token not in named:
            named.append(token)
    for token in named:
        token = _added_token(token if isinstance(token, Mapping) else {"content": token, "normalized": False})
        special[token.content] = added.get(token.content, token)
    return special


def _added_token(token: Mapping[str, Any]) -> AddedToken:
    """A special token. `normalized` ones match upper and lower case."""
    flags = {name: token[name] for name in ("single_word", "lstrip", "rstrip", "normalized") if name in token}
    return AddedToken(token["content"], special=True, **flags)

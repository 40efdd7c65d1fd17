"""The words that a model knows, where its folder lists them: a note names those of a prompt that it does not know.

The list is a JSON object: `words` are all of them, in lower case, and `near` has for some other words the known one to
try instead. A model without a list, such as SSD-1B, is taken to know every word.
"""

import difflib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ssd1b_jax.errors import ModelError
from ssd1b_jax.prompts.syntax import shorten

FILE = "words.json"
NAMED = 3  # words of a prompt in one note
SMALL = frozenset("a an and at by for from in is it of on the to with".split())  # nobody asks for these
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
LONG = 30  # characters of a word that are shown
_ALIKE = 0.8  # of difflib's ratio, to be offered


@dataclass(frozen=True)
class KnownWords:
    """The list of one model; `model` is the name that people give it by."""

    model: str
    words: Collection[str]
    near: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, model: str) -> "KnownWords | None":
        """The list in a model folder, None where there is none. Raises ModelError for one that can't be read."""
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            return cls(model, frozenset(data["words"]), dict(data.get("near", {})))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{file} is no list of words: copy the model again, or remove that file") from None

    def notes(self, text: str) -> list[str]:
        """At most one sentence, about the words of a prompt's plain text that the model does not know."""
        unknown = [word for word in dict.fromkeys(_WORD.findall(text.lower())) if not self._knows(word)]
        if not unknown:
            return []
        named = ", ".join(f"{shorten(word, LONG)!r}{self._hint(word)}" for word in unknown[:NAMED])
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        return [f"{self.model} does not know {named}{more}: `ssd1b info` lists its words"]

    def _knows(self, word: str) -> bool:
        return word in SMALL or word in self.words or all(part in self.words for part in re.split("['’-]", word))

    def _hint(self, word: str) -> str:
        near = self.near.get(word) or next(iter(difflib.get_close_matches(word, self.words, 1, _ALIKE)), None)
        return f" (try {near!r})" if near else ""

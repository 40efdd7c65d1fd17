"""Shares of a run for workers that know nothing of each other."""

import hashlib
from dataclasses import dataclass

from ssd1b_jax.errors import RequestError


@dataclass(frozen=True)
class Shard:
    """One of `count` shares, from 1. Which one has a picture follows from its name: lines that are added move none."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """I/N. Raises RequestError."""
        index, _, count = text.partition("/")
        try:
            shard = cls(int(index), int(count))
        except ValueError:
            shard = cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise RequestError(f"shard must be I/N with I from 1 to N, got {text!r}")
        return shard

    @property
    def worker(self) -> str:
        """The end of the names of this share's own files; none where there is one share."""
        return f"{self.index}-of-{self.count}" if self.count > 1 else ""

    def has(self, name: str) -> bool:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) % self.count == self.index - 1

"""Leases: workers that share a folder and nothing else take blocks of lines, and each block counts once.

A block's lease is a file that only one of many can create. It is renewed while its worker lives; once it has run out,
another worker takes the block by creating the next lease. A block that is done is committed by creating the file of its
entries, which again only one can do. When every block is done one worker puts all entries into results.jsonl.

    .claims/BLOCK.lease-N     who works at a block, and until when
    .claims/BLOCK.jsonl       its entries, once it is done
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

from ssd1b_jax.errors import SaveError
from ssd1b_jax.runs import journal, leases
from ssd1b_jax.runs.index import KEPT, REDONE, Index
from ssd1b_jax.runs.journal import CLAIMS
from ssd1b_jax.runs.place import Place

BLOCK = 16  # lines that are taken together
MERGE = "merge"  # the block that is putting all together


class Merged(Exception):
    """All blocks are done, and another worker has put them together."""


class Claims:
    """One worker's blocks. `seconds` is how long a lease lasts that is not renewed.

    `lost` counts entries of blocks that another worker took and has committed first.
    """

    def __init__(self, folder: Place, seconds: float):
        self.lost = 0
        self._folder, self._seconds = folder, seconds
        self._mutex = threading.Lock()
        self._mine: dict[str, int] = {}  # blocks that are not committed, and the numbers of their leases
        self._entries: dict[str, list[journal.Entry]] = defaultdict(list)
        self._expected: dict[str, int] = {}
        self._current: str | None = None
        self._is_current_mine = False
        self._skipped: set[str] = set()
        self._leases: dict[str, int] = {}
        self._done: set[str] = set()
        self._committed: set[str] = set()  # by this worker
        self._results = folder.identity(journal.file_name())
        folder.make(CLAIMS)
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="ssd1b-leases", daemon=True)
        self._renewer.start()

    # A pass over the manifest: `begin`, `takes` for each line in order, `expect` for each picture of it, `end`.

    def begin(self) -> None:
        """Look at all leases. Raises Merged."""
        self._skipped.clear()
        self._leases, self._done = self._look()

    def takes(self, number: int) -> bool:
        """Whether the line of this number is this worker's to make."""
        block = f"{number // BLOCK:08}"
        if block != self._current:
            self._close()
            self._current, self._is_current_mine = block, block not in self._done and self._take(block)
            if self._is_current_mine:
                self._expected[block] = 1  # the block's end
            elif block not in self._done:
                self._skipped.add(block)
        return self._is_current_mine

    def is_others(self, number: int) -> bool:
        """Whether the line of this number is of a block that another worker has committed."""
        block = f"{number // BLOCK:08}"
        return block in self._done and block not in self._committed

    def expect(self) -> None:
        """One more entry will be added of the current line's block."""
        with self._mutex:
            self._expected[self._current] += 1

    def end(self) -> None:
        self._close()

    def add(self, entry: journal.Entry) -> None:
        """Add an entry to its block, which is committed with its last one. Raises SaveError."""
        block = f"{entry['line'] // BLOCK:08}"
        with self._mutex:
            self._entries[block].append(entry)
        self._finish_one(block)

    def _close(self) -> None:
        if self._is_current_mine:
            self._finish_one(self._current)
        self._current, self._is_current_mine = None, False

    def _finish_one(self, block: str) -> None:
        with self._mutex:
            self._expected[block] -= 1
            if self._expected[block]:
                return
            entries = self._entries.pop(block, [])
            del self._expected[block]
            lease = self._mine.pop(block)
        is_first = False
        with suppress(FileNotFoundError):  # merged
            data = b"".join(map(journal.dump, entries))
            is_first = self._folder.create(f"{CLAIMS}/{block}.jsonl", data, parents=False)
        if is_first:
            self._committed.add(block)
        else:
            self.lost += len(entries)
        self._folder.discard(leases.of_block(block, lease))

    def wait(self) -> bool:
        """Wait while other workers are at the blocks that are left. False once all are done. Raises Merged."""
        while True:
            last, done = self._look()
            if self._skipped <= done:
                return False
            if any(self._is_free(block, last.get(block, 0)) for block in self._skipped - done):
                return True
            time.sleep(min(1.0, self._seconds / 4))

    def merge(self, kept: Iterator[journal.Entry], index: Index) -> None:
        """Put the entries that are `kept` and those of all blocks into results.jsonl. Raises Merged if another did."""
        while True:
            self._leases, self._done = self._look()
            if self._take(MERGE):
                break
            time.sleep(min(1.0, self._seconds / 4))
        for name in journal.claimed(self._folder):
            for entry in journal.read(self._folder, name):
                if entry["output"]:
                    index.set(entry["output"], REDONE)
        old = (entry for entry in kept if index.state(entry["output"]) == KEPT)
        new = (journal.read(self._folder, name) for name in journal.claimed(self._folder))
        self._folder.write_lines(journal.file_name(), map(journal.dump, chain(old, *new)))
        self._mine.clear()
        self._folder.move_aside(CLAIMS)

    def close(self) -> None:
        """Give up what is not done, so that others take it at once."""
        self._ended.set()
        self._renewer.join()
        with self._mutex:
            mine, self._mine = self._mine, {}
        for block, lease in mine.items():
            self._folder.discard(leases.of_block(block, lease))
        self._folder.remove_empty(CLAIMS)

    def _look(self) -> tuple[dict[str, int], set[str]]:
        """The last lease of each block, and the blocks that are done. Raises Merged."""
        last: dict[str, int] = {}
        done = set()
        for name in self._folder.names(f"{CLAIMS}/", ""):
            if name.endswith(journal.END):
                done.add(name.removeprefix(f"{CLAIMS}/").removesuffix(journal.END))
            elif lease := leases.parse(name):
                block, number = lease
                last[block] = max(last.get(block, 0), number)
        # They were all there, if results.jsonl is as it was: it is written before any of them goes.
        if self._folder.identity(journal.file_name()) != self._results:
            raise Merged
        return last, done

    def _take(self, block: str) -> bool:
        last = self._leases.get(block, 0)
        if not self._is_free(block, last):
            return False
        lease = leases.of_block(block, last + 1)
        try:
            if not self._folder.create(lease, leases.data(self._folder, self._seconds), parents=False):
                return False
        except FileNotFoundError:  # merged; or removed by one that found it empty
            self._folder.make(CLAIMS)
            return False
        if self._folder.identity(journal.file_name()) != self._results:
            self._folder.discard(lease)
            raise Merged
        if self._folder.exists(f"{CLAIMS}/{block}.jsonl"):  # done in the meantime
            self._folder.discard(lease)
            return False
        with self._mutex:
            self._mine[block] = last + 1
        return True

    def _is_free(self, block: str, last: int) -> bool:
        """Whether the last lease of a block has run out."""
        return not last or leases.is_over(self._folder.read(leases.of_block(block, last)))

    def _renew(self) -> None:
        while not self._ended.wait(self._seconds / 3):
            with self._mutex:
                mine = dict(self._mine)
            for block, lease in mine.items():
                try:
                    held = leases.data(self._folder, self._seconds)
                    self._folder.write(leases.of_block(block, lease), held, parents=False)
                    if block not in self._mine:  # committed meanwhile
                        self._folder.discard(leases.of_block(block, lease))
                except (SaveError, FileNotFoundError):  # a picture that can't be saved ends the run
                    pass

"""All outputs of a run by their names, in a database of its own that lies on the disk: a million take no memory."""

import sqlite3
from collections.abc import Iterator

from ssd1b_jax.runs.names import key

# To be made; there; to be made again, as damaged, or as it failed before; another worker's; no picture.
PENDING, KEPT, REDONE, RETRIED, OTHERS, SIDECAR = range(6)


class Index:
    """The outputs of a manifest and what became of them. Gone when it is closed, or no longer used."""

    def __init__(self):
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE names (key TEXT PRIMARY KEY, line INT, state INT) WITHOUT ROWID")
        self._database.execute("CREATE TABLE parents (key TEXT PRIMARY KEY, line INT) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self._parent = ""  # of the last name

    def add(self, name: str, line: int, state: int = PENDING) -> int | None:
        """Take a name. The line that has a name like it already, else None."""
        try:
            self._database.execute("INSERT INTO names VALUES (?, ?, ?)", (key(name), line, state))
        except sqlite3.IntegrityError:
            return self._database.execute("SELECT line FROM names WHERE key = ?", (key(name),)).fetchone()[0]
        parent = name.rpartition("/")[0]
        if parent != self._parent:
            self._parent = parent
            while parent:
                self._database.execute("INSERT OR IGNORE INTO parents VALUES (?, ?)", (key(parent), line))
                parent = parent.rpartition("/")[0]
        return None

    def in_the_way(self) -> Iterator[tuple[str, int, int]]:
        """Names that are a file in one line and a folder in another, and both lines."""
        yield from self._database.execute(
            "SELECT names.key, names.line, parents.line FROM names JOIN parents ON names.key = parents.key LIMIT 20"
        )

    def set(self, name: str, state: int) -> bool:
        """Note what became of an output. False where the manifest has no such name."""
        changed = self._database.execute("UPDATE names SET state = ? WHERE key = ?", (state, key(name)))
        return changed.rowcount > 0

    def state(self, name: str) -> int | None:
        """What became of an output, None where the manifest has no such name."""
        row = self._database.execute("SELECT state FROM names WHERE key = ?", (key(name),)).fetchone()
        return None if row is None else row[0]

    def counts(self) -> dict[int, int]:
        """How many outputs are in each state."""
        return dict(self._database.execute("SELECT state, COUNT(*) FROM names GROUP BY state"))

    def close(self) -> None:
        self._database.close()

    __del__ = close

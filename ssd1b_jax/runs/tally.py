"""How far a run is: counts, speed, and the status file that other processes read."""

import json
import os
import socket
import threading
import time
from collections import Counter
from typing import Any

from ssd1b_jax.errors import SaveError
from ssd1b_jax.runs.place import Place

SECONDS = 2.0  # between two status files


def status_name(worker: str = "") -> str:
    """The status file of the only worker, or of one of several."""
    return f"status-{worker}.json" if worker else "status.json"


class Tally:
    """Counts pictures, from many threads. `total` is what the run has in all; `others` made some of it meanwhile."""

    def __init__(self, total: int = 0, kept: int = 0):
        self.total, self.kept, self.completed, self.others = total, kept, 0, 0
        self.failed: Counter[str] = Counter()
        self.begin()
        self._mutex = threading.Lock()

    def begin(self) -> None:
        """Measure the speed from now on."""
        self._began = time.monotonic()

    def add(self, failure: str | None = None) -> None:
        """Count a picture that was made, or the kind of error that it failed with."""
        with self._mutex:
            if failure is None:
                self.completed += 1
            else:
                self.failed[failure] += 1

    @property
    def done(self) -> int:
        return self.kept + self.others + self.completed + self.failed.total()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Pictures that were made, a second."""
        return self.completed / max(self.seconds, 1e-6)

    @property
    def seconds_left(self) -> float | None:
        """None before the first picture."""
        return (self.total - self.done) / self.rate if self.completed else None

    def facts(self) -> dict[str, Any]:
        left = self.seconds_left
        return dict(
            total=self.total,
            kept=self.kept,
            made=self.completed,
            made_by_others=self.others,
            failed=self.failed.total(),
            failures=dict(self.failed),
            seconds=round(self.seconds, 3),
            pictures_per_second=round(self.rate, 3),
            seconds_left=None if left is None else round(left, 1),
        )

    def summary(self) -> str:
        """A sentence."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failed.items()))
        failed = f"{self.failed.total()} failed" + (f" ({kinds})" if kinds else "")
        others = f", {self.others} made by others" if self.others else ""
        return f"{self.completed} made{others}, {self.kept} kept, {failed}, {self.rate:.2f} pictures/s"


class Status:
    """Writes a status file now and then while it is open. At the end its state is "stopped", unless it was set."""

    def __init__(self, folder: Place, name: str, tally: Tally):
        self.state = "running"
        self._folder, self._name, self._tally = folder, name, tally
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ssd1b-status", daemon=True)

    def __enter__(self) -> "Status":
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()
        self._thread.join()
        if self.state == "running":
            self.state = "stopped"
        try:
            self.write()
        except SaveError:  # of a full disk, which something else has told
            pass

    def write(self) -> None:
        about = dict(state=self.state, host=socket.gethostname(), process=os.getpid(), updated=round(time.time(), 1))
        self._folder.write(self._name, (json.dumps(about | self._tally.facts()) + "\n").encode())

    def _run(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self.write()
            except SaveError:  # a picture that can't be saved ends the run
                pass

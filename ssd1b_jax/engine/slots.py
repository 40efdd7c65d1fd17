"""Rows on the devices, and the pictures that are in them.

A block has `devices x width` rows. A picture may change its block, but never its device and its row: one that has to
wait keeps its state where it is, and on a CPU the row decides how sums are rounded.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ssd1b_jax.config import VAEConfig
from ssd1b_jax.engine.inputs import HostInputs
from ssd1b_jax.engine.jobs import Job
from ssd1b_jax.engine.pictures import InputPicture, InputPictures
from ssd1b_jax.engine.scheduler import Work
from ssd1b_jax.engine.stages import Slots
from ssd1b_jax.images import previews

Entries = list[list["Entry | None"]]  # devices, rows
Lane = tuple[int, int]  # a device, and a row of every block there


class Place(NamedTuple):
    """A row of a block."""

    block: "Block"
    device: int
    row: int

    @property
    def lane(self) -> Lane:
        return self.device, self.row


@dataclass(eq=False, kw_only=True)
class Entry(Work):
    """A picture in the queue. Only the queue's own threads change it.

    `call` counts model calls that the devices were told of, `seen_calls` those that are done. `finite` are arrays on
    the devices, by stage, with the picture's place in them; so is `denoised`. `row` is the row that the picture has, or
    has to have. `programs` keeps those that it runs. `is_done` is set where its future is about to be.
    """

    job: Job
    future: Future
    priority: str
    caller: object
    submitted: float
    deadline: float | int | None = None
    index: int | None = None
    pictures: InputPictures
    watch: Callable[[list["Entry"]], None] | None = None
    row: int | None = None

    programs: Sequence[Any] = ()
    inputs: HostInputs | None = None
    is_done: bool = False
    is_reading: bool = False
    is_cancelled: bool = False
    is_retried: bool = False
    place: Place | None = None
    picture: InputPicture | None = None
    notes: tuple[str, ...] = ()
    call: int = 0
    seen_calls: int = 0
    seconds: float | int = 0.0
    finite: list[tuple[dict[str, Any], int, int]] = field(default_factory=list)
    denoised: tuple[Any, int, int] | None = None

    @property
    def remaining(self) -> float:
        return self.job.work(self.call) if self.call else self.job.total

    @property
    def is_waiting(self) -> bool:
        """Whether nothing was done for it yet."""
        return not (self.is_reading or self.finite or self.is_done) and self.inputs is None

    @property
    def is_ready(self) -> bool:
        """Whether it can be prepared."""
        return self.inputs is not None and self.place is None and not self.is_done

    @property
    def is_guided(self) -> bool:
        """Whether its next call is."""
        return self.job.span(self.call).guided

    def restart(self) -> None:
        """Forget everything that came from the devices."""
        self.inputs = self.place = self.denoised = None
        self.call = self.seen_calls = 0
        self.finite = []

    def release(self) -> None:
        """Let go of all that only an unfinished picture needs; its ticket may be kept for long."""
        self.inputs = self.picture = self.denoised = self.watch = None
        self.job = dataclasses.replace(self.job, picture=None)
        self.finite, self.programs = [], ()


class Block:
    """Rows that are advanced together, and the pictures in them, None where a row is free."""

    def __init__(self, slots: Slots, grid: Entries):
        self.slots = slots
        self.grid = grid
        for entry, device, row in taken(grid):
            entry.place, entry.row = Place(self, device, row), row

    def entries(self) -> list[Entry]:
        return [entry for entry, _, _ in taken(self.grid)]

    def remove(self, entry: Entry) -> None:
        """Free the picture's row."""
        self.grid[entry.place.device][entry.place.row] = None
        entry.place = None


class Outbox:
    """Latents of pictures that are done, until they are decoded together. `age` is in model calls."""

    def __init__(self, devices: int, width: int):
        self.latents: Any = None  # until there is a picture
        self.grid: Entries = [[None] * width for _ in range(devices)]
        self.age = 0

    def entries(self) -> list[Entry]:
        return [entry for entry, _, _ in taken(self.grid)]

    def has_room(self, lanes: Iterable[Lane]) -> bool:
        """Whether these rows are free."""
        return all(self.grid[device][row] is None for device, row in lanes)

    @property
    def is_full(self) -> bool:
        return not any(None in rows for rows in self.grid)


def taken(grid: Entries) -> Iterator[tuple[Entry, int, int]]:
    """Picture, device and row of each row that is not free."""
    for device, rows in enumerate(grid):
        for row, entry in enumerate(rows):
            if entry is not None:
                yield entry, device, row


def look(place: tuple[Any, int, int], vae: VAEConfig) -> np.ndarray | None:
    """The preview of a picture by its place in denoised latents."""
    denoised, device, row = place
    return previews.preview(vae, np.asarray(denoised)[device, row])

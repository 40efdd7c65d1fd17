"""One step of the queue after another: which pictures are read, prepared, advanced and decoded next.

The tables say when each picture is done, so calls are given to the devices ahead of what they have finished: at most
`DEPTH` wait there, and no device waits for the host.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax

from ssd1b_jax.engine.jobs import Group, Program
from ssd1b_jax.engine.runner import Runner
from ssd1b_jax.engine.scheduler import Scheduler
from ssd1b_jax.engine.slots import Block, Entry, Outbox

DEPTH = 2  # calls of stages that the devices have before them
MAX_BLOCKS = 6  # in the devices' memory
TICK_SECONDS = 0.25  # at most, where it can be: what is submitted meanwhile waits as long
MAX_TICK = 16  # model calls
PATIENCE = 4  # model calls that a picture which is done waits for others to be decoded with
TURN = 200  # model calls of one group before another one has its turn


@dataclass
class Flight:
    """A call that the devices have: `calls` are those that each picture has made after it."""

    result: Any
    calls: dict[Entry, int]
    work: float
    began: float
    landed: Callable[[], None] | None = None


class Ticks:
    """What is on the devices. Only the queue's thread calls this.

    `finish(entries by place, pixels)` takes decoded pixels, which are ready.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler, finish: Callable[[Any, list], None]):
        self.runner = runner
        self.scheduler = scheduler
        self.finish = finish
        self.blocks: dict[Group, list[Block]] = {}
        self.outboxes: dict[Program, Outbox] = {}
        self.flights: deque[Flight] = deque()
        self.group: Group | None = None
        self.turn = 0
        self.running: set[Entry] = set()
        self.ticks = 0
        self.busy_seconds = 0.0
        self._landed_at = 0.0

    @property
    def capacity(self) -> int:
        return self.runner.count * self.runner.width

    def step(self, order: Sequence[Entry]) -> bool:
        """Give the devices their next calls. False where there is nothing for them, and nothing that they have."""
        group = self._choose(order)
        ticked = False
        if group is not None:
            mine = [entry for entry in order if entry.job.group == group]
            self._prepare(group, mine)
            ticked = self._tick(group, [entry for entry in mine if entry.place is not None])
        self._decode(ticked)
        while len(self.flights) > (DEPTH if ticked else 0):
            self._land()
            if not ticked:
                return True  # look for news after each
        return ticked

    def drop(self, entry: Entry) -> None:
        """Free whatever a picture takes on the devices."""
        if entry.place is not None:
            entry.place.block.remove(entry)
        for outbox in self.outboxes.values():
            for rows in outbox.grid:
                rows[:] = [None if other is entry else other for other in rows]
        self._sweep()

    def clear(self) -> list[Entry]:
        """Forget everything on the devices; returns the pictures that were there."""
        boxes = [*(block for blocks in self.blocks.values() for block in blocks), *self.outboxes.values()]
        entries = {entry for box in boxes for entry in box.entries()}
        entries |= {entry for flight in self.flights for entry in flight.calls}
        self.blocks.clear()
        self.outboxes.clear()
        self.flights.clear()
        self.running = set()
        self.group = None
        return [*entries]

    def _choose(self, order: Sequence[Entry]) -> Group | None:
        """The group to run: it changes where another one is more urgent, or has waited for a turn."""
        can_prepare = sum(map(len, self.blocks.values())) < MAX_BLOCKS
        able = [entry for entry in order if entry.place is not None or (entry.is_ready and can_prepare)]
        if not able:
            return None
        lead = able[0]
        mine = next((entry for entry in able if entry.job.group == self.group), None)
        if mine is None or (mine is not lead and (self.turn >= TURN or self.scheduler.preempts(lead, mine))):
            self.group, self.turn = lead.job.group, 0
        return self.group

    def _prepare(self, group: Group, entries: Sequence[Entry]) -> None:
        """Prepare pictures where a device has a free row, or one that is to be given up.

        A whole block costs as much as one picture of it, so pictures that are being read are waited for.
        """
        ready = [entry for entry in entries if entry.is_ready][: self.capacity]
        if not ready or sum(map(len, self.blocks.values())) >= MAX_BLOCKS:
            return
        is_reading = any(entry.is_reading for entry in entries)
        if is_reading and len(ready) < self.capacity:
            return
        there = [entry for entry in entries if entry.place is not None]
        busy = [sum(entry.place.device == device for entry in there) for device in range(self.runner.count)]
        wanted = self.runner.width * max(len({entry.is_guided for entry in there}), 1)
        urgent = bool(there) and entries.index(ready[0]) < entries.index(there[-1])
        if min(busy) < wanted or (urgent and self.scheduler.preempts(ready[0], there[-1])):
            block, finite = self.runner.prepare(group, ready, busy)
            self.blocks.setdefault(group, []).append(block)
            self._fly(finite, dict.fromkeys(block.entries(), 0))

    def _tick(self, group: Group, entries: Sequence[Entry]) -> bool:
        """Advance the pictures of a group: those in guided calls, then the others. Rows that are done are collected."""
        kinds = {kind: self._rows([entry for entry in entries if entry.is_guided is kind]) for kind in (True, False)}
        for guided, rows in kinds.items():
            if not rows:
                continue
            block = self.runner.gather(group.program, rows, self.blocks[group])
            calls = self._calls(group, guided, rows)
            stops = {entry: entry.call + calls for entry in rows}
            denoised = self.runner.advance(group, block, stops, guided)
            self.ticks += 1
            self.turn += calls
            work = calls * (1 + guided) * rows[0].job.area
            self._fly(denoised, stops, work)
            places = {entry: (denoised, entry.place.device, entry.place.row) for entry in rows}
            self.flights[-1].landed = lambda places=places: self._show(places)
            for outbox in self.outboxes.values():
                outbox.age += calls
            self._collect(group.program, block, [entry for entry in rows if entry.call == entry.job.calls])
        return any(kinds.values())

    def _rows(self, entries: Sequence[Entry]) -> list[Entry]:
        """At most `width` pictures of each device: those that run, unless others are worth a change."""
        rank = {entry: i for i, entry in enumerate(entries)}
        chosen = []
        for _, mine in groupby(sorted(entries, key=_device), key=_device):
            mine = sorted(mine, key=lambda entry: (entry not in self.running, rank[entry]))
            rows, others = mine[: self.runner.width], mine[self.runner.width :]
            for entry in others:
                last = max(rows, key=rank.__getitem__)
                if rank[entry] < rank[last] and self.scheduler.preempts(entry, last):
                    rows[rows.index(last)] = entry
            chosen += rows
        self.running = {entry for entry in self.running if entry not in rank} | set(chosen)
        return chosen

    def _calls(self, group: Group, guided: bool, rows: Sequence[Entry]) -> int:
        """How many model calls to make: to the end of the first picture's, or of its span."""
        if any(entry.watch is not None for entry in rows):
            return 1
        left = min(entry.job.span(entry.call).stop - entry.call for entry in rows)
        seconds = self.scheduler.rate * (1 + guided) * rows[0].job.area
        return max(1, min(left, MAX_TICK, int(TICK_SECONDS / seconds)))

    def _collect(self, program: Program, block: Block, done: Sequence[Entry]) -> None:
        """Free the rows of pictures that are done, and keep their latents to be decoded together."""
        if not done:
            return
        self.running.difference_update(done)
        others = sum(len(each.entries()) for blocks in self.blocks.values() for each in blocks) - len(done)
        if len(done) == self.capacity or not others:  # nothing to wait for
            grid = [list(rows) for rows in block.grid]
            latents = block.slots.state.latents
            for entry in done:
                block.remove(entry)
            self._send(program, latents, grid)
        else:
            needed = [sum(entry.place.device == device for entry in done) for device in range(self.runner.count)]
            outbox = self.outboxes.get(program)
            if outbox is not None and not outbox.has_room(needed):
                self._flush(program)
                outbox = None
            if outbox is None:
                outbox = self.outboxes[program] = self.runner.outbox(block)
            self.runner.collect(program, outbox, block, done)
        self._sweep()

    def _decode(self, ticked: bool) -> None:
        """Decode what is full, what has waited, and everything once no picture is advanced."""
        for program, outbox in [*self.outboxes.items()]:
            entries = outbox.entries()
            if not entries:
                del self.outboxes[program]
                continue
            is_batch = all(entry.priority == "batch" for entry in entries)
            waited = outbox.age >= PATIENCE and not is_batch
            if outbox.is_full or waited or not ticked:
                self._flush(program)

    def _flush(self, program: Program) -> None:
        outbox = self.outboxes.pop(program)
        self._send(program, outbox.latents, outbox.grid)

    def _send(self, program: Program, latents, grid) -> None:
        pixels = self.runner.decode(program, latents, grid)
        places = [
            (entry, device, row)
            for device, rows in enumerate(grid)
            for row, entry in enumerate(rows)
            if entry is not None
        ]
        self._fly(pixels, {entry: entry.job.calls for entry, _, _ in places})
        self.flights[-1].landed = lambda: self.finish(pixels, places)

    def _fly(self, result, calls: dict[Entry, int], work: float = 0.0) -> None:
        self.flights.append(Flight(result, calls, work, time.perf_counter()))

    def _land(self) -> None:
        """Wait for the first call that the devices have, and share its time among its pictures."""
        flight = self.flights[0]  # stays, until it is known that it has not failed
        jax.block_until_ready(flight.result)
        self.flights.popleft()
        now = time.perf_counter()
        seconds = now - max(flight.began, self._landed_at)
        self._landed_at = now
        self.busy_seconds += seconds
        self.scheduler.measured(flight.work, seconds)
        for entry, calls in flight.calls.items():
            entry.seconds += seconds / len(flight.calls)
            entry.seen_calls = calls
        if flight.landed is not None:
            flight.landed()

    def _show(self, places: dict[Entry, tuple]) -> None:
        """Offer previews, and tell who watches."""
        watchers: dict[Callable, list[Entry]] = {}
        for entry, place in places.items():
            entry.denoised = place
            if entry.watch is not None:
                watchers.setdefault(entry.watch, []).append(entry)
        for watch, entries in watchers.items():
            watch(entries)

    def _sweep(self) -> None:
        """Drop blocks without a picture."""
        for group, blocks in [*self.blocks.items()]:
            blocks[:] = [block for block in blocks if block.entries()]
            if not blocks:
                del self.blocks[group]


def _device(entry: Entry) -> int:
    return entry.place.device

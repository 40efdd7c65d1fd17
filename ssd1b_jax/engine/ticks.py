"""One step of the queue after another: which pictures are read, prepared, advanced and decoded next.

The tables say when each picture is done, so calls are given to the devices ahead of what they have finished: at most
`DEPTH` wait there, and no device waits for the host.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ssd1b_jax.engine.jobs import Group, Program
from ssd1b_jax.engine.runner import Runner
from ssd1b_jax.engine.scheduler import Scheduler
from ssd1b_jax.engine.slots import Block, Entry, Lane, Outbox, taken

DEPTH = 2  # calls of stages that the devices have before them
MAX_BLOCKS = 6  # in the devices' memory
TICK_SECONDS = 0.25  # at most, where it can be: what is submitted meanwhile waits as long
MAX_TICK = 16  # model calls
PATIENCE = 4  # model calls that a picture which is done waits for others to be decoded with
TURN = 200  # model calls of one group before another one has its turn


@dataclass
class Flight:
    """A call that the devices have: `calls` are those that each picture has made after it.

    `result` is any of its arrays, for all are ready at once.
    """

    result: jax.Array
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
        self._warm: set[tuple[Program, bool]] = set()
        self._landed_at = 0.0

    @property
    def capacity(self) -> int:
        return self.runner.count * self.runner.width

    @property
    def _can_prepare(self) -> bool:
        return sum(map(len, self.blocks.values())) < MAX_BLOCKS

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
        self.runner.clear()
        self.running = set()
        self.group = None
        return [*entries]

    def _choose(self, order: Sequence[Entry]) -> Group | None:
        """The group to run: it changes where another one is more urgent, or has waited for a turn."""
        can_prepare = self._can_prepare
        able = (entry for entry in order if entry.place is not None or (can_prepare and entry.is_ready))
        lead = next(able, None)
        if lead is None or lead.job.group == self.group:
            return None if lead is None else self.group
        mine = next((entry for entry in able if entry.job.group == self.group), None)
        if mine is None or self.turn >= TURN or self.scheduler.preempts(lead, mine):
            self.group, self.turn = lead.job.group, 0
        return self.group

    def _prepare(self, group: Group, entries: Sequence[Entry]) -> None:
        """Prepare pictures where a device has a free row, or one that is to be given up.

        A whole block costs as much as one picture of it, so pictures that are being read are waited for.
        """
        ready = [*itertools.islice((entry for entry in entries if entry.is_ready), self.capacity)]
        if not ready or not self._can_prepare:
            return
        if len(ready) < self.capacity and any(entry.is_reading for entry in entries):
            return
        dealt = self._deal(ready, entries)
        if dealt:
            block, finite = self.runner.prepare(group, dealt)
            self.blocks.setdefault(group, []).append(block)
            self._fly(next(iter(finite.values())), dict.fromkeys(block.entries(), 0))

    def _deal(self, ready: Sequence[Entry], entries: Sequence[Entry]) -> dict[Lane, Entry]:
        """Lanes for the pictures that are ready, of all in order. None if all are busy and no picture is urgent.

        A lane is busy with a picture of each kind of call, and gets one more to go on with. Where a lane is free the
        longest picture takes the one with the least work.
        """
        placed = [entry for entry in entries if entry.place is not None]
        lanes: dict[Lane, list[Entry]] = {lane: [] for lane in self.runner.lanes}
        for entry in placed:
            lanes[entry.place.lane].append(entry)
        kinds = max(len({entry.is_guided for entry in placed}), 1)
        if any(len(pictures) < kinds for pictures in lanes.values()):
            lanes = {lane: pictures for lane, pictures in lanes.items() if len(pictures) <= kinds}
        elif entries.index(ready[0]) < entries.index(placed[-1]) and self.scheduler.preempts(ready[0], placed[-1]):
            lanes, ready = {placed[-1].place.lane: []}, ready[:1]
        else:
            return {}
        loads = {lane: sum(entry.remaining for entry in pictures) for lane, pictures in lanes.items()}
        dealt = {}
        for entry in sorted(ready[: len(lanes)], key=lambda entry: -entry.remaining):
            fitting = [lane for lane in loads if entry.row in (None, lane[1])]
            if fitting:
                lane = min(fitting, key=loads.__getitem__)
                dealt[lane] = entry
                del loads[lane]
        return dealt

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
            # A program's first call is slower than any after it, so it tells nothing of the speed.
            is_warm = (group.program, guided) in self._warm
            self._warm.add((group.program, guided))
            work = is_warm * calls * (1 + guided) * rows[0].job.area
            self._fly(denoised, stops, work)
            places = {entry: (denoised, entry.place.device, entry.place.row) for entry in rows}
            self.flights[-1].landed = lambda places=places: self._show(places)
            for outbox in self.outboxes.values():
                outbox.age += calls
            self._collect(group.program, block, [entry for entry in rows if entry.call == entry.job.calls])
        return any(kinds.values())

    def _rows(self, entries: Sequence[Entry]) -> list[Entry]:
        """One picture of each lane: the one that runs, unless another is worth a change."""
        lanes: dict[Lane, list[Entry]] = {}
        for entry in entries:
            lanes.setdefault(entry.place.lane, []).append(entry)
        chosen = []
        for first, *others in lanes.values():
            running = next((entry for entry in (first, *others) if entry in self.running), first)
            is_better = running is not first and self.scheduler.preempts(first, running)
            chosen.append(first if is_better else running)
        self.running = (self.running - set(entries)) | set(chosen)
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
            outbox = self.outboxes.get(program)
            if outbox is not None and not outbox.has_room(entry.place.lane for entry in done):
                self._flush(program)
                outbox = None
            if outbox is None:
                outbox = self.outboxes[program] = self.runner.outbox()
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
        places = [*taken(grid)]
        self._fly(pixels, {entry: entry.job.calls for entry, _, _ in places})
        self.flights[-1].landed = lambda: self.finish(pixels, places)

    def _fly(self, result, calls: dict[Entry, int], work: float = 0.0) -> None:
        self.flights.append(Flight(result, calls, work, time.perf_counter()))

    def _land(self) -> None:
        """Wait for the first call that the devices have, and share its time among its pictures."""
        flight = self.flights[0]  # stays, until it is known that it has not failed
        flight.result.block_until_ready()
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

"""Pictures and rows to calls of the compiled stages. Every call returns at once; the devices work in order."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ssd1b_jax.engine import programs
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.engine.jobs import Group, Program
from ssd1b_jax.engine.programs import Programs
from ssd1b_jax.engine.slots import Block, Entries, Entry, Lane, Outbox, Place, taken

PLACED = 64  # small arrays of a value for each row, which are kept on the devices


class Runner:
    """The devices of one pipeline."""

    def __init__(self, compiled: Programs, adapters: Adapters):
        self.programs = compiled
        self.devices = compiled.devices
        self.adapters = adapters
        self.count = len(self.devices.devices)
        self.width = self.devices.per_device
        self.lanes: list[Lane] = [(device, row) for device in range(self.count) for row in range(self.width)]
        self._placed: dict[tuple[type, tuple[int, ...]], jax.Array] = {}

    def _by_row(self, dtype: type, values: Mapping[Lane, int]) -> jax.Array:
        """A value of each row, 0 where there is none. Those that were asked for lately are on the devices."""
        key = dtype, tuple(values.get(lane, 0) for lane in self.lanes)
        placed = self._placed.pop(key, None)
        if placed is None:
            host = np.array(key[1], dtype).reshape(self.count, self.width)
            placed = jax.device_put(host, self.devices.sharded)
        self._placed[key] = placed
        if len(self._placed) > PLACED:
            del self._placed[next(iter(self._placed))]
        return placed

    def clear(self) -> None:
        """Forget what is kept on the devices beside parameters."""
        self._placed.clear()

    def run(self, name: str, program: Program, *arguments):
        """Call a stage, which is compiled first where it was not. Arguments are as `Calls.packed` says."""
        return self.programs.get(name, program)(*arguments)

    def prepare(self, group: Group, dealt: Mapping[Lane, Entry]) -> tuple[Block, dict]:
        """Prepare pictures in a new block, always as a whole one, so that no bit depends on how many there are.

        Lanes without a picture repeat one. Also returns whether the encoders gave finite values.
        """
        first = next(iter(dealt.values()))
        rows = [dealt.get(lane, first) for lane in self.lanes]
        grid: Entries = [[dealt.get((device, row)) for row in range(self.width)] for device in range(self.count)]
        inputs = tuple(self._stack(each) for each in zip(*(entry.inputs.packed for entry in rows), strict=True))
        params = self.adapters.arguments(group.loras, "prepare")
        slots, finite = self.run("prepare", group.program, params, inputs)
        block = Block(slots, grid)
        for entry, device, row in taken(grid):
            entry.picture, entry.notes = entry.inputs.picture, entry.inputs.notes
            entry.inputs = None
            entry.finite.append((finite, device, row))
        return block, finite

    def _stack(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """One array of the packs of all rows, by device; the call places it there."""
        return np.concatenate(rows).reshape(self.count, self.width, -1)

    def gather(self, program: Program, wanted: Sequence[Entry], blocks: Sequence[Block]) -> Block:
        """Bring pictures, at most one of each lane, into one block; the pictures that are in their rows leave it."""
        inside = {block: sum(entry.place.block is block for entry in wanted) for block in blocks}
        target = max(blocks, key=inside.__getitem__)
        for source in blocks:
            moving = [entry for entry in wanted if entry.place.block is source]
            if source is not target and moving:
                self._exchange(program, target, source, moving)
        return target

    def advance(self, group: Group, block: Block, stops: dict[Entry, int], guided: bool):
        """Make the calls of some pictures of a block up to their stops. Returns the predicted results, to look at."""
        calls = {entry.place.lane: stop - entry.call for entry, stop in stops.items()}
        for entry, stop in stops.items():
            entry.call = stop
        name = programs.advance(group.program.guided, guided)
        params = self.adapters.arguments(group.loras, name)
        state, fixed = block.slots
        state, denoised = self.run(name, group.program, params, state, fixed, self._by_row(np.int32, calls))
        block.slots = block.slots._replace(state=state)
        return denoised

    def outbox(self) -> Outbox:
        """An empty one."""
        return Outbox(self.count, self.width)

    def collect(self, program: Program, outbox: Outbox, block: Block, entries: Sequence[Entry]) -> None:
        """Move the latents of pictures that are done to the outbox, and free their rows."""
        chosen = dict.fromkeys((entry.place.lane for entry in entries), True)
        for entry in entries:
            _, device, row = entry.place
            outbox.grid[device][row] = entry
            block.remove(entry)
        latents = block.slots.state.latents
        before = latents if outbox.latents is None else outbox.latents
        outbox.latents = self.run("put_latents", program, {}, before, latents, self._by_row(np.bool_, chosen))

    def decode(self, program: Program, latents, grid: Entries):
        """Pixels of latents, on the devices; tells each picture of the grid where its `finite` are."""
        params = self.adapters.arguments((), "decode")
        pixels, finite = self.run("decode", program, params, latents)
        for entry, device, row in taken(grid):
            entry.finite.append((finite, device, row))
        return pixels

    def _exchange(self, program: Program, target: Block, source: Block, moving: Sequence[Entry]) -> None:
        """Swap pictures of `source` with what is in their rows of `target`."""
        pairs = [(entry, target.grid[entry.place.device][entry.place.row]) for entry in moving]
        into = {entry.place.lane: True for entry in moving}
        out_of = {entry.place.lane: True for entry, other in pairs if other is not None}
        old = target.slots
        target.slots = self.run("put", program, {}, old, source.slots, self._by_row(np.bool_, into))
        if out_of:
            source.slots = self.run("put", program, {}, source.slots, old, self._by_row(np.bool_, out_of))
        for entry, other in pairs:
            _, device, row = entry.place
            target.grid[device][row], source.grid[device][row] = entry, other
            entry.place = Place(target, device, row)
            if other is not None:
                other.place = Place(source, device, row)

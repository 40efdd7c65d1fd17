"""How the compiled stages are called: with few arrays, for a call costs by their number (see `packing`).

The stages themselves know nothing of it. Both sides of a call are here: the shapes that a stage is compiled for, and
the packings by which pictures are read and parameters placed.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ssd1b_jax.checkpoints.model_folder import abstract_params
from ssd1b_jax.engine import inputs, loop, stages
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.jobs import Program
from ssd1b_jax.engine.packing import Arrays, Packing
from ssd1b_jax.engine.parameters import USED, Parameters
from ssd1b_jax.engine.stages import Fixed, Slots, Stages, Steps
from ssd1b_jax.models import prepack

KEPT = 64  # programs whose rows are remembered


class Call(NamedTuple):
    """A stage, the shapes of its arguments on the devices, and which of them its results may take the memory of."""

    function: Callable
    arguments: tuple
    donate: str | None


class Sampled(NamedTuple):
    """`loop.State`, and the model calls that were made: a call then says only how many are to be made."""

    latents: Array
    registers: Array
    denoised: Array
    made: Int[Array, " batch"]


class PackedFixed(NamedTuple):
    """`Fixed`, packed. The arrays are (sides, batch, ...) and (batch, ...)."""

    conditioning: Arrays
    rest: Arrays


class Rows(NamedTuple):
    """The rows of a program: what is read for one, what stays the same while it is sampled, and the shapes of all."""

    inputs: Packing
    conditioning: Packing
    rest: Packing
    slots: Slots

    def pack(self, fixed: Fixed) -> PackedFixed:
        fixed = jax.lax.optimization_barrier(fixed)  # as in `Packing.unpack`
        return PackedFixed(
            self.conditioning.pack(fixed.conditioning), self.rest.pack(fixed._replace(conditioning=None))
        )

    def unpack(self, packed: PackedFixed) -> Fixed:
        return self.rest.unpack(packed.rest)._replace(conditioning=self.conditioning.unpack(packed.conditioning))


class Calls:
    """The calls of one model's stages on its devices."""

    def __init__(self, stages: Stages, devices: Devices):
        self.stages = stages
        self.devices = devices
        self._rows: dict[Program, Rows] = {}

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """Shapes of the parameters, by part."""
        shapes = abstract_params(self.stages.config, self.stages.dtypes)
        return {part: prepack(part, self.stages.config, tree, self.devices.platform) for part, tree in shapes.items()}

    def rows(self, program: Program) -> Rows:
        """How the rows of a program are packed."""
        rows = self._rows.get(program)
        if rows is None:
            one = inputs.abstract(program, self.stages.config)
            batch = self._rows_of(one)
            slots, _ = jax.eval_shape(self._stage("prepare"), self.params, batch)
            conditioning = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), slots.fixed.conditioning)
            rest = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), slots.fixed._replace(conditioning=None)
            )
            rows = Rows(Packing(one, lambda leaf: True), Packing(conditioning), Packing(rest), slots)
            self._rows[program] = rows
            for oldest in [*self._rows][:-KEPT]:
                self._rows.pop(oldest, None)
        return rows

    def plain(self, name: str, program: Program) -> Call:
        """A stage as it is."""
        fixed, step = self.rows(program).slots, jax.ShapeDtypeStruct((self.devices.per_device,), jnp.int32)
        batch = self._rows_of(inputs.abstract(program, self.stages.config))
        params = {part: self.params[part] for part in USED[name]}
        return self._call(self._stage(name), name, params, batch, fixed, Steps(step, step))

    def packed(self, name: str, program: Program) -> Call:
        """A stage as it is compiled and run: its parameters, inputs and what is fixed are packed.

        Rows know the calls that were made, and are told how many to make.
        """
        rows = self.rows(program)
        used = {part: Parameters(name, part, self.params[part]) for part in USED[name]}
        params = {part: parameters.shapes for part, parameters in used.items()}
        steps = jax.ShapeDtypeStruct((self.devices.per_device,), jnp.int32)
        slots = Slots(Sampled(*rows.slots.state, steps), jax.eval_shape(rows.pack, rows.slots.fixed))
        function = self._packed(name, used, rows)
        return self._call(function, name, params, self._rows_of(rows.inputs.shapes), slots, steps)

    def _packed(self, name: str, used: Mapping[str, Parameters], rows: Rows) -> Callable:
        stage = self._stage(name)

        def unpacked(params: Mapping[str, Arrays]) -> dict:
            return {part: used[part].unpack(arrays) for part, arrays in params.items()}

        @functools.wraps(stage)
        def prepare(params, inputs):
            slots, finite = stage(unpacked(params), rows.inputs.unpack(inputs))
            made = jnp.zeros(len(slots.state.latents), jnp.int32)
            return Slots(Sampled(*slots.state, made), rows.pack(slots.fixed)), finite

        @functools.wraps(stage)
        def advance(params, state, fixed, steps):
            *sampled, made = state
            steps = Steps(made, made + steps)
            sampled, denoised = stage(unpacked(params), loop.State(*sampled), rows.unpack(fixed), steps)
            return Sampled(*sampled, steps.stop), denoised

        @functools.wraps(stage)
        def decode(params, latents):
            return stage(unpacked(params), latents)

        return dict(prepare=prepare, decode=decode, put=stage, put_latents=stage).get(name, advance)

    def _stage(self, name: str) -> Callable:
        """A function of its own, so that what JAX keeps of its traces goes with it."""
        function = stages.put if name.startswith("put") else getattr(self.stages, name)

        @functools.wraps(function)
        def stage(*arguments):
            return function(*arguments)

        return stage

    def _call(self, function: Callable, name: str, params: dict, batch, slots: Slots, steps) -> Call:
        """Its arguments on the devices, of those that one device gets."""
        latents, chosen = slots.state.latents, jax.ShapeDtypeStruct((self.devices.per_device,), jnp.bool_)
        arguments: dict[str, tuple] = dict(
            prepare=(batch,),
            decode=(latents,),
            put=(slots, slots, chosen),
            put_latents=(latents, latents, chosen),
        )
        batches = arguments.get(name, (slots.state, slots.fixed, steps))
        placed = self.devices.replicate(params) if params else params
        return Call(function, (placed, *jax.tree.map(self._spread, batches)), None if name in arguments else "state")

    def _rows_of(self, one):
        """The shapes of a batch on one device, of those of a row."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self.devices.per_device, *x.shape), x.dtype), one)

    def _spread(self, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """The shape on all devices, of that on one."""
        return jax.ShapeDtypeStruct((len(self.devices.devices), *x.shape), x.dtype, sharding=self.devices.sharded)

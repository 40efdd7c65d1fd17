"""What a model needs of a device, before there is one.

The engine lowers its own stages from shapes alone (`engine.programs`): the plan compiles the programs that will run.
No weights are read; for TPUs the `tpu` extra stands in for the TPU.
"""

from dataclasses import dataclass

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import SingleDeviceSharding

from ssd1b_jax.checkpoints.model_folder import abstract_params
from ssd1b_jax.checkpoints.model_json import EMBEDDED, Manifest, check_dtype, read_manifest
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.programs import Lowerable, Programs
from ssd1b_jax.engine.stages import part_dtypes
from ssd1b_jax.errors import ModelError, PlanError
from ssd1b_jax.pipeline import planner
from ssd1b_jax.plan import compiler
from ssd1b_jax.plan.blocks import Block, blocks
from ssd1b_jax.plan.compiler import CHIPS, Chip, Cost, Say
from ssd1b_jax.presets import PRESETS
from ssd1b_jax.request import Request
from ssd1b_jax.settings import nearest

TITLES = {
    "prepare": "text encoders and VAE encoder",
    "advance": "denoising loop, one model call",
    "decode": "VAE decoder",
}


@dataclass(frozen=True, kw_only=True)
class PlannedProgram:
    """One of the pipeline's programs on one device.

    `weights` are the bytes of the whole model; `idle` are the bytes of weights that stay in memory though the program
    does not use them. `blocks` belong to the quick form: each distinct block, how often it runs, and its cost.
    """

    title: str
    cost: Cost
    weights: int
    idle: int
    blocks: tuple[tuple[str, int, Cost], ...] = ()

    @property
    def memory(self) -> int:
        return self.cost.memory + self.idle

    def fits(self, chip: Chip) -> bool:
        return self.cost.refused is None and self.memory <= chip.memory

    def most(self, chip: Chip, per_device: int) -> int:
        """The largest per-device batch that fits, if all but weights and code grows in proportion to it."""
        if self.cost.refused:
            return 0
        fixed = self.weights + self.cost.code
        return int((chip.memory - fixed) * per_device // (self.memory - fixed))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The programs that make `per_device` pictures at a time on every device. `chip` is None for one unknown to us."""

    programs: tuple[PlannedProgram, ...]
    devices: int
    device_kind: str
    chip: Chip | None
    per_device: int
    width: int
    height: int
    dtype: str
    quick: bool


def make(
    model: str,
    topology: str,
    *,
    size: tuple[int, int] | None = None,
    per_device: int = 1,
    dtype: str = "bfloat16",
    quick: bool = True,
    say: Say = lambda line: None,
) -> Plan:
    """Compile what one request to `model`, a preset's name or a model folder, runs on `topology`.

    `topology` is as in `compiler.find_devices`, `size` is (width, height), by default the model's.
    `quick` compiles each distinct block once and adds up, an estimate: see `blocks`. `say` hears of
    progress. Raises PlanError, and RequestError for a size that the model can't make.
    """
    check_dtype(dtype, PlanError)
    manifest = _manifest(model, dtype)
    config, defaults = manifest.config, manifest.config.defaults
    width, height = size or (defaults.width, defaults.height)
    dtypes = part_dtypes(config, dtype)
    devices = Devices(compiler.find_devices(topology), per_device)
    request = Request(image=np.zeros((1, 1, 3), np.uint8), prompt="", width=width, height=height)
    program = planner(manifest).plan(request).group.program
    stages, weights = Programs(config, dtypes, devices), _bytes(abstract_params(config, dtypes))
    programs = []
    for name in TITLES:
        stage = stages.lowerable(name, program)
        cost, parts = (_quick if quick else _whole)(stage, devices.devices[0], say)
        batches = _bytes(stage.per_device[1:])
        idle = weights + batches - cost.arguments  # what a program doesn't use is no argument of it
        programs.append(PlannedProgram(title=TITLES[name], cost=cost, weights=weights, idle=max(idle, 0), blocks=parts))
    kind = devices.devices[0].device_kind
    about = dict(per_device=per_device, width=width, height=height, dtype=dtype, quick=quick)
    return Plan(programs=tuple(programs), devices=len(devices.devices), device_kind=kind, chip=CHIPS.get(kind), **about)


def config_of(model: str) -> ModelConfig:
    """The config of a preset's name or a model folder. Raises PlanError."""
    return _manifest(model, "bfloat16").config


def _whole(stage: Lowerable, device: jax.Device, say: Say) -> tuple[Cost, tuple]:
    return compiler.cost(stage.mapped.lower(*stage.arguments), device, TITLES[stage.name], say), ()


def _quick(stage: Lowerable, device: jax.Device, say: Say) -> tuple[Cost, tuple[tuple[str, int, Cost], ...]]:
    """The cost of a program from those of its blocks, and each distinct block's."""
    arguments = stage.per_device
    parts = blocks(stage.function, *arguments)
    distinct = {block.key: block for block in parts}
    costs = {
        key: _block_cost(block, device, f"{TITLES[stage.name]}, block {i} of {len(distinct)}: {block}", say)
        for i, (key, block) in enumerate(distinct.items(), 1)
    }
    times = {key: sum(block.times for block in parts if block.key == key) for key in distinct}
    seconds = [costs[key].seconds for key in distinct]
    temporaries = max(block.live + block.outputs + costs[block.key].temporaries for block in parts)
    cost = Cost(
        arguments=_bytes(arguments),
        outputs=_bytes(jax.eval_shape(stage.function, *arguments)),
        temporaries=temporaries,
        peak=_bytes(arguments) + temporaries,
        code=sum(times[key] * costs[key].code for key in distinct),  # repeated layers are not shared
        flops=sum(times[key] * costs[key].flops for key in distinct),
        traffic=sum(times[key] * costs[key].traffic for key in distinct),
        seconds=None if None in seconds else sum(times[key] * costs[key].seconds for key in distinct),
        compile_seconds=sum(each.compile_seconds for each in costs.values()),
        refused=next((each.refused for each in costs.values() if each.refused), None),
    )
    return cost, tuple((str(block), times[key], costs[key]) for key, block in distinct.items())


def _block_cost(block: Block, device: jax.Device, title: str, say: Say) -> Cost:
    sharding = SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding) for aval in block.jaxpr.in_avals]
    return compiler.cost(jax.jit(jaxpr_as_fun(block.jaxpr)).lower(*arguments), device, title, say)


def _manifest(model: str, dtype: str) -> Manifest:
    """Of a model folder, or made up for a preset, with the embedded model's tokenizers."""
    name = str(model).replace("-", "_").lower()
    if name in PRESETS:
        config: ModelConfig = PRESETS[name].config()
        about = dict(source=name, revision=None, licence="unknown", files={}, sha256="")
        return Manifest(name=name, folder=EMBEDDED["emoji"], config=config, dtype=dtype, **about)
    try:
        return read_manifest(model)
    except ModelError as error:
        near = nearest(model, PRESETS)
        hint = f"; did you mean {near}?" if near else ""
        raise PlanError(f"{error} (or, to plan, one of {', '.join(PRESETS)}{hint})") from None


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

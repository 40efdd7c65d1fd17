"""How many pictures a device takes at a time to make the most in a second: measured once, and kept.

More pictures at a time use a small device better; where one picture fills it, more only take memory. Pixels depend on
the width, so it is chosen before the first picture, and stays.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd1b_jax import files
from ssd1b_jax.config import ModelConfig
from ssd1b_jax.engine import programs
from ssd1b_jax.engine.adapters import Adapters
from ssd1b_jax.engine.compile_cache import enable_compilation_cache
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.jobs import Program
from ssd1b_jax.errors import Error

log = logging.getLogger(__name__)

WIDTHS = (1, 2, 4, 8, 16)
ENOUGH = 0.95  # of the best pictures a second
CALLS, TURNS = 4, 3
MEMORY_SHARE = 0.5  # of a machine's memory, where a device does not tell how much it has


def kept(config: ModelConfig, dtypes: Mapping[str, jnp.dtype], devices: Devices) -> int | None:
    """The width that an earlier measurement chose for a model of this config on these devices, at its own size."""
    with suppress(OSError, Error, KeyError, TypeError):  # it is measured again
        width = files.read_json(_file(config, dtypes, devices))["width"]
        return width if width in WIDTHS else None
    return None


def measure(config: ModelConfig, dtypes: Mapping[str, jnp.dtype], devices: Devices, params) -> int:
    """The smallest of `WIDTHS` within 5% of the best pictures a second, by guided calls at the model's own size.

    Widths that memory does not hold are left out. `params` are placed on the devices. The result is kept beside the
    compiled programs.
    """
    rates = dict(_rates(config, dtypes, devices, params))
    best = max(rates.values(), default=0.0)
    width = next((width for width, rate in rates.items() if rate >= ENOUGH * best), WIDTHS[0])
    told = ", ".join(f"{width}: {rate:.1f}" for width, rate in rates.items())
    log.info("guided calls a second by pictures at a time: %s; %d is taken", told, width)
    file = _file(config, dtypes, devices)
    with suppress(OSError, Error):  # it is measured again
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(dict(width=width, rates=rates)).encode())
    return width


def _rates(config: ModelConfig, dtypes, devices: Devices, params) -> Iterator[tuple[int, float]]:
    """Widths, and one row's guided calls a second times the rows; ends after the first that is slower than another."""
    size = config.defaults
    program = Program(size.width, size.height, guided=True, chunks=1, noise_rows=0)
    best = 0.0
    for width in WIDTHS:
        spread = Devices(devices.devices, width)
        compiled = programs.shared(config, dtypes, spread)
        try:
            if not _fits(compiled.get("advance", program), spread):
                return
            rate = CALLS * spread.batch_size / _seconds(compiled, program, spread, params)
        except jax.errors.JaxRuntimeError:  # the memory is full
            return
        yield width, rate
        if rate < best:
            return
        best = rate


def _seconds(compiled: programs.Programs, program: Program, devices: Devices, params) -> float:
    """Seconds of CALLS model calls, the least of TURNS."""
    _, (_, batch), _ = compiled.calls.packed("prepare", program)
    arguments = Adapters(compiled.config, params, devices.platform).arguments
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), batch)
    slots, _ = compiled.get("prepare", program)(arguments((), "prepare"), zeros)
    steps = np.full((len(devices.devices), devices.per_device), CALLS, np.int32)
    advance, state = compiled.get("advance", program), slots.state

    def turn() -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = advance(arguments((), "advance"), state, slots.fixed, steps)
        jax.block_until_ready(state)
        return time.perf_counter() - began

    turn()  # the first is slower
    return min(turn() for _ in range(TURNS))


def _fits(compiled: Any, devices: Devices) -> bool:
    analysis = compiled.memory_analysis()
    if analysis is None:
        return True
    needed = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    stats = devices.devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return needed <= stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return needed * len(devices.devices) <= MEMORY_SHARE * memory


def _file(config: ModelConfig, dtypes: Mapping[str, jnp.dtype], devices: Devices) -> Path:
    """A name for all that the speed depends on."""
    first = devices.devices[0]
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    named = {part: jnp.dtype(dtype).name for part, dtype in sorted(dtypes.items())}
    machine = first.platform, first.device_kind, len(devices.devices), threads, os.environ.get("XLA_FLAGS")
    facts = config, named, machine, jax.__version__, version("ssd1b_jax")
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    return enable_compilation_cache() / "widths" / f"{digest}.json"

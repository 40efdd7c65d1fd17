"""Compiling for devices that need not be here, and the cost of a program as the compiler knows it."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import jax
import platformdirs
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from ssd1b_jax.errors import PlanError, first_line

Say = Callable[[str], None]


@dataclass(frozen=True)
class Chip:
    """Peak bfloat16 FLOP/s, bytes/s of its memory, and the bytes of it that the compiler lets a program use."""

    flops: float
    bandwidth: float
    memory: int


# By JAX's device_kind. Speeds are Google Cloud's published ones; memory is what libtpu 0.0.52 names when it refuses.
CHIPS: Mapping[str, Chip] = {
    "TPU v4": Chip(275e12, 1228e9, int(30.75 * 2**30)),
    "TPU v5 lite": Chip(197e12, 819e9, int(15.75 * 2**30)),
    "TPU v5": Chip(459e12, 2765e9, int(95.73 * 2**30)),
    "TPU v6 lite": Chip(918e12, 1640e9, int(31.24 * 2**30)),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a program takes on one device: bytes of memory by kind, operations, bytes moved to and from memory.

    `traffic` is the sum of what each operation reads and writes. On a TPU that includes values which stay
    on the chip: two thirds of it in SSD-1B's loop on a v5e. So the time for traffic is an upper bound.
    `seconds` is the compiler's own estimate, or None. Of a loop it counts one turn. `refused` is the
    compiler's sentence about a program that can't fit.
    """

    arguments: int = 0
    outputs: int = 0
    aliased: int = 0  # outputs that take the place of arguments
    temporaries: int = 0
    code: int = 0
    peak: int = 0  # of all but code, where the compiler says
    flops: float = 0.0
    traffic: float = 0.0
    seconds: float | None = None
    compile_seconds: float = 0.0
    refused: str | None = None

    @property
    def memory(self) -> int:
        """Bytes needed at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    def roofline(self, chip: Chip) -> tuple[float, float]:
        """Seconds that the arithmetic and the traffic take at the chip's peaks; the larger is a floor."""
        return self.flops / chip.flops, self.traffic / chip.bandwidth

    def compute(self, chip: Chip) -> float:
        """The share of the roofline time that arithmetic takes: 1 where traffic is no limit."""
        arithmetic, traffic = self.roofline(chip)
        return arithmetic / max(arithmetic, traffic, 1e-30)


def find_devices(topology: str) -> list[jax.Device]:
    """The devices of a TPU topology such as v5e:2x2, none of which need exist, or the first of this machine's CPU."""
    if topology == "cpu":
        return jax.local_devices(backend="cpu")[:1]
    if find_spec("libtpu") is None:
        raise PlanError(f"compiling for {topology} needs libtpu: run pip install 'jax[tpu]', or plan for topology cpu")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # don't ask Google Cloud what this machine is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run, so nothing is shared
    # A device is a whole chip, as it is at run time; for v4 libtpu must be told.
    options = dict(chip_config_name="megacore") if topology.startswith("v4") else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = first_line(error)
        raise PlanError(
            f"topology must be cpu or a TPU's name and shape, such as v5e:1x1, v5e:2x4, v6e:1x1 or v5p:2x2x1, "
            f"got {topology!r} ({reason})"
        ) from None


def cost(lowered: jax.stages.Lowered, device: jax.Device, title: str, say: Say) -> Cost:
    """The compiler's cost of a program on such devices. The answer is kept on disk, by program and versions."""
    key = [lowered.as_text(), device.device_kind, *(_version(name) for name in ("jax", "jaxlib", "libtpu"))]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    path = Path(platformdirs.user_cache_dir("ssd1b_jax")) / "plans" / f"{name}.json"
    try:
        known = Cost(**json.loads(path.read_text(encoding="utf-8")))
        say(f"{title}: known")
        return known
    except (OSError, ValueError, TypeError):  # not there, or of another version
        pass
    began = time.perf_counter()
    with _ticking(title, say), nullcontext() if device.platform == "cpu" else _uncached():
        answer = _ask(lowered)
    seconds = time.perf_counter() - began
    say(f"{title}: compiled in {seconds:.1f} s")
    answer = Cost(**asdict(answer) | dict(compile_seconds=seconds))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(answer)), encoding="utf-8")
    partial.replace(path)
    return answer


def _ask(lowered: jax.stages.Lowered) -> Cost:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Cost(refused=first_line(error))
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    seconds = analysis.get("optimal_seconds", 0.0)
    return Cost(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        peak=getattr(memory, "peak_memory_in_bytes", 0),
        flops=analysis.get("flops", 0.0),
        traffic=analysis.get("bytes accessed", 0.0),
        seconds=seconds if seconds > 0 else None,  # it can be negative, which says nothing
    )


@contextmanager
def _uncached() -> Iterator[None]:
    """Switch JAX's compilation cache off: it can't read programs back for devices that aren't here."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        reset_cache()


@contextmanager
def _ticking(title: str, say: Say, every: float = 30.0) -> Iterator[None]:
    """Report every so many seconds that the compiler is still at work."""
    done, began = threading.Event(), time.perf_counter()

    def tick():
        while not done.wait(every):
            say(f"{title}: compiling for {time.perf_counter() - began:.0f} s")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

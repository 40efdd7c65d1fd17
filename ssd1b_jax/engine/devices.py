"""Where arrays live and how work is spread: the one `jax.pmap`.

Every stage runs as the same program on each device, on that device's own pictures, and nothing is
communicated; so a picture's pixels don't depend on how many devices there are. Parameters are
placed once, by sharding: pmap would send them again on every call otherwise.
"""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax._src import xla_bridge
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssd1b_jax.errors import DeviceError
from ssd1b_jax.settings import SETTINGS

try:
    from jax._src.pmap import _cached_shard_map as kept_maps
except ImportError:
    kept_maps = None

AXIS = "data"
# What libtpu (its lock, one process a TPU) and XLA's plugins (their version) say, and what to do.
TPU_TROUBLES = {
    r"in use by process with pid (\d+)": r"the TPU is in use by process \1: end it, or restart the notebook's session",
    r"in use by another process": "the TPU is in use by another user's process: end the one that "
    "`sudo lsof -w /dev/accel* /dev/vfio/*` shows, and if there is none, remove /tmp/libtpu_lockfile",
    r"libtpu multi-process lockfile": "the TPU's lock can't be used: remove /tmp/libtpu_lockfile",
    r"PJRT API version|requires a libtpu version": "libtpu and JAX are of versions that don't fit: "
    "run pip install -U 'jax[tpu]', and restart the notebook's session",
}
POOL_THREAD = "tf_XLAEigen"  # as the system lists a thread of XLA:CPU's pool


class Devices:
    """The local devices that pictures are spread over, each taking `per_device` of them at a time."""

    def __init__(self, devices: Sequence[jax.Device] | None = None, per_device: int = 1):
        per_device = SETTINGS["per_device"].check(per_device)
        self.devices = tuple(devices if devices is not None else local_devices())
        self.per_device = per_device
        # In the order of pmap's devices, or every call would move the parameters.
        mesh = Mesh(np.array(self.devices), (AXIS,))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.sharded = NamedSharding(mesh, PartitionSpec(AXIS))

    @property
    def platform(self) -> str:
        """The kind of all of them: cpu, gpu or tpu."""
        return self.devices[0].platform

    @property
    def batch_size(self) -> int:
        """Pictures of one call."""
        return len(self.devices) * self.per_device

    @property
    def pool_threads(self) -> int | None:
        """Threads of XLA's pool on a CPU, counted by their name; None on other devices and where Linux is not.

        XLA takes as many as there are cores (or as NPROC says), and at least one a device. Some values round otherwise
        where their number is another.
        """
        if self.platform != "cpu":
            return None
        return sum(_thread_name(task) == POOL_THREAD for task in Path("/proc/self/task").glob("*")) or None

    def map(self, function: Callable, *, donate: str | None = None) -> Callable:
        """`function(params, *batches)` on every device; the batches are as `split` makes them.

        `donate` names the batch whose memory the results may take. The result can also be lowered, with shapes in
        place of arrays.
        """
        names = [*inspect.signature(function).parameters]
        in_axes = (None,) + (0,) * (len(names) - 1)
        donated = () if donate is None else (names.index(donate),)
        return jax.pmap(function, AXIS, in_axes=in_axes, devices=self.devices, donate_argnums=donated)

    @staticmethod
    def forget(mapped: Callable) -> None:
        """Let JAX drop what it keeps of a mapped function: its traces, and the programs that were compiled of it.

        A compiled program stays as long as it is referred to. JAX's own cache of maps never lets go by itself, since
        what it keeps refers to the function that it is kept for; an internal function of JAX does it, where it is.
        """
        if hasattr(kept_maps, "evict_function"):
            kept_maps.evict_function(mapped.__wrapped__)

    def replicate(self, params):
        """Place parameters, whole, on every device; shapes get the sharding."""
        if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated), params)
        return jax.device_put(params, self.replicated)

    def split(self, batch):
        """Give the leading axis, `batch_size` long, a device and a per-device part, and place each part."""
        shape = (len(self.devices), self.per_device)
        return jax.device_put(jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), batch), self.sharded)

    def join(self, batch):
        """Inverse of `split`, as NumPy arrays on the host."""
        return jax.tree.map(lambda x: np.asarray(x).reshape(self.batch_size, *x.shape[2:]), batch)


def _thread_name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except OSError:  # it has ended
        return ""


def local_devices() -> list[jax.Device]:
    """The devices of this process. Raises DeviceError where JAX can use none, or leaves out a TPU that is there."""
    try:
        devices = jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the second for a CUDA that is not there
        raise DeviceError(_no_devices(str(error))) from error
    left_out = getattr(xla_bridge, "_backend_errors", {}).get("tpu", "")
    if not jax.config.jax_platforms and (known := _known(left_out)):
        raise DeviceError(f"{known}, or set JAX_PLATFORMS=cpu to compute without it")
    return devices


def _known(reason: str) -> str | None:
    """A sentence for a TPU that can't be used, by what libtpu or JAX says of it."""
    for pattern, sentence in TPU_TROUBLES.items():
        if match := re.search(pattern, reason):
            return match.expand(sentence)
    return None


def _no_devices(reason: str) -> str:
    if known := _known(reason):
        return known
    platforms = jax.config.jax_platforms
    reason = reason.partition("\n")[0].partition(" (set JAX_PLATFORMS")[0].rstrip(".")
    because = f" ({reason})" if reason else ""
    if platforms:
        return f"JAX_PLATFORMS={platforms} names a device that JAX cannot use here{because}: unset it, or set it to cpu"
    return f"JAX can use no device{because}: set JAX_PLATFORMS=cpu to compute without one"


@functools.cache
def host() -> jax.Device | None:
    """The machine's own processor as a device; None where JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except (RuntimeError, AssertionError):
        return None

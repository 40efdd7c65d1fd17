"""Trees of arrays on disk, by Orbax."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssd1b_jax.checkpoints.tensor_names import keys, leaves


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """absl, which Orbax logs by, sets up the root logger where nobody has: a program's own set-up would do nothing."""
    placeholder = logging.NullHandler()
    is_set_up = any(not isinstance(handler, logging.NullHandler) for handler in logging.root.handlers)
    if not is_set_up:
        logging.root.addHandler(placeholder)
    try:
        yield
    finally:
        logging.root.removeHandler(placeholder)


with _root_logger_kept():
    from orbax.checkpoint import v1 as ocp  # noqa: E402

BATCH = 256 << 20  # bytes that are written, or read back, together
LEAST_READ = 64 << 20  # bytes
PATTERN = frozenset("[]*?")  # characters with a meaning in a pattern of file names


def save(path: str | Path, tree) -> None:
    """Save a pytree of JAX arrays at `path`, which must not exist; a killed save leaves nothing there."""
    with _saving(), _plain_path(path) as path:
        ocp.save(path, tree)


def save_leaves(path: str | Path, named: Iterable[tuple[tuple[str | int, ...], np.ndarray]]) -> None:
    """Save a dict whose leaves come one by one, as `save` would, with at most `BATCH` bytes of them in memory."""
    batch, size, begun = {}, 0, False
    with _saving(), _plain_path(path) as path:
        for place, leaf in named:
            if batch and size + leaf.nbytes > BATCH:
                ocp.partial.save(path, batch)
                batch, size, begun = {}, 0, True
            node = batch
            for key in place[:-1]:
                node = node.setdefault(key, {})
            node[place[-1]] = jnp.asarray(leaf)
            size += leaf.nbytes
        if begun:
            ocp.partial.save(path, batch)
            ocp.partial.finalize(path)
        else:
            ocp.save(path, batch)


def load(path: str | Path, shapes, sharding: jax.sharding.Sharding | None = None, stored=jnp.float32):
    """Load a saved tree, cast to the dtypes of `shapes`. Missing, extra and mis-shaped leaves are errors.

    Leaves must be stored in a dtype no wider than `stored`, or than that of `shapes`.
    """
    with _loading(shapes, stored), _plain_path(path) as path:
        return ocp.load(path, _placed(shapes, sharding))


def load_part(path: str | Path, key: str, shapes):
    """Load one top-level entry of a saved tree, and nothing of the others."""
    with _loading(shapes), _plain_path(path) as path:
        skipped = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, ocp.metadata(path).metadata)
        return ocp.load(path, {**skipped, key: _placed(shapes, None)})[key]


def read_leaves(path: str | Path, shapes) -> Iterator[tuple[tuple[str | int, ...], np.ndarray]]:
    """The leaves of what `save` wrote, with their paths, with at most `BATCH` bytes of them in memory."""
    batch, size = set(), 0
    wanted = leaves(shapes)
    for i, (place, leaf) in enumerate(wanted):
        batch.add(place)
        size += leaf.size * leaf.dtype.itemsize
        following = wanted[i + 1][1] if i + 1 < len(wanted) else None
        if following is None or size + following.size * following.dtype.itemsize > BATCH:
            placed = jax.tree_util.tree_map_with_path(
                lambda at, leaf, batch=batch: leaf if keys(at) in batch else ocp.PLACEHOLDER, _placed(shapes, None)
            )
            with _loading(shapes), _plain_path(path) as plain:
                loaded = ocp.load(plain, placed)
            yield from ((place, np.asarray(leaf)) for place, leaf in leaves(loaded) if place in batch)
            batch, size = set(), 0


@contextmanager
def _loading(shapes, stored=jnp.float32) -> Iterator[None]:
    """Read as little at a time as the largest leaf allows, so that the host needs little more than the device."""
    widths = (leaf.size * max(leaf.dtype.itemsize, jnp.dtype(stored).itemsize) for leaf in jax.tree.leaves(shapes))
    context = ocp.Context()
    context.memory.read_concurrent_bytes = max(LEAST_READ, 1 + max(widths, default=0))
    with context, _root_logger_kept():
        yield


@contextmanager
def _plain_path(path: str | Path) -> Iterator[Path]:
    """The absolute path, by way of a link where it has characters that Orbax takes for a pattern of names."""
    path = Path(path).absolute()
    if not PATTERN.intersection(str(path.parent)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model"
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


@contextmanager
def _saving():
    context = ocp.Context()
    context.array.saving.enable_write_sharding_file = False  # `load` is always told where arrays go
    context.array.saving.array_metadata_store = None
    with context, _root_logger_kept(), _without_traces():
        yield


@contextmanager
def _without_traces() -> Iterator[None]:
    """What Orbax's threads raise is raised here too: its log would only show the trace once more."""
    log = logging.getLogger("absl")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled


def _placed(shapes, sharding):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)

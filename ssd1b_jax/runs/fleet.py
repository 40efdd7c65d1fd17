"""A run on a Ray cluster: Ray Data hands blocks of items to actors, one a host, whose pipelines stay warm.

The driver reads the manifest, and enters what is done; it never imports JAX. An actor writes each picture, and then its
entry as a file that only one can create; a block that is whole is one file of all its entries. Ray tries a block again
where a worker died: what has an entry then is not made again.

    .claims/BLOCK-NUMBER.jsonl    the entry of one picture of a block that is not done
    .claims/BLOCK.jsonl           the entries of a block that is done
"""

import logging
import math
import os
import pickle
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ssd1b_jax.errors import DeviceError, Error, RequestError, RunError, first_line
from ssd1b_jax.runs import journal, making, origin
from ssd1b_jax.runs.items import Item
from ssd1b_jax.runs.journal import CLAIMS, Entry
from ssd1b_jax.runs.place import Place, place

BLOCK = 16  # items
CALLS = 2  # blocks that an actor is at, so that its devices never wait for the next one
ACCELERATORS = ("TPU", "GPU")  # as Ray calls them
CONNECT_SECONDS = 10.0

Load = Callable[[], Any]  # gives an actor its pipeline


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A Ray cluster at `address`; None is that of RAY_ADDRESS, one that runs here, or else a new one of this machine.

    `workers` is the least and the most number of actors, and `resources` what Ray reserves for each, by Ray's names. By
    default there is an actor for each host that is there, which has all of its TPU chips, GPUs, or cores.
    """

    address: str | None = None
    workers: tuple[int, int | None] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    block: int = BLOCK

    def check(self) -> None:
        """Raise RunError where there is no Ray, or nobody listens at the address; Ray itself would try for minutes."""
        _ray()
        host, colon, port = (self.address or "").rpartition(":")
        if not colon or "://" in host:
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError(f"no Ray cluster at {self.address}: {reason.lower()}") from None

    def make(self, load: Load, items: Iterable[Item], folder: Place, enter: making.Enter) -> None:
        """Have actors make items; `enter` gets the entries of each block that is done. `load` goes to them by pickle.

        Raises RunError for a cluster that can't be reached, and SaveError and DeviceError as a pipeline here would.
        """
        ray = _ray()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(self.address, logging_level="ERROR", log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise RunError(f"no Ray cluster at {self.address or 'this machine'}: {first_line(error)}") from None
        try:
            self._make(load, items, folder, enter)
        except ray.exceptions.RayError as error:
            raise DeviceError(f"the Ray cluster failed: {first_line(error)}") from error
        finally:
            ray.shutdown()

    def _make(self, load: Load, items: Iterable[Item], folder: Place, enter: making.Enter) -> None:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = [*_put(items, self.block)]
        if not blocks:
            return
        resources, (least, most) = plan(ray.nodes(), self.resources, self.workers)
        how = ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=CALLS + 1,
            max_concurrent_calls_per_actor=CALLS,
            enable_true_multi_threading=True,
        )
        results = ray.data.from_arrow_refs(blocks).map_batches(
            Worker,
            batch_size=None,
            compute=how,
            fn_constructor_args=(load, str(folder.root), os.getcwd()),
            num_cpus=resources.pop("CPU", 0),
            num_gpus=resources.pop("GPU", 0),
            resources=resources,
        )
        for rows in results.iter_batches(batch_size=None, prefetch_batches=0):
            for entries, error in zip(rows["entries"], rows["error"], strict=True):
                if error:
                    raise pickle.loads(error)
                for entry in pickle.loads(entries):
                    enter(entry)


def _put(items: Iterable[Item], size: int) -> Iterator[Any]:
    """Blocks of items as objects of Ray's, which spills to the disk what memory can't hold."""
    import pyarrow
    import ray

    token = secrets.token_hex(4)  # a worker of an earlier driver may still be at a block of its own
    left, number = iter(items), 0
    while block := [*islice(left, size)]:
        yield ray.put(pyarrow.table(dict(block=[f"{token}-{number:08}"], items=[pickle.dumps(block)])))
        number += 1


def plan(
    nodes: Iterable[Mapping[str, Any]], resources: Mapping[str, float], workers: tuple[int, int | None] | None
) -> tuple[dict[str, float], tuple[int, int | None]]:
    """What each actor reserves, and how many there are at least and at most, None for any number.

    `nodes` are as Ray tells of them. Raises RunError where none of them can make pictures.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    if not resources:
        kind = next((kind for kind in (*ACCELERATORS, "CPU") if any(node.get(kind) for node in there)), None)
        if kind is None:
            raise RunError("the Ray cluster has no host with TPUs, GPUs or cores yet: give --ray-resources")
        resources = {kind: float(min(node[kind] for node in there if node.get(kind)))}
    fitting = sum(all(node.get(name, 0) >= amount for name, amount in resources.items()) for node in there)
    if not fitting and workers is None:
        asked = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
        raise RunError(f"no host of the Ray cluster has {asked}: give other --ray-resources, or --ray-workers to wait")
    return {**resources}, workers or (fitting, fitting)


def parse_workers(text: str) -> tuple[int, int | None]:
    """N, or MIN:MAX, of which MAX may be left out. Raises RequestError."""
    least, colon, most = text.partition(":")
    try:
        numbers = int(least), (int(most) if most else None) if colon else int(least)
    except ValueError:
        numbers = 0, 0
    if not 1 <= numbers[0] <= (math.inf if numbers[1] is None else numbers[1]):
        raise RequestError(f"ray-workers must be N or MIN:MAX from 1, got {text!r}")
    return numbers


def parse_resources(text: str) -> dict[str, float]:
    """NAME=AMOUNT,… Raises RequestError."""
    amounts = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        with suppress(ValueError):
            amounts[name.strip()] = float(amount)
    if len(amounts) != text.count(",") + 1 or not all(name and 0 < amounts[name] < math.inf for name in amounts):
        raise RequestError(f"ray-resources must be such as TPU=4 or GPU=1,CPU=8, got {text!r}")
    return amounts


class Worker:
    """An actor of Ray Data's: makes blocks of items with one pipeline, in several threads."""

    def __init__(self, load: Load, root: str, directory: str):
        with suppress(OSError):  # of a host that has no such folder, and needs none where paths are absolute
            os.chdir(directory)
        self._failure: Error | None = None
        try:
            self._pipe = load()
            self._folder = place(root)
            if self._folder.read(origin.NAME) is None:
                raise RunError(
                    f"a worker sees no run in {root}: give a folder that all hosts share, or an object store"
                )
            self._folder.prepare(is_alone=False)
        except Error as error:  # a block's answer tells it: Ray would start a worker that fails here again and again
            self._failure = error

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Rows of a block each, to the entries of each, or the error that ends the run; both by pickle."""
        results: dict[str, list[bytes]] = dict(entries=[], error=[])
        for block, items in zip(rows["block"], rows["items"], strict=True):
            entries, failure = [], b""
            try:
                if self._failure is not None:
                    raise self._failure
                entries = make_block(self._pipe, block, pickle.loads(items), self._folder)
            except Error as error:
                failure = pickle.dumps(error)
            results["entries"].append(pickle.dumps(entries))
            results["error"].append(failure)
        return results


def make_block(pipe: Any, block: str, items: Iterable[Item], folder: Place) -> list[Entry]:
    """Make what has no entry yet of a block's items; the entries of all. Of several that try, each counts once."""
    whole = f"{CLAIMS}/{block}{journal.END}"
    if done := [*journal.read(folder, whole)]:
        return done
    parts = folder.names(f"{CLAIMS}/{block}-", journal.END)
    entries = {entry["output"]: entry for name in parts for entry in journal.read(folder, name)}
    numbers = {item.name: number for number, item in enumerate(items)}

    def enter(entry: Entry) -> None:
        name = f"{CLAIMS}/{block}-{numbers[entry['output']]}{journal.END}"
        if folder.create(name, journal.dump(entry)):
            entries[entry["output"]] = entry
        else:  # a worker that was taken for dead has made it
            entries.update((other["output"], other) for other in journal.read(folder, name))

    making.make(pipe, [item for item in items if item.name not in entries], folder, enter)
    folder.create(whole, b"".join(map(journal.dump, entries.values())))
    for number in numbers.values():
        folder.discard(f"{CLAIMS}/{block}-{number}{journal.END}")
    return [*journal.read(folder, whole)]


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise RunError("a fleet needs Ray: run pip install 'ssd1b_jax[ray]'") from None
    return ray

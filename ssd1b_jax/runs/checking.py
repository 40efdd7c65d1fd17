"""The pass over a manifest before any work: names, ranges and, where asked for, the headers of pictures."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from ssd1b_jax import images
from ssd1b_jax.errors import Error, RunError
from ssd1b_jax.records import saving
from ssd1b_jax.request import PICTURES, Request
from ssd1b_jax.runs import inputs, names
from ssd1b_jax.runs.index import OTHERS, PENDING, SIDECAR, Index
from ssd1b_jax.runs.items import Defaults, Item
from ssd1b_jax.runs.manifest import Line, Manifest
from ssd1b_jax.runs.place import Place
from ssd1b_jax.runs.shards import Shard

MAX_TOLD = 20  # of a kind of fault
OURS = ("run.json", "status")  # how names of the run's own files begin


@dataclass
class Checked:
    """What a manifest comes to: pictures, model calls, and `work`, in which a guided call of the model's size is 2.

    `bad` are the first lines that are wrong, with their sentences; `bad_count` counts all, and `nameless` those of this
    share that are so wrong that no output is known. `first` is the first request, with a blank image.
    """

    lines: int = 0
    nameless: int = 0
    pictures: int = 0
    calls: int = 0
    work: float = 0.0
    bad_count: int = 0
    bad: list[str] = field(default_factory=list)
    first: Request | None = None

    def add_bad(self, line: Line, error: Error) -> None:
        self.bad_count += 1
        if len(self.bad) < MAX_TOLD:
            self.bad.append(told(line.where, error))


def told(where: str, error: Error) -> str:
    return f"{where}: {error.sentence}"


def check(
    manifest: Manifest,
    defaults: Defaults,
    folder: Place,
    index: Index,
    shard: Shard,
    *,
    quick: bool = False,
    headers: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Checked:
    """Take all names into the index, and look at every line; `quick` looks at the names alone.

    `tell` hears of every line that is wrong.

    Raises RunError for names that are unsafe or alike, and where no line is any good.
    """
    checked = Checked()
    alike: list[str] = []
    for line in manifest.lines():
        checked.lines += 1
        try:
            if line.error is not None:
                raise line.error
            _take_names(line, defaults, folder, index, shard, alike)
            if not quick:
                _count(line, defaults, checked, headers)
        except RunError:
            raise
        except Error as error:
            checked.add_bad(line, error)
            tell(told(line.where, error))
            checked.nameless += not names_of(line, defaults) and shard.has(line.where)
        if len(alike) >= MAX_TOLD:
            break
    alike += [f"lines {file} and {other}: {name} is a file and a folder" for name, file, other in index.in_the_way()]
    if alike:
        raise RunError(f"{'; '.join(alike[:MAX_TOLD])}: give these lines an id or an output of their own")
    if not checked.lines:
        raise RunError(f"{manifest.path} lists no picture")
    if checked.bad_count == checked.lines:
        raise RunError(f"{manifest.path} has no line that can be used: {'; '.join(checked.bad[:3])}")
    return checked


def _take_names(line: Line, defaults: Defaults, folder: Place, index: Index, shard: Shard, alike: list[str]) -> None:
    output = defaults.output_of(line)
    for name in defaults.names(line):
        names.check(name, line.where)
        folder.check_inside(name)
        other = index.add(name, line.number, PENDING if shard.has(name) else OTHERS)
        has_sidecar = output.sidecar or (output.metadata and name.lower().endswith(saving.JPEGS))  # for long records
        if has_sidecar and other is None:
            sidecar = names.sidecar(name)
            if sidecar.casefold().startswith(OURS):
                raise RunError(f"{line.where}: the sidecar {sidecar} is a file of the run: give the line an output")
            other = index.add(sidecar, line.number, SIDECAR)
        if other is not None:
            alike.append(f"lines {other} and {line.number}: {name}")


def _count(line: Line, defaults: Defaults, checked: Checked, headers: bool) -> None:
    items = [*defaults.items(line)]
    if headers:
        [(first, error)] = inputs.fetched(items[:1])
        if error is not None:
            raise error
        for picture in _pictures(first):
            images.probe(picture)
    for item in items:
        calls, work = cost(item.request, defaults)
        checked.pictures += 1
        checked.calls += calls
        checked.work += work
        checked.first = checked.first or inputs.blank(item.request)


def _pictures(item: Item) -> Iterator[images.Source]:
    yield from (picture for name in PICTURES if (picture := getattr(item.request, name)) is not None)


def cost(request: Request, defaults: Defaults) -> tuple[int, float]:
    """A resolved request's model calls, and their work."""
    model = defaults.config.defaults
    calls = request.table(defaults.config).calls
    begin, end = request.guidance_interval
    guided = (end - begin) if request.guided else 0.0
    area = request.width * request.height / (model.width * model.height)
    return calls, calls * (1 + guided) * area


def check_free(folder: Place, index: Index, known: Index | None = None) -> None:
    """Raise RunError where files that no run has made are in the place of outputs. `known` has those that one has."""
    outputs = (name for name in folder.all_names() if index.state(name) is not None)
    taken = [*islice((name for name in outputs if known is None or known.state(name) is None), MAX_TOLD)]
    if taken:
        told = ", ".join(sorted(taken)[:3]) + (" and more" if len(taken) > 3 else "")
        raise RunError(f"{folder.root} has files that would be replaced ({told}): move them, or choose another folder")


def names_of(line: Line, defaults: Defaults) -> list[str]:
    """The files of a line's pictures, none where the line is so wrong that it has no names."""
    try:
        return [] if line.error else defaults.names(line)
    except Error:
        return []


def replaces_input(item: Item, folder: Place) -> bool:
    """Whether an item's file is one of the pictures that it is made from."""
    path = folder.local(item.name)
    pictures = (picture for picture in _pictures(item) if isinstance(picture, str | os.PathLike))
    if path is None or not path.exists():
        return False
    return any(os.path.exists(picture) and path.samefile(picture) for picture in pictures)

"""Items to files: pictures are encoded and saved while the next ones are made, and each gets an entry."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import PurePosixPath
from typing import Any

from ssd1b_jax.errors import BAD_INPUT, FAILED, Error
from ssd1b_jax.records import KEY, saving
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result
from ssd1b_jax.runs import inputs, names
from ssd1b_jax.runs.items import Item
from ssd1b_jax.runs.journal import Entry
from ssd1b_jax.runs.place import Place
from ssd1b_jax.runs.savers import Savers

Enter = Callable[[Entry], None]


def make(pipe: Any, items: Iterable[Item], folder: Place, enter: Enter) -> None:
    """Have a pipeline make items. `enter` gets the entry of each, once its file is whole, from any thread.

    A picture that fails by its own fault is an entry too. Raises SaveError and DeviceError, and what `enter` raises.
    """
    flying: dict[int, Item] = {}

    def requests() -> Iterator[Request]:
        number = 0
        for item, error in inputs.fetched(items):
            if error is not None:
                enter(failed(item, error))
                continue
            flying[number] = item
            number += 1
            yield item.request

    with Savers() as savers, closing(pipe.stream(requests(), on_error="yield")) as outcomes:
        for number, outcome in outcomes:
            item = flying.pop(number)
            savers.check()
            if isinstance(outcome, Error):
                enter(failed(item, outcome))
            else:
                savers.submit(lambda item=item, result=outcome: enter(save(item, result, folder)))


def save(item: Item, result: Result, folder: Place) -> Entry:
    """Write a picture; its entry. Raises SaveError."""
    name = PurePosixPath(item.name).name
    try:
        encoded = saving.encode(result.pixels, name, dict(result.record), result.request, item.output)
    except Error as error:
        return failed(item, error)
    entry = _entry(item) | dict(seconds=round(result.seconds, 3))
    if item.output.sidecar or KEY in encoded.left_out:
        folder.write(names.sidecar(item.name), encoded.sidecar)
        entry |= dict(sidecar=hashlib.sha256(encoded.sidecar).hexdigest())
    folder.write(item.name, encoded.data)
    if result.notes:
        entry |= dict(notes=[*result.notes])
    return entry | dict(sha256=hashlib.sha256(encoded.data).hexdigest(), bytes=len(encoded.data), error=None)


def failed(item: Item, error: Error) -> Entry:
    """The entry of a picture that failed. Raises the error where it is not the picture's own fault."""
    if error.exit_code not in (FAILED, BAD_INPUT):
        raise error
    return _entry(item) | failure(error, item.where)


def failure(error: Error, where: str) -> Entry:
    """What an entry says of an error."""
    return dict(sha256=None, error=error.sentence, kind=type(error).__name__, where=where)


def _entry(item: Item) -> Entry:
    return dict(line=item.line, id=item.id, output=item.name, seed=item.request.seed)

"""Leases: files that only one of many can create, and that count until a time that their owner puts off while it lives.

.claims/BLOCK.lease-N     who works at a block, and until when
.driver/N                 the driver of a fleet whose pictures go to an object store, which has no locks
"""

import json
import re
import threading
import time
from contextlib import suppress
from typing import Any

from ssd1b_jax.errors import RunError, SaveError
from ssd1b_jax.runs.journal import CLAIMS
from ssd1b_jax.runs.place import Place

DRIVER = ".driver"
SECONDS = 30.0  # of a driver's lease
LOOK_SECONDS = 0.5  # between looks at a lease that may run out
_BLOCK = re.compile(rf"{re.escape(CLAIMS)}/(\w+)\.lease-(\d+)")


def of_block(block: str, number: int) -> str:
    """The name of a block's lease."""
    return f"{CLAIMS}/{block}.lease-{number}"


def parse(name: str) -> tuple[str, int] | None:
    """The block and the number of a lease, None for another name."""
    match = _BLOCK.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def data(folder: Place, seconds: float) -> bytes:
    """What a lease holds."""
    about: dict[str, Any] = dict(worker=folder.worker, until=round(time.time() + seconds, 2))
    return json.dumps(about).encode()


def is_over(held: bytes | None) -> bool:
    """Whether a lease has run out, was given up, or is damaged."""
    try:
        return held is None or json.loads(held)["until"] < time.time()
    except (ValueError, KeyError, TypeError):
        return True


class Driver:
    """The lease of a fleet's only driver, until `close`."""

    def __init__(self, folder: Place):
        """Take it, from one that died too. Raises RunError where another driver, or workers by claims, are at it."""
        self._folder = folder
        claims = filter(parse, folder.names(f"{CLAIMS}/", ""))
        if not all(is_over(folder.read(name)) for name in claims):
            raise _in_use(folder)
        number = _last(folder) + 1
        self._name = _name(number)
        if not folder.create(self._name, data(folder, SECONDS)):
            raise _in_use(folder)
        for older in folder.names(f"{DRIVER}/", ""):
            if older < self._name:
                folder.discard(older)
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="ssd1b-driver", daemon=True)
        self._renewer.start()

    def _renew(self) -> None:
        while not self._ended.wait(SECONDS / 3):
            with suppress(SaveError):  # of a store that does not answer for a moment
                self._folder.write(self._name, data(self._folder, SECONDS))

    def close(self) -> None:
        self._ended.set()
        self._renewer.join()
        self._folder.discard(self._name)


def refuse_driver(folder: Place) -> None:
    """Raise RunError where the driver of a fleet is at the run."""
    _last(folder)


def _last(folder: Place) -> int:
    """The number of the last driver's lease, 0 for none, once it has run out. Raises RunError for one that lives."""
    names = folder.names(f"{DRIVER}/", "")
    if not names:
        return 0
    seen = folder.read(names[-1])
    while not is_over(now := folder.read(names[-1])):
        if now != seen:
            raise _in_use(folder)
        time.sleep(LOOK_SECONDS)
    return int(names[-1].removeprefix(f"{DRIVER}/"))


def _name(number: int) -> str:
    return f"{DRIVER}/{number:08}"


def _in_use(folder: Place) -> RunError:
    return RunError(f"{folder.root} is in use: another process is at this run; wait for it, or end it")

"""Pictures by address: fetched ahead of the requests that need them."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ssd1b_jax.errors import Error
from ssd1b_jax.request import PICTURES, Request
from ssd1b_jax.runs.items import Item
from ssd1b_jax.runs.remote import is_remote, read_picture

AHEAD = 16  # items whose pictures are fetched meanwhile
BLANK = np.zeros((8, 8, 3), np.uint8)


def blank(request: Request) -> Request:
    """A request that reads no picture, and runs the same programs: its image is black, and without a mask."""
    return dataclasses.replace(request, mask=None, image=None if request.image is None else BLANK)


def remote(request: Request) -> dict[str, str]:
    """The URLs among a request's pictures, by their settings."""
    values = ((name, getattr(request, name)) for name in PICTURES)
    return {name: value for name, value in values if isinstance(value, str) and is_remote(value)}


def fetched(items: Iterable[Item]) -> Iterator[tuple[Item, Error | None]]:
    """Items in their order, with the bytes of pictures in place of URLs; or with the error that this ended in."""
    waiting: deque[tuple[Item, Future | None]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="ssd1b-fetch") as pool:
        for item in items:
            waiting.append((item, pool.submit(_fetch, item) if remote(item.request) else None))
            while waiting and (waiting[0][1] is None or len(waiting) > AHEAD):
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())


def _fetch(item: Item) -> Item:
    pictures = {name: read_picture(url) for name, url in remote(item.request).items()}
    return dataclasses.replace(item, request=dataclasses.replace(item.request, **pictures))


def _outcome(item: Item, future: Future | None) -> tuple[Item, Error | None]:
    if future is None:
        return item, None
    try:
        return future.result(), None
    except Error as error:
        return item, error

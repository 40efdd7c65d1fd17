"""Many Requests: what a caller gives is checked to be an iterable of them."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from ssd1b_jax.errors import RequestError
from ssd1b_jax.request import Request


def as_requests(requests: Any) -> Iterable[Request]:
    """An iterable of Requests, whose items are checked: at once where it has a length, else as they are taken.

    Raises RequestError for what is no iterable of Requests.
    """
    if isinstance(requests, Request):
        raise RequestError("requests must be an iterable of Requests, got one Request: put it in a list")
    if isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Iterable):
        raise RequestError(f"requests must be an iterable of Requests, got {type(requests).__name__}")
    checked = _each_checked(requests)
    return list(checked) if isinstance(requests, Sized) else checked


def _each_checked(requests: Iterable[Any]) -> Iterator[Request]:
    for index, request in enumerate(requests):
        if not isinstance(request, Request):
            raise RequestError(f"requests must be Requests, got {type(request).__name__} at index {index}")
        yield request

"""What may be said of a picture when it is submitted, beside its request."""

from typing import Any

from ssd1b_jax.engine.scheduler import PRIORITIES
from ssd1b_jax.errors import RequestError


def check(*, priority: Any, caller: Any, row: Any, width: int, **seconds: Any) -> None:
    """Raises RequestError for an unknown priority, a row that no device has, and a caller or a time of a wrong kind."""
    if priority not in PRIORITIES:
        raise RequestError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")
    try:
        hash(caller)
    except TypeError:
        raise RequestError(f"caller must be hashable, for callers are told apart by it, got {caller!r}") from None
    if row is not None and not 0 <= row < width:
        raise RequestError(f"row must be less than the {width} of a device, got {row}")
    for name, value in seconds.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and value >= 0):
            raise RequestError(f"{name} must be seconds from now, 0 or more, got {value!r}")

"""Progress of long work on weights."""

from collections.abc import Callable

# Called with the stage ("checking", "writing", "hashing") and the number of bytes that are done since the last call.
OnProgress = Callable[[str, int], None]


def no_progress(stage: str, count: int) -> None:
    """The default: ignores every report."""

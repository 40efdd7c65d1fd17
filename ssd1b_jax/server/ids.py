"""Ids of what a server keeps for its callers. Of several servers behind one address each puts its mark into its own."""

import secrets

MARK_END = "."
_mark = ""


def mark(name: str) -> None:
    """Have all ids of this process begin with a name, by which calls find their way back."""
    global _mark
    _mark = name + MARK_END


def new() -> str:
    """An id that nobody can guess."""
    return _mark + secrets.token_urlsafe(16)

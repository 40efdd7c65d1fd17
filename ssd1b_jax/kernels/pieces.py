"""Cutting work that would need too much memory, or more than a cache holds, into equal pieces."""


def pieces(length: int, size: int, bound: int) -> int:
    """Into how many equal parts to cut an axis, so that what is `size` large in all stays within the bound.

    The fewest that do it, or as many as the axis has powers of two.
    """
    count = 1
    while size // count > bound and length % (2 * count) == 0:
        count *= 2
    return count

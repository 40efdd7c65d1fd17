"""Cutting work into equal tiles that fit into memory or a cache."""


def tile_count(length: int, size: int, bound: int) -> int:
    """The number of equal tiles of an axis, so that a whole of `size` has at most `bound` in each.

    It is the smallest power of two that does it, or the largest that divides `length`.
    """
    count = 1
    while size // count > bound and length % (2 * count) == 0:
        count *= 2
    return count

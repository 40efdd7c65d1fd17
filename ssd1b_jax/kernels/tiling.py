"""Cutting work into equal tiles that fit into memory or a cache."""

SLACK = 4  # times a bound: tiles that large are kept, as padding takes time too


def tile_count(length: int, size: int, bound: int) -> int:
    """The number of equal tiles of an axis, so that a whole of `size` has at most `bound` in each.

    It is the smallest power of two that does it, or the largest that divides `length`.
    """
    count = 1
    while size // count > bound and length % (2 * count) == 0:
        count *= 2
    return count


def whole_tiles(length: int, size: int, bound: int) -> int:
    """The length to pad an axis to, so that `tile_count` finds tiles near the bound.

    It is `length` itself, unless its own tiles are more than `SLACK` times too large: those of an odd length are.
    """
    if size // tile_count(length, size, bound) <= SLACK * bound:
        return length
    count = 1
    while size // count > bound and count < length:
        count *= 2
    return -(-length // count) * count

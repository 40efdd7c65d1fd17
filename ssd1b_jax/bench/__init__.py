"""Times of each part of the work, next to those of a peer in the same run: `python -m ssd1b_jax.bench`.

Every contender has a process of its own, so that its peak memory is its own. They take turns, so that
other work on the machine meets all alike. `ours` and `peer` do each part, `contenders` has the processes,
and `__main__` the command and its tables.
"""

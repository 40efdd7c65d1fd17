"""How fast it is, beside a peer doing the same work in the same run: `python -m ssd1b_jax.bench`.

Every contender lives in a process of its own, so that its peak memory is its own, and they take
turns, so that what else the machine does meets all alike. `ours` and `peer` know how to do each
part; `contenders` has the processes, `__main__` the command and its tables.
"""

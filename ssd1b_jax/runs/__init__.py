"""Runs: the pictures of a manifest, each made once, whatever ends the work on the way."""

from ssd1b_jax.runs.items import Defaults, Item
from ssd1b_jax.runs.manifest import Line, Manifest, read
from ssd1b_jax.runs.opening import Policy
from ssd1b_jax.runs.run import Run
from ssd1b_jax.runs.shards import Shard

__all__ = ["Defaults", "Item", "Line", "Manifest", "Policy", "Run", "Shard", "read"]

"""Settings: one row for each thing that a user may set, wherever it is set.

Requests, pipelines and outputs check their values by these rows. The command line, grids, the JSON schema, hints
about misspelled names and docs/settings.md are read from them. A new setting of a request is one row and one field.
"""

from ssd1b_jax.settings.options import MAX_PER_DEVICE
from ssd1b_jax.settings.rows import MAX_GUIDANCE, MAX_SCALE, MAX_SIDE
from ssd1b_jax.settings.schema import schema
from ssd1b_jax.settings.setting import GROUPS, Owner, Setting
from ssd1b_jax.settings.table import SETTINGS, SPELLINGS, SWITCHES, default, meant, named, nearest, of, plain
from ssd1b_jax.settings.types import DTYPES, FORMATS, NOISES, SPACINGS

__all__ = [
    "DTYPES",
    "FORMATS",
    "GROUPS",
    "MAX_GUIDANCE",
    "MAX_PER_DEVICE",
    "MAX_SCALE",
    "MAX_SIDE",
    "NOISES",
    "Owner",
    "SETTINGS",
    "SPACINGS",
    "SPELLINGS",
    "SWITCHES",
    "Setting",
    "default",
    "meant",
    "named",
    "nearest",
    "of",
    "plain",
    "schema",
]

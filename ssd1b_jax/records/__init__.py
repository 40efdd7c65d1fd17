"""How a picture was made: the record in its file, the text for other programs, and saving all of it."""

from ssd1b_jax.records.a1111 import parameters
from ssd1b_jax.records.label import label
from ssd1b_jax.records.output import Output
from ssd1b_jax.records.reading import differences, embedded, holds, read, sidecar_path
from ssd1b_jax.records.record import (
    FLAGS,
    FORMAT,
    KEY,
    PACKAGES,
    SOURCES,
    Record,
    describe,
    dumps,
    maker,
    source,
    with_pixels,
)

__all__ = [
    "FLAGS",
    "FORMAT",
    "KEY",
    "Output",
    "PACKAGES",
    "Record",
    "SOURCES",
    "describe",
    "differences",
    "dumps",
    "embedded",
    "holds",
    "label",
    "maker",
    "parameters",
    "read",
    "sidecar_path",
    "source",
    "with_pixels",
]

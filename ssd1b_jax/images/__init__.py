"""Pictures in and out, on the host: pixels, the text in files, masks and previews."""

from ssd1b_jax.images.fitting import LONGEST, check_size, fitting, sides
from ssd1b_jax.images.reading import (
    MAX_PIXELS,
    Loaded,
    Source,
    load,
    measure,
    probe,
    read_attached,
    read_label,
    read_text,
    sha256,
)
from ssd1b_jax.images.resizing import (
    COVERING,
    MAX_UPSCALE,
    RESIZE_MODES,
    Pixels,
    Resized,
    resize,
    to_model,
    to_pil,
    upscale,
)
from ssd1b_jax.images.writing import check_encodable, check_writable, encode, save

__all__ = [
    "COVERING", "LONGEST", "MAX_PIXELS", "MAX_UPSCALE", "RESIZE_MODES", "Loaded", "Pixels", "Resized", "Source",
    "check_encodable", "check_size", "check_writable", "encode", "fitting", "load", "measure", "probe", "read_attached",
    "read_label", "read_text", "resize", "save", "sha256", "sides", "to_model", "to_pil", "upscale",
]  # fmt: skip

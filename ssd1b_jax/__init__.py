"""SSD-1B image-to-image in JAX: give it a picture and a prompt, get the picture remade.

pipe = Pipeline.from_pretrained("emoji")
result = pipe(image="doodle.png", prompt="a red apple", strength=0.7, seed=7)
result.save("apple.png")
"""

import logging
from importlib import import_module
from importlib.metadata import version

__version__ = version("ssd1b_jax")
logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the program that uses us asks

_HOMES = {
    "Pipeline": "pipeline",
    "Progress": "pipeline",
    "Request": "request",
    "Result": "result",
    "ConfigError": "errors",
    "DeviceError": "errors",
    "Error": "errors",
    "FileError": "errors",
    "GridError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "NonFiniteError": "errors",
    "PlanError": "errors",
    "RecordError": "errors",
    "RequestError": "errors",
    "SaveError": "errors",
    "WeightsError": "errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Import a public name when it is first used: `ssd1b --help` shall not wait for JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return [*globals(), *__all__]

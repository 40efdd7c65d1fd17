"""SSD-1B image-to-image in JAX: give it a picture and a prompt, get the picture remade.

pipe = Pipeline.from_pretrained("emoji")
result = pipe(image="doodle.png", prompt="a red apple", strength=0.7, seed=7)
result.save("apple.png")
"""

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names as in _HOMES, for checkers and editors
    from ssd1b_jax.engine.callers import Progress as Progress
    from ssd1b_jax.engine.ticket import Ticket as Ticket
    from ssd1b_jax.errors import (
        CancelledError as CancelledError,
    )
    from ssd1b_jax.errors import (
        ConfigError as ConfigError,
    )
    from ssd1b_jax.errors import (
        DeadlineError as DeadlineError,
    )
    from ssd1b_jax.errors import (
        DeviceError as DeviceError,
    )
    from ssd1b_jax.errors import (
        Error as Error,
    )
    from ssd1b_jax.errors import (
        FileError as FileError,
    )
    from ssd1b_jax.errors import (
        Full as Full,
    )
    from ssd1b_jax.errors import (
        GridError as GridError,
    )
    from ssd1b_jax.errors import (
        ImageError as ImageError,
    )
    from ssd1b_jax.errors import (
        ModelError as ModelError,
    )
    from ssd1b_jax.errors import (
        NonFiniteError as NonFiniteError,
    )
    from ssd1b_jax.errors import (
        PlanError as PlanError,
    )
    from ssd1b_jax.errors import (
        RecordError as RecordError,
    )
    from ssd1b_jax.errors import (
        RequestError as RequestError,
    )
    from ssd1b_jax.errors import (
        RunError as RunError,
    )
    from ssd1b_jax.errors import (
        SaveError as SaveError,
    )
    from ssd1b_jax.errors import (
        WeightsError as WeightsError,
    )
    from ssd1b_jax.pipeline import Pipeline as Pipeline
    from ssd1b_jax.records import Output as Output
    from ssd1b_jax.request import Request as Request
    from ssd1b_jax.result import Result as Result

__version__ = version("ssd1b_jax")
logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the program that uses us asks

_HOMES = {
    "Pipeline": "pipeline",
    "Progress": "engine.callers",
    "Request": "request",
    "Result": "result",
    "Output": "records",
    "CancelledError": "errors",
    "ConfigError": "errors",
    "DeadlineError": "errors",
    "DeviceError": "errors",
    "Error": "errors",
    "FileError": "errors",
    "Full": "errors",
    "GridError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "NonFiniteError": "errors",
    "PlanError": "errors",
    "RecordError": "errors",
    "RequestError": "errors",
    "RunError": "errors",
    "SaveError": "errors",
    "Ticket": "engine.ticket",
    "WeightsError": "errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Import a public name when it is first used: so `ssd1b --help` does not wait for JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return [*globals(), *__all__]

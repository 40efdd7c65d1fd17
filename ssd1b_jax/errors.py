"""Every error that this project raises for its users, with the exit code and the HTTP status that it stands for.

A message is one sentence: what was got, what is allowed, what to do. Any other exception is a bug.
"""

DONE = 0
FAILED = 1  # some pictures failed
BAD_INPUT = 2  # or bad weights
DISK = 3
DEVICE = 70  # also a bug of ours
INTERRUPTED = 130
EXIT_CODES = "Exit codes: 0 done, 1 some pictures failed, 2 bad input or weights, 3 disk, 70 device, 130 interrupted."


class Error(Exception):
    """The base of all errors here. `exit_code` is that of a command, `http_status` that of an HTTP answer."""

    exit_code = BAD_INPUT
    http_status = 400

    @property
    def sentence(self) -> str:
        """The message on one line."""
        return " ".join(str(self).splitlines())


class RequestError(Error, ValueError):
    """A setting or an option that is unknown, missing or out of range."""


class ImageError(Error, ValueError):
    """A picture that cannot be read, or cannot be written in the way that was asked for."""


class RecordError(Error, ValueError):
    """A file without a usable record of how its picture was generated."""


class GridError(Error, ValueError):
    """An axis of a grid that cannot be understood."""


class PlanError(Error, ValueError):
    """A model, a device or a size that cannot be planned for."""


class RunError(Error, ValueError):
    """A run of many pictures that cannot begin: its manifest, its folder, or the names of its outputs."""


class FileError(Error, ValueError):
    """A file with other contents than its place calls for; the message names it."""

    http_status = 500


class ConfigError(Error, ValueError):
    """A config that this project cannot run, or a file that holds no config."""

    http_status = 500


class ModelError(Error, ValueError):
    """A model folder that is missing, damaged or foreign, or a place where none can be written."""

    http_status = 500


class WeightsError(Error, ValueError):
    """Weights that do not fit the config, or cannot be read; the message counts and names them."""

    http_status = 500


class HubError(WeightsError):
    """A hub that cannot be reached, or lacks what was asked for."""


class SaveError(Error, OSError):
    """A file that could not be written; no part of it is left, and an older file is unchanged."""

    exit_code = DISK
    http_status = 507


class NonFiniteError(Error, ArithmeticError):
    """A network gave NaN or infinity."""

    exit_code = FAILED
    http_status = 500


class DeviceError(Error, RuntimeError):
    """A device that is not there, or that failed."""

    exit_code = DEVICE
    http_status = 503


class CancelledError(Error):
    """A picture that its caller, or a queue that was closed, gave up."""

    exit_code = INTERRUPTED
    http_status = 499


class DeadlineError(Error, TimeoutError):
    """A picture that was not done by its deadline."""

    exit_code = FAILED
    http_status = 504


class Full(Error):
    """A queue that takes no more work now; `seconds` from now it will."""

    exit_code = FAILED
    http_status = 429

    def __init__(self, message: str, seconds: float):
        super().__init__(message)
        self.seconds = seconds


class TrainingError(Error, RuntimeError):
    """A step of the embedded model's training that cannot go on."""

    exit_code = BAD_INPUT
    http_status = 500


class ContenderError(Error, RuntimeError):
    """A contender of the benchmark that could not do its part."""

    http_status = 500

    def __init__(self, message: str, exit_code: int = FAILED):
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

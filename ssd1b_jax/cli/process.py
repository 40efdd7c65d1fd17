"""The process of a command: whose warnings reach standard error, and when garbage is collected."""

import atexit
import gc
import logging
import os
import sys
import warnings

PACKAGE = "ssd1b_jax"
# The levels of logs that ask the environment: those of XLA and of the TPU library, which write past `logging`, and that
# of the hub, which has a handler of its own. What the user has set stays.
LEVELS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "HF_HUB_VERBOSITY": "error",
}


class OurWarnings(logging.StreamHandler):
    """Writes this package's warnings and everyone's errors to standard error, and drops the libraries' warnings.

    It is silent where another handler takes all records: the user's, or the server's log.
    """

    def __init__(self):
        super().__init__()
        self.setLevel(logging.WARNING)

    def filter(self, record: logging.LogRecord) -> bool:
        return logging.getLogger().handlers == [self] and (_is_ours(record) or record.levelno >= logging.ERROR)

    def format(self, record: logging.LogRecord) -> str:
        source = "" if _is_ours(record) else f"{record.name}: "
        return f"{record.levelname.lower()}: {source}{record.getMessage()}"


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == PACKAGE


def prepare() -> None:
    """Keep the libraries' chatter out of standard error, and the garbage collector out of the way.

    Logging that the user has set up, `python -W` and PYTHONWARNINGS stay as they are.
    """
    for name, level in LEVELS.items():
        os.environ.setdefault(name, level)
    root = logging.getLogger()
    if not root.handlers:  # absl, which Orbax uses, would add one that writes every library's warnings
        root.addHandler(OurWarnings())
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # JAX creates many objects that live until the end. Searching them again and again for garbage, and once
    # more at exit, takes a good part of a short command's time.
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)


def be_quiet() -> None:
    """Write no more than errors; what the user has set up stays as it is."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, OurWarnings):
            handler.setLevel(logging.ERROR)

"""The server's log: one JSON object a line on standard error. Prompts and keys never stand in it."""

import json
import logging
import time
from typing import Any, TextIO

PACKAGE = "ssd1b_jax"
FIELDS = "fields"  # the attribute of a log record that has more values for its line


class Lines(logging.Formatter):
    """A log record as a JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        values |= getattr(record, FIELDS, {})
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)


def start(stream: TextIO) -> None:
    """Log to a stream: answers and the like of this package, and warnings of all others."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines())
    logging.getLogger().addHandler(handler)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)

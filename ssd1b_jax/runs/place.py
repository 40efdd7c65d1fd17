"""Where a run's files are: a folder on a disk, or one in an object store."""

from pathlib import Path

from ssd1b_jax.runs.bucket import Bucket, is_url
from ssd1b_jax.runs.folder import Folder

Place = Folder | Bucket


def place(text: str) -> Place:
    """The place of a path or a URL. Raises RunError."""
    return Bucket(text) if is_url(text) else Folder(Path(text))

"""Where a run's files are: a folder on a disk, or one in an object store."""

from pathlib import Path

from ssd1b_jax.errors import RunError
from ssd1b_jax.runs.bucket import SCHEMES, Bucket, is_url
from ssd1b_jax.runs.folder import Folder
from ssd1b_jax.runs.hub import is_on_hub

Place = Folder | Bucket


def place(text: str) -> Place:
    """The place of a path or a URL. Raises RunError."""
    if is_on_hub(text):
        raise RunError(
            f"{text} can have no outputs: each would be a commit, and the Hub takes only so many an hour; give a "
            "folder, and put it there by hf upload-large-folder"
        )
    if "://" in text and not is_url(text):
        raise RunError(f"outputs go to a folder, or to one of {', '.join(SCHEMES)}, got {text!r}")
    return Bucket(text) if is_url(text) else Folder(Path(text))

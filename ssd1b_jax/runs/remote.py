"""Pictures by address: from an object store, or from the Hub."""

from ssd1b_jax.runs import bucket, hub

SCHEMES = (*bucket.SCHEMES, hub.SCHEME)


def is_remote(text: str) -> bool:
    """Whether a picture is fetched."""
    return bucket.is_url(text) or hub.is_on_hub(text)


def read_picture(url: str) -> bytes:
    """The bytes of a picture's file. Raises ImageError."""
    return hub.read_picture(url) if hub.is_on_hub(url) else bucket.read_picture(url)

"""Pictures on the Hugging Face Hub, by addresses such as hf://datasets/OWNER/NAME@REVISION/PATH."""

import re

from ssd1b_jax.errors import ImageError, first_line

SCHEME = "hf"
KINDS = {"datasets/": "dataset", "spaces/": "space", "": "model"}
_PLACE = re.compile(r"hf://(datasets/|spaces/|)([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")


def is_on_hub(text: str) -> bool:
    return text.startswith(f"{SCHEME}://")


def read_picture(url: str) -> bytes:
    """The bytes of a file, which stays in the hub library's cache. Raises ImageError."""
    import huggingface_hub

    place = _PLACE.fullmatch(url)
    if place is None:
        raise ImageError(f"{url}: must be hf://datasets/OWNER/NAME/PATH, with @REVISION after NAME where one is meant")
    kind, repo, revision, name = place.groups()
    where = dict(repo_type=KINDS[kind], revision=revision and revision.replace("%2F", "/"))
    try:
        with open(huggingface_hub.hf_hub_download(repo, name, **where), "rb") as file:
            return file.read()
    except Exception as error:  # of the connection, of many libraries
        reason = first_line(error)[:200]
        raise ImageError(f"{url}: cannot be read: {reason}") from None

"""Model folders from a hub by their ids, through huggingface_hub and its cache: only the files that are needed."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convert.diffusers_folder import STEMS, candidates, read_index
from ssd1b_jax.checkpoints.model_folder import TOKENIZER_FILES, TOKENIZERS
from ssd1b_jax.errors import HubError

CONFIGS = (
    "model_index.json",
    "README.md",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in STEMS),
)
WORDS = tuple(f"{folder}/{name}" for folder in TOKENIZERS for name in TOKENIZER_FILES)


def is_hub_id(source: str) -> bool:
    """Whether it reads as OWNER/NAME."""
    return re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", source) is not None and not source.startswith(".")


def fetch(repo: str, revision: str | None, dtype: str) -> tuple[Path, str]:
    """A diffusers folder from the hub, in its cache, and the commit that it is of.

    Files in the cache are not loaded again, and a download that was cut off goes on. For a `dtype` of
    16 bits, files of 16 bits are preferred.
    """
    files, commit = _listing(repo, revision)
    wanted = [name for name in CONFIGS + WORDS if name in files]
    folder = _download(repo, commit, wanted)
    weights = []
    for part, stem in STEMS.items():
        names = [f"{part}/{name}" for name in candidates(stem, dtype) if f"{part}/{name}" in files]
        if not names:
            raise HubError(f"{repo} has no {part}/{stem}.safetensors: no diffusers folder of the SDXL family")
        if names[0].endswith(".json"):
            index = _download(repo, commit, [names[0]]) / names[0]
            weights += [f"{part}/{shard}" for shard in {*read_index(index, present=False).values()}]
        weights.append(names[0])
    _download(repo, commit, sorted(weights))
    return folder, commit


def fetch_tokenizers(repo: str) -> Path:
    """A folder with the tokenizers of a model on the hub, and nothing else fetched."""
    files, commit = _listing(repo, None)
    return _download(repo, commit, [name for name in WORDS if name in files])


def _listing(repo: str, revision: str | None) -> tuple[set[str], str]:
    import huggingface_hub

    with _hub_errors(repo, revision):
        about = huggingface_hub.HfApi().model_info(repo, revision=revision)
    return {sibling.rfilename for sibling in about.siblings or ()}, about.sha


def _download(repo: str, commit: str, names: list[str]) -> Path:
    import huggingface_hub

    with _hub_errors(repo, commit):
        return Path(huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=names))


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the hub library's errors into HubErrors of one sentence."""
    from huggingface_hub import errors

    place = f"the hub's {repo!r}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{place} is gated: accept its terms on its page, log in with hf auth login, and try again"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{place} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{place} does not exist, or is private: check its name, or log in with hf auth login"
        ) from error
    except Exception as error:  # of the connection, of many libraries
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise HubError(
            f"{place} can't be fetched ({reason}): try again, or give a folder or a file that is on this machine"
        ) from error

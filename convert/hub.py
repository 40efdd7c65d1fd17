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

    What was loaded before is not loaded again, and what was cut off goes on. For a `dtype` of 16 bits
    the files of 16 bits are taken where there are such.
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

    with _said(repo, revision):
        about = huggingface_hub.HfApi().model_info(repo, revision=revision)
    return {sibling.rfilename for sibling in about.siblings or ()}, about.sha


def _download(repo: str, commit: str, names: list[str]) -> Path:
    import huggingface_hub

    with _said(repo, commit):
        return Path(huggingface_hub.snapshot_download(repo, revision=commit, allow_patterns=names))


@contextmanager
def _said(repo: str, revision: str | None) -> Iterator[None]:
    """Tell in one sentence what the hub's library tells in many."""
    from huggingface_hub import errors

    place = f"the hub's {repo!r}"
    try:
        yield
    except errors.GatedRepoError as error:
        said = f"{place} is gated: accept its terms on its page, log in with hf auth login, and try again"
        raise HubError(said) from error
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
        said = f"{place} can't be fetched ({reason}): try again, or give a folder or a file that is on this machine"
        raise HubError(said) from error

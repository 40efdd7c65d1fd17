"""Model folders from a hub by their ids, through huggingface_hub and its cache: only the files that are needed."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from convert.diffusers_folder import STEMS, candidates, read_index
from ssd1b_jax.checkpoints.lora_file import FILES
from ssd1b_jax.checkpoints.model_folder import TOKENIZER_FILES, TOKENIZERS
from ssd1b_jax.errors import HubError, first_line

MARKS = ["model_index.json", "README.md"]  # small files, of models and of LoRAs
CONFIGS = (
    "model_index.json",
    "README.md",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in STEMS),
)
WORDS = tuple(f"{folder}/{name}" for folder in TOKENIZERS for name in TOKENIZER_FILES)


class Unreachable(HubError):
    """A hub that does not answer."""


def is_hub_id(source: str) -> bool:
    """Whether it reads as OWNER/NAME."""
    return re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", source) is not None and not source.startswith(".")


def fetch(repo: str, revision: str | None, dtype: str) -> tuple[Path, str]:
    """A diffusers folder from the hub, in its cache, and the commit that it is of.

    Files in the cache are not loaded again, and a download that was cut off goes on. Without a connection, what is in
    the cache is taken. For a `dtype` of 16 bits, files of 16 bits are preferred.
    """
    files, commit, is_cached = _listing(repo, revision)
    wanted = [name for name in CONFIGS + WORDS if name in files]
    folder = _download(repo, commit, wanted)
    weights = []
    for part, stem in STEMS.items():
        names = [f"{part}/{name}" for name in candidates(stem, dtype) if f"{part}/{name}" in files]
        if not names:
            if is_cached:
                raise HubError(f"the cache lacks {part}/{stem}.safetensors of {repo}, and the hub can't be reached")
            raise HubError(f"{repo} has no {part}/{stem}.safetensors: no diffusers folder of the SDXL family")
        if names[0].endswith(".json"):
            index = _download(repo, commit, [names[0]]) / names[0]
            weights += [f"{part}/{shard}" for shard in {*read_index(index, present=False).values()}]
        weights.append(names[0])
    _download(repo, commit, sorted(weights))
    return folder, commit


def fetch_tokenizers(repo: str) -> Path:
    """A folder with the tokenizers of a model on the hub, and nothing else fetched."""
    files, commit, _ = _listing(repo, None)
    return _download(repo, commit, [name for name in WORDS if name in files])


def fetch_lora(repo: str, file: str | None = None) -> Path:
    """The safetensors file of a LoRA on the hub; `file` is its name where the hub has several there."""
    files, commit, is_cached = _listing(repo, None)
    found = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    chosen = [name for name in (file, *FILES) if name in found] or found
    if is_cached and (file not in found if file else not found):
        raise HubError(f"the cache lacks {file or 'the LoRA'} of {repo}, and the hub can't be reached")
    if file is not None and chosen[:1] != [file]:
        raise HubError(f"{repo} has no {file}: it has {', '.join(found) or 'no safetensors file'}")
    if not chosen:
        raise HubError(f"{repo} has no safetensors file: no LoRA")
    if len(chosen) > 1 and chosen[0] not in (file, *FILES):
        raise HubError(f"{repo} has several files: give one, as {repo}/{chosen[0]} (or {', '.join(chosen[1:])})")
    return _download(repo, commit, [chosen[0]]) / chosen[0]


class Listing(NamedTuple):
    """The files of a commit: all that the hub has, or all in the hub's cache where the hub does not answer."""

    files: set[str]
    commit: str
    is_cached: bool = False


def _listing(repo: str, revision: str | None) -> Listing:
    import huggingface_hub

    try:
        with _hub_errors(repo, revision):
            about = huggingface_hub.HfApi().model_info(repo, revision=revision)
            # So the cache knows which commit the revision is, for a time without a connection.
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=MARKS)
    except Unreachable:
        cached = _cached(repo, revision)
        if cached is None:
            raise
        files = (path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file())
        return Listing({*files}, cached.name, is_cached=True)
    return Listing({sibling.rfilename for sibling in about.siblings or ()}, about.sha)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The folder of a revision in the hub's cache, which may have only some of its files; None where there is none."""
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=MARKS, local_files_only=True)
        )
    except (OSError, ValueError):  # as the hub's library says that it is not there
        return None


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
        reason = first_line(error)[:200]
        raise Unreachable(
            f"{place} can't be fetched ({reason}): try again, or give a folder or a file that is on this machine"
        ) from error

"""What is done before a run makes anything: its folder is locked, its manifest checked, what is there verified."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from ssd1b_jax.errors import RunError
from ssd1b_jax.runs import checking, journal, names, origin
from ssd1b_jax.runs.checking import Checked
from ssd1b_jax.runs.index import KEPT, OTHERS, REDONE, RETRIED, Index
from ssd1b_jax.runs.items import Defaults
from ssd1b_jax.runs.manifest import Manifest
from ssd1b_jax.runs.place import Place
from ssd1b_jax.runs.shards import Shard

VERIFIERS = 8  # threads that read what is kept
TOGETHER = 256  # entries that they are given at a time


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to do with what is there, and with lines that are wrong.

    In a folder that has another run `restart` removes its pictures, and `add` keeps them. `verify` is how pictures that
    are kept are looked at: by their sha256, or only by their size. With `lease`, in seconds, workers take blocks of
    lines by claims that last as long. `fleet` is for a run whose pictures a fleet makes.
    """

    restart: bool = False
    add: bool = False
    verify: Literal["sha256", "size"] = "sha256"
    on_error: Literal["skip", "stop"] = "skip"
    lease: float | None = None
    fleet: bool = False


def begin(
    manifest: Manifest,
    defaults: Defaults,
    folder: Place,
    made_by: origin.Origin,
    index: Index,
    shard: Shard,
    policy: Policy,
) -> Checked:
    """Check everything, and make the folder that of this run. Raises RunError before anything is written."""
    then = origin.read(folder)
    is_same = then == made_by and not policy.restart
    if then is not None and not (policy.add or policy.restart):
        origin.check(then, made_by, folder)
    quick = is_same and policy.on_error != "stop"
    checked = checking.check(manifest, defaults, folder, index, shard, quick=quick)
    if policy.on_error == "stop" and checked.bad_count:
        more = f"; and {checked.bad_count - len(checked.bad)} more" if checked.bad_count > len(checked.bad) else ""
        raise RunError(f"{'; '.join(checked.bad)}{more}: nothing was made; mend the lines, or --on-error skip")
    if then is not None and not is_same:
        _check_others(folder, made_by, index, policy)
    if then is not None and policy.restart:
        _remove_all(folder)
    if then is None or policy.restart:
        _write_origin(folder, made_by, index, folder.is_local and not shard.worker and policy.lease is None)
    elif not is_same:
        folder.write(origin.NAME, origin.dump(made_by))
    return checked


def _write_origin(folder: Place, made_by: origin.Origin, index: Index, is_alone: bool) -> None:
    """Write run.json, unless another worker has meanwhile begun the same run."""
    if is_alone:  # whose disk may have no hard links, as Google Drive
        checking.check_free(folder, index)
        folder.write(origin.NAME, origin.dump(made_by))
        return
    try:
        checking.check_free(folder, index)
    except RunError:
        if origin.read(folder) is None:
            raise
    if not folder.create(origin.NAME, origin.dump(made_by)):
        origin.check(origin.read(folder) or {}, made_by, folder)


def _check_others(folder: Place, made_by: origin.Origin, index: Index, policy: Policy) -> None:
    """Raise RunError where files that the journals do not tell of are in the place of outputs."""
    known = Index()
    try:
        for name in _written(folder):
            known.add(name, 0)
        checking.check_free(folder, index, known)
    except RunError:
        if policy.restart or origin.read(folder) != made_by:  # else another worker has begun the same run
            raise
    finally:
        known.close()


def _written(folder: Place) -> Iterator[str]:
    """The pictures and sidecars that the journals tell of."""
    for name in (*journal.files(folder), *journal.claimed(folder)):
        for entry in journal.read(folder, name):
            if entry.get("sha256") and names.is_safe(entry["output"]):
                yield entry["output"]
                if entry.get("sidecar"):
                    yield names.sidecar(entry["output"])


def _remove_all(folder: Place) -> None:
    """Remove the pictures of the run that the folder has, and all that it tells of them."""
    for name in _written(folder):
        folder.remove(name)
    for name in (*journal.files(folder), *folder.names("status", ".json")):
        folder.remove(name)
    remove_claims(folder)
    folder.remove(origin.NAME)


def remove_claims(folder: Place) -> None:
    for name in folder.names(f"{journal.CLAIMS}/", ""):
        folder.remove(name)


def verified(folder: Place, name: str, index: Index, policy: Policy) -> Iterator[journal.Entry]:
    """The entries of a journal that stay, one for each picture that is as it should be; the index learns of them."""
    entries = journal.read(folder, name)
    with ThreadPoolExecutor(VERIFIERS) as pool:
        while some := [*islice(entries, TOGETHER)]:
            unseen = [_is_unseen(index, entry) for entry in some]
            whole = pool.map(lambda entry, is_unseen: is_unseen and _is_whole(folder, entry, policy), some, unseen)
            for entry, is_whole in zip(some, whole, strict=True):
                output = entry["output"]
                state = index.state(output) if output else None
                if state is None or state == OTHERS:
                    if output and not entry.get("error"):
                        yield entry
                elif is_whole and state != KEPT:
                    index.set(output, KEPT)
                    yield entry
                elif state != KEPT:
                    index.set(output, RETRIED if entry.get("error") else REDONE)


def _is_unseen(index: Index, entry: journal.Entry) -> bool:
    """Whether an entry tells of a picture of this worker that no other entry has yet."""
    return bool(entry["output"]) and index.state(entry["output"]) not in (None, OTHERS, KEPT)


def _is_whole(folder: Place, entry: journal.Entry, policy: Policy) -> bool:
    """Whether a picture is on the disk as its entry tells."""
    name = entry["output"]
    if entry.get("error") or not name or not names.is_safe(name) or folder.size(name) != entry.get("bytes"):
        return False
    if policy.verify == "size":
        return True
    if entry.get("sidecar") and folder.sha256(names.sidecar(name)) != entry["sidecar"]:
        return False
    return folder.sha256(name) == entry.get("sha256")

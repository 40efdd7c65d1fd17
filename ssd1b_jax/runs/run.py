"""A run: a manifest's pictures, each made once, in a folder that says how far it is.

    run.json           what makes the run
    results.jsonl      a line for each picture
    status.json        how far it is, for other processes
    NAME.png …         the pictures, in the manifest's subfolders

A picture counts once its line is in results.jsonl, and on the disk with the line's sha256. So a run may be ended at any
moment, in any way: the next one keeps what is so, and makes the rest again.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

from ssd1b_jax.errors import BAD_INPUT, FAILED, Error, RequestError, RunError
from ssd1b_jax.records import KEY, dumps, saving
from ssd1b_jax.request import Request
from ssd1b_jax.result import Result
from ssd1b_jax.runs import checking, journal, names, origin
from ssd1b_jax.runs.checking import Checked
from ssd1b_jax.runs.folder import Folder, lock
from ssd1b_jax.runs.index import KEPT, OTHERS, PENDING, REDONE, RETRIED, Index
from ssd1b_jax.runs.items import Defaults, Item
from ssd1b_jax.runs.manifest import Line, Manifest
from ssd1b_jax.runs.savers import Savers
from ssd1b_jax.runs.shards import Shard
from ssd1b_jax.runs.tally import Status, Tally, status_name

VERIFIERS = 8  # threads that read what is kept
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to do with what is there, and with lines that are wrong.

    In a folder that has another run `restart` removes its pictures, and `add` keeps them. `verify` is how pictures that
    are kept are looked at: by their sha256, or only by their size.
    """

    restart: bool = False
    add: bool = False
    verify: Literal["sha256", "size"] = "sha256"
    on_error: Literal["skip", "stop"] = "skip"


WHOLE, CAREFUL = Shard(), Policy()


class Stopped(Exception):
    """A line failed, and that was to end the run."""


class Run:
    """A run that is open. `resumed` says whether pictures were there; `kept`, `redone`, `retried` and `new` count."""

    def __init__(
        self,
        manifest: Manifest,
        defaults: Defaults,
        folder: Folder,
        made_by: origin.Origin,
        *,
        shard: Shard = WHOLE,
        policy: Policy = CAREFUL,
    ):
        """Check the manifest and look through the folder. Raises RunError before anything is written, or SaveError."""
        self.manifest, self.defaults, self.folder, self.shard, self.policy = manifest, defaults, folder, shard, policy
        self.index = Index()
        self._lock = self._locked()
        try:
            self.checked = self._opened(made_by)
            self._journal = journal.Journal(folder, journal.file_name(shard.worker))
            self._keep()
        except BaseException:
            self._unlock()
            raise
        counts = self.index.counts()
        self.kept, self.redone, self.retried, self.new = (
            counts.get(state, 0) for state in (KEPT, REDONE, RETRIED, PENDING)
        )
        self.new += self.checked.nameless
        self.tally = Tally(self.kept + self.redone + self.retried + self.new, self.kept)

    @property
    def resumed(self) -> bool:
        return bool(self.kept or self.redone or self.retried)

    @property
    def is_done(self) -> bool:
        return not (self.redone or self.retried or self.new)

    def make(self, pipe: Any, tell: Tell = lambda event: None) -> None:
        """Make all that is not there. `tell` hears of every entry of the journal, from any thread.

        Raises SaveError and DeviceError; what was done stays.
        """
        flying: dict[int, Item] = {}
        self.tally.begin()

        def requests() -> Iterator:
            for number, item in enumerate(self._pending(tell)):
                flying[number] = item
                yield item.request

        with Status(self.folder, status_name(self.shard.worker), self.tally) as status:
            status.state = "stopped"
            with suppress(Stopped):
                with Savers() as savers, closing(pipe.stream(requests(), on_error="yield")) as outcomes:
                    for number, outcome in outcomes:
                        item = flying.pop(number)
                        savers.check()
                        if isinstance(outcome, Error):
                            self._fail(outcome, tell, item=item)
                        else:
                            savers.submit(lambda item=item, result=outcome: self._save(item, result, tell))
                status.state = "done"

    def first_request(self) -> Request | None:
        """The request of the first picture that is to be made."""
        for line in self.manifest.lines():
            with suppress(Error):
                for item in self.defaults.items(line):
                    if self._is_pending(item.name):
                        return item.request
        return None

    def failures(self) -> Iterator[journal.Entry]:
        """The entries of pictures that failed."""
        for name in journal.files(self.folder):
            yield from (entry for entry in journal.read(self.folder, name) if entry.get("error"))

    def close(self) -> None:
        self._journal.close()
        self.folder.tidy()
        self._unlock()

    def _locked(self) -> int:
        """Lock the folder: for this process, or for those that have a share."""
        self.folder.prepare()
        descriptor = os.open(self.folder.root, os.O_RDONLY)
        if not lock(descriptor, shared=bool(self.shard.worker)):
            os.close(descriptor)
            raise RunError(f"{self.folder.root} is in use: another process is at this run; wait for it, or end it")
        return descriptor

    def _unlock(self) -> None:
        os.close(self._lock)
        self.index.close()

    def _opened(self, made_by: origin.Origin) -> Checked:
        """Check everything, and make the folder this run's."""
        then = origin.read(self.folder)
        is_same = then == made_by
        if then is not None and not (self.policy.add or self.policy.restart):
            origin.check(then, made_by, self.folder)
        checked = checking.check(
            self.manifest, self.defaults, self.folder, self.index, self.shard, quick=is_same and not self.policy.restart
        )
        if self.policy.on_error == "stop" and checked.bad_count:
            more = f"; and {checked.bad_count - len(checked.bad)} more" if checked.bad_count > len(checked.bad) else ""
            raise RunError(f"{'; '.join(checked.bad)}{more}: nothing was made; mend the lines, or --on-error skip")
        if then is not None and self.policy.restart:
            self._remove_all()
            then = None
        if then is None:
            self._claim_folder(made_by)
        elif not is_same:
            self.folder.write(origin.NAME, origin.dump(made_by))
        return checked

    def _claim_folder(self, made_by: origin.Origin) -> None:
        """Write run.json, where nobody else has meanwhile begun the same."""
        try:
            checking.check_free(self.manifest, self.defaults, self.folder)
        except RunError:
            if origin.read(self.folder) is None:
                raise
        if not self.folder.create(origin.NAME, origin.dump(made_by)):
            origin.check(origin.read(self.folder) or {}, made_by, self.folder)

    def _remove_all(self) -> None:
        """Remove the pictures of the run that the folder has, and all that it tells of them."""
        for name in journal.files(self.folder):
            for entry in journal.read(self.folder, name):
                if entry.get("sha256") and names.is_safe(entry["output"]):
                    self.folder.remove(entry["output"])
                    if entry.get("sidecar"):
                        self.folder.remove(_sidecar(entry["output"]))
            self.folder.remove(name)
        for name in self.folder.names("status", ".json"):
            self.folder.remove(name)
        self.folder.remove(origin.NAME)

    def _keep(self) -> None:
        """Look at all that the journals tell of, and write one anew with what is so.

        The only worker takes the journals of others in; one of several leaves them.
        """
        mine = journal.file_name(self.shard.worker)
        others = [name for name in journal.files(self.folder) if name != mine]
        self._journal.replace(self._verified(mine))
        for name in others:
            verified = self._verified(name)
            if self.shard.worker:
                for _ in verified:
                    pass
            else:
                for entry in verified:
                    self._journal.add(entry)
                self.folder.remove(name)

    def _verified(self, name: str) -> Iterator[journal.Entry]:
        """The entries of a journal that stay: one for each picture that is as it should be."""
        entries = journal.read(self.folder, name)
        with ThreadPoolExecutor(VERIFIERS) as pool:
            while some := [*islice(entries, 256)]:
                for entry, is_whole in zip(some, pool.map(self._is_whole, some), strict=True):
                    state = self.index.state(entry["output"]) if entry["output"] else None
                    if state == KEPT or (entry["output"] is None):
                        continue
                    if state is None or state == OTHERS:
                        if not entry.get("error"):
                            yield entry
                    elif is_whole:
                        self.index.set(entry["output"], KEPT)
                        yield entry
                    else:
                        self.index.set(entry["output"], RETRIED if entry.get("error") else REDONE)

    def _is_whole(self, entry: journal.Entry) -> bool:
        """Whether a picture is on the disk as its entry tells."""
        name = entry["output"]
        if entry.get("error") or not name or not names.is_safe(name):
            return False
        if self.folder.size(name) != entry.get("bytes"):
            return False
        if self.policy.verify == "size":
            return True
        sidecar = entry.get("sidecar")
        has_sidecar = sidecar is None or self.folder.sha256(_sidecar(name)) == sidecar
        return has_sidecar and self.folder.sha256(name) == entry.get("sha256")

    def _pending(self, tell: Tell) -> Iterator[Item]:
        """The pictures to make, in the manifest's order. Lines that are wrong are entered as failed."""
        for line in self.manifest.lines():
            try:
                if not self._is_wanted(line):
                    continue
                for item in self.defaults.items(line):
                    if self._is_pending(item.name):
                        if checking.replaces_input(item, self.folder):
                            raise RequestError(f"the output {item.name} would replace its own input")
                        yield item
            except Error as error:
                self._fail(error, tell, line=line)

    def _is_wanted(self, line: Line) -> bool:
        outputs = checking.names_of(line, self.defaults)
        return any(map(self._is_pending, outputs)) if outputs else self.shard.has(line.where)

    def _is_pending(self, name: str) -> bool:
        return self.index.state(name) in (PENDING, REDONE, RETRIED)

    def _save(self, item: Item, result: Result, tell: Tell) -> None:
        """Write a picture, and then its entry."""
        name = PurePosixPath(item.name).name
        try:
            encoded = saving.encode(result.pixels, name, dict(result.record), result.request, item.output)
        except Error as error:
            self._fail(error, tell, item=item)
            return
        entry = _entry(item) | dict(seconds=round(result.seconds, 3))
        if item.output.sidecar or KEY in encoded.left_out:
            data = f"{dumps(encoded.record, indent=1)}\n".encode()
            self.folder.write(_sidecar(item.name), data)
            entry |= dict(sidecar=hashlib.sha256(data).hexdigest())
        self.folder.write(item.name, encoded.data)
        entry |= dict(sha256=hashlib.sha256(encoded.data).hexdigest(), bytes=len(encoded.data), error=None)
        self._journal.add(entry)
        self.tally.add()
        tell(entry)

    def _fail(self, error: Error, tell: Tell, *, item: Item | None = None, line: Line | None = None) -> None:
        """Enter a failure. What is no picture's own fault ends the run."""
        if error.exit_code not in (FAILED, BAD_INPUT):
            raise error
        if line is not None:
            outputs = [*filter(self._is_pending, checking.names_of(line, self.defaults))] or [None]
            entries = [dict(line=line.number, id=line.values.get("id"), output=output) for output in outputs]
            where = line.where
        else:
            entries, where = [_entry(item)], item.where
        for entry in entries:
            entry |= dict(sha256=None, error=error.sentence, kind=type(error).__name__, where=where)
            self._journal.add(entry)
            self.tally.add(type(error).__name__)
            tell(entry)
        if self.policy.on_error == "stop":
            raise Stopped


def _entry(item: Item) -> journal.Entry:
    return dict(line=item.line, id=item.id, output=item.name, seed=item.request.seed)


def _sidecar(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".json"))

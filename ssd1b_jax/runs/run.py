"""A run: a manifest's pictures, each made once, in a folder that says how far it is.

    run.json           what makes the run
    results.jsonl      a line for each picture
    status.json        how far it is, for other processes
    NAME.png …         the pictures, in the manifest's subfolders

A picture counts once its line is in results.jsonl, and on the disk with the line's sha256. So a run may be ended at any
moment, in any way: the next one keeps what is so, and makes the rest again.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ssd1b_jax.errors import Error, RequestError, RunError
from ssd1b_jax.request import Request
from ssd1b_jax.runs import checking, inputs, journal, leases, making, opening, origin
from ssd1b_jax.runs.claims import Claims, Merged
from ssd1b_jax.runs.fleet import Fleet, Load
from ssd1b_jax.runs.index import KEPT, PENDING, REDONE, RETRIED, Index
from ssd1b_jax.runs.items import Defaults, Item
from ssd1b_jax.runs.manifest import Line, Manifest
from ssd1b_jax.runs.opening import Policy
from ssd1b_jax.runs.place import Place
from ssd1b_jax.runs.shards import Shard
from ssd1b_jax.runs.tally import Status, Tally, status_name

Tell = Callable[[dict[str, Any]], None]
WHOLE, CAREFUL = Shard(), Policy()


class Stopped(Exception):
    """A line failed, and that was to end the run."""


class Run:
    """A run that is open: `kept`, `redone`, `retried` and `new` count its pictures, `tally` what becomes of them."""

    def __init__(
        self,
        manifest: Manifest,
        defaults: Defaults,
        folder: Place,
        made_by: origin.Origin,
        *,
        shard: Shard = WHOLE,
        policy: Policy = CAREFUL,
    ):
        """Check the manifest and look through the folder. Raises RunError before anything is written, or SaveError."""
        self.manifest, self.defaults, self.folder, self.shard, self.policy = manifest, defaults, folder, shard, policy
        self.index = Index()
        self._claims: Claims | None = None
        self._journal: journal.Journal | journal.Gathered | None = None
        self._driver: leases.Driver | None = None
        is_alone = not shard.worker and policy.lease is None
        if is_alone and not (folder.is_local or policy.fleet):
            raise RunError(f"workers claim what they make in an object store such as {folder.root}: give --claim")
        folder.lock(shared=not is_alone)
        try:
            if is_alone and not folder.is_local:
                self._driver = leases.Driver(folder)
            elif not folder.is_local:
                leases.refuse_driver(folder)
            folder.prepare(is_alone)
            checked = opening.begin(manifest, defaults, folder, made_by, self.index, shard, policy)
            self._keep(is_alone)
        except BaseException:
            self.close()
            raise
        counts = self.index.counts()
        self.kept, self.redone, self.retried, self.new = (
            counts.get(state, 0) for state in (KEPT, REDONE, RETRIED, PENDING)
        )
        self.new += checked.nameless
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
        name = status_name(self.shard.worker)
        if self._claims is not None:
            name = ("" if self.folder.is_local else f"{journal.CLAIMS}/") + status_name(self.folder.worker)
        self.tally.begin()
        with Status(self.folder, name, self.tally) as status:
            with suppress(Stopped):
                if self._claims is None:
                    self._make(pipe, tell)
                else:
                    self._make_claimed(pipe, tell, self._claims)
                status.state = "done"
        if self._claims is not None:
            self.folder.discard(name)

    def make_on(self, fleet: Fleet, load: Load, tell: Tell = lambda entry: None) -> None:
        """As `make`, by the workers of a fleet, each of which calls `load` for its pipeline."""

        def enter(entry: journal.Entry) -> None:
            if self._is_pending(entry["output"]):
                self.index.set(entry["output"], KEPT)
                self._enter(entry, tell)

        self.folder.make(journal.CLAIMS)
        self.tally.begin()
        with Status(self.folder, status_name(), self.tally) as status:
            with suppress(Stopped):
                fleet.make(load, self._pending(tell), self.folder, enter)
                status.state = "done"
        for name in journal.claimed(self.folder):  # what workers did while the last ones were heard
            for entry in journal.read(self.folder, name):
                with suppress(Stopped):
                    enter(entry)
        self._journal.put()
        opening.remove_claims(self.folder)
        self.folder.prepare(is_alone=True)

    def _make(self, pipe: Any, tell: Tell) -> None:
        """Go through the manifest once."""
        making.make(pipe, self._pending(tell), self.folder, lambda entry: self._enter(entry, tell))

    def _make_claimed(self, pipe: Any, tell: Tell, claims: Claims) -> None:
        """Go through the manifest until all blocks are done, by this worker or by others."""
        with suppress(Merged):
            while True:
                claims.begin()
                self.tally.others = 0
                self._make(pipe, tell)
                self.tally.completed -= claims.lost
                claims.lost = 0
                if not claims.wait():
                    break
            claims.merge(journal.read(self.folder, journal.file_name()), self.index)
            for name in self.folder.names("status-", ".json"):  # also of workers that died
                self.folder.discard(name)
        self.tally.others = self.tally.total - self.tally.kept - self.tally.completed - self.tally.failed.total()

    def first_request(self) -> Request | None:
        """The request of the first picture that is to be made, with a blank image in place of its own."""
        for line in filter(self._is_wanted, self.manifest.lines()):
            with suppress(Error):
                for item in self.defaults.items(line):
                    if self._is_pending(item.name):
                        return inputs.blank(item.request)
        return None

    def failures(self) -> Iterator[journal.Entry]:
        """The entries of pictures that failed: of this share, where there are several."""
        everybody = (*journal.files(self.folder), *journal.claimed(self.folder))
        for name in [journal.file_name(self.shard.worker)] if self.shard.worker else everybody:
            yield from (entry for entry in journal.read(self.folder, name) if entry.get("error"))

    def close(self) -> None:
        """Let other processes have the run."""
        try:
            for each in filter(None, (self._claims, self._journal)):
                each.close()
        finally:
            if self._driver is not None:
                self._driver.close()
            self.folder.tidy()
            self.folder.unlock()
            self.index.close()

    def abandon(self) -> None:
        """Give up leases and unfinished files, as the process is about to end."""
        if self._claims is not None:
            self._claims.close()
        if self._driver is not None:
            self._driver.close()
        self.folder.tidy()

    def _keep(self, is_alone: bool) -> None:
        """Look at all that the journals tell of. The only worker puts what is so into one of its own."""
        mine = journal.file_name(self.shard.worker)
        others = [name for name in journal.files(self.folder) if name != mine]
        if self.policy.lease is not None:
            self._claims = Claims(self.folder, self.policy.lease)
            others.append(mine)
        else:
            self._journal = (journal.Journal if self.folder.is_local else journal.Gathered)(self.folder, mine)
            self._journal.replace(opening.verified(self.folder, mine, self.index, self.policy))
        others += journal.claimed(self.folder) if is_alone else ()
        for name in others:
            for entry in opening.verified(self.folder, name, self.index, self.policy):
                if is_alone:
                    self._journal.add(entry)
        if is_alone:
            self._journal.put()
            for name in others:
                self.folder.remove(name)
            opening.remove_claims(self.folder)

    def _pending(self, tell: Tell) -> Iterator[Item]:
        """The pictures to make, in the manifest's order. Lines that are wrong are entered as failed."""
        for line in self.manifest.lines():
            try:
                if not self._is_wanted(line) or not self._takes(line):
                    continue
                for item in self.defaults.items(line):
                    if self._is_pending(item.name):
                        if checking.replaces_input(item, self.folder):
                            raise RequestError(f"the output {item.name} would replace its own input")
                        self._expect()
                        yield item
            except Error as error:
                self._fail_line(error, tell, line)
        if self._claims is not None:
            self._claims.end()

    def _is_wanted(self, line: Line) -> bool:
        outputs = checking.names_of(line, self.defaults)
        return any(map(self._is_pending, outputs)) if outputs else self.shard.has(line.where)

    def _is_pending(self, name: str) -> bool:
        return self.index.state(name) in (PENDING, REDONE, RETRIED)

    def _takes(self, line: Line) -> bool:
        if self._claims is None:
            return True
        if self._claims.is_others(line.number):
            self.tally.others += len(checking.names_of(line, self.defaults)) or 1
        return self._claims.takes(line.number)

    def _expect(self) -> None:
        if self._claims is not None:
            self._claims.expect()

    def _fail_line(self, error: Error, tell: Tell, line: Line) -> None:
        """Enter all pictures of a line that is wrong."""
        for output in [*filter(self._is_pending, checking.names_of(line, self.defaults))] or [None]:
            self._expect()
            entry = dict(line=line.number, id=line.values.get("id"), output=output)
            self._enter(entry | making.failure(error, line.where), tell)

    def _enter(self, entry: journal.Entry, tell: Tell) -> None:
        (self._claims or self._journal).add(entry)
        self.tally.add(entry.get("kind"))
        tell(entry)
        if entry["error"] and self.policy.on_error == "stop":
            raise Stopped

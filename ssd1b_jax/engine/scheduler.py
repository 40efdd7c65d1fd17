"""The order in which pictures are made: pure rules over what is known of them, with no clock and no device of its own.

- Interactive pictures come before batch ones; a batch picture that has waited `BATCH_PATIENCE` counts as interactive.
- Callers take turns: each caller's first picture is in round one, its second in round two. A caller begins as many
  rounds later as it was given more pictures than the others that wait, so a long list of one holds up nobody else.
- Within a round the picture with the least work left comes first, less a tenth of the work that could have been done
  while it waited. So nothing starves, and short pictures need not wait for long ones.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from ssd1b_jax.errors import Full

PRIORITIES = ("interactive", "batch")
AGING = 0.1  # of the wait
BATCH_PATIENCE = 600.0  # seconds
PREEMPTION = 0.5  # a picture gives up its row to one with at most this part of its work


class Work:
    """A picture, as far as its place in the order depends on it."""

    priority: str
    caller: object
    submitted: float  # seconds, by the clock of `Scheduler.order`
    deadline: float | int | None  # by the same clock

    @property
    def remaining(self) -> float:
        """Work left, in the unit of `Job.work`."""
        raise NotImplementedError


class Scheduler:
    """Orders pictures. `rate` is the measured seconds of one unit of work on one row, which callers update."""

    def __init__(self, rows: int, rate: float | int = 0.01):
        self.rows = rows
        self.rate = rate
        self._served: dict[object, int] = {}  # pictures, of callers that wait

    def measured(self, work: float | int, seconds: float | int) -> None:
        """Take note of how long some work took; recent measurements count most."""
        if work > 0:
            self.rate += 0.1 * (seconds / work - self.rate)

    def key(self, work: Work, now: float | int) -> float:
        """Work left less what is due for the wait: the smaller, the sooner."""
        return work.remaining - AGING * (now - work.submitted) / self.rate

    def order(self, works: Iterable[Work], now: float | int) -> list[Work]:
        """All pictures that are not done, the most urgent first."""
        keyed = sorted(((self._class(work, now), self.key(work, now), i, work) for i, work in enumerate(works)))
        rounds = self._rounds({work.caller for *_, work in keyed})
        ranked = []
        for level, key, i, work in keyed:
            ranked.append((level, rounds[work.caller, level], key, i, work))
            rounds[work.caller, level] += 1
        ranked.sort(key=lambda entry: entry[:4])
        return [entry[-1] for entry in ranked]

    def finished(self, work: Work) -> None:
        """Take note that a caller was given a picture."""
        self._served[work.caller] = self._served.get(work.caller, 0) + 1

    def preempts(self, waiting: Work, running: Work) -> bool:
        """Whether a waiting picture, earlier in the order, is worth moving a running one out of its row."""
        if waiting.priority != running.priority:
            return True
        return waiting.remaining <= PREEMPTION * running.remaining

    def seconds(self, works: Sequence[Work]) -> float:
        """How long all rows take for these pictures together: exact in work, measured in seconds."""
        return sum(work.remaining for work in works) * self.rate / self.rows

    def expected(self, works: Sequence[Work], work: Work) -> float:
        """Seconds until one of these pictures, which are in order, is done.

        Pictures take the first row that is free, in their order.
        """
        rows = [0.0] * self.rows
        for each in works:
            row = min(range(self.rows), key=rows.__getitem__)
            rows[row] += each.remaining * self.rate
            if each is work:
                return rows[row]
        raise ValueError("the picture is not among those that are to be done")

    def admit(self, works: Sequence[Work], work: Work, deadline: float | int | None, limit: float | int | None) -> None:
        """Raise Full where a picture can't be done `deadline` seconds after it was submitted, or waits over `limit`."""
        ahead = self.seconds(works)
        if limit is not None and ahead > limit:
            wait = ahead - limit
            raise Full(f"the queue is full: its pictures take {ahead:.0f} s more, try again in {wait:.0f} s", wait)
        if deadline is not None and works:
            expected = self.expected(self.order([*works, work], work.submitted), work)
            if expected > deadline:
                wait = expected - deadline
                raise Full(f"the picture takes {expected:.0f} s, {wait:.0f} s more than there are: try later", wait)

    def _rounds(self, callers: set[object]) -> "Counter[tuple[object, int]]":
        """The round of each caller's next picture, by caller and class. Callers that are gone are forgotten."""
        known = [self._served[caller] for caller in callers if caller in self._served]
        least = min(known, default=0)
        self._served = {caller: self._served.get(caller, least) for caller in callers}
        late = {caller: served - least for caller, served in self._served.items()}
        return Counter({(caller, level): late[caller] for caller in callers for level in range(len(PRIORITIES))})

    def _class(self, work: Work, now: float | int) -> int:
        if work.priority == "batch" and now - work.submitted >= BATCH_PATIENCE:
            return 0
        return PRIORITIES.index(work.priority)

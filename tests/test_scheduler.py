"""The order of pictures, simulated with a clock and a model of arithmetic alone."""

import dataclasses
import statistics

import numpy as np
import pytest

from ssd1b_jax.engine.scheduler import BATCH_PATIENCE, Scheduler, Work


@dataclasses.dataclass(eq=False)
class Picture(Work):
    calls: int
    submitted: float = 0.0
    priority: str = "interactive"
    caller: object = None
    deadline: float | None = None
    done: int = 0
    finished: float | None = None

    @property
    def remaining(self) -> float:
        return float(self.calls - self.done)


def simulate(pictures: list[Picture], rows: int = 1, rate: float = 1.0, until: float = 1e5) -> None:
    """Advance the first `rows` pictures of the order, a call at a time, until all are done."""
    scheduler, now = Scheduler(rows, rate), 0.0
    here, later = [], sorted(pictures, key=lambda picture: picture.submitted)[::-1]
    while now < until and (here or later):
        while later and later[-1].submitted <= now:
            here.append(later.pop())
        for picture in scheduler.order(here, now)[:rows]:
            picture.done += 1
            if picture.done == picture.calls:
                picture.finished = now + rate
                scheduler.finished(picture)
                here.remove(picture)
        now += rate


def first_come(pictures: list[Picture]) -> list[float]:
    """Waits where nothing is ordered and nothing is interrupted, on one row."""
    now, waits = 0.0, []
    for picture in pictures:
        now = max(now, picture.submitted) + picture.calls
        waits.append(now - picture.submitted)
    return waits


def load(count: int, share: float, seed: int = 0) -> list[Picture]:
    """Arrivals at random, of 4, 12, 24 and 50 calls, which need this share of one row."""
    rng = np.random.default_rng(seed)
    calls = rng.choice([4, 12, 24, 50], count, p=[0.25, 0.4, 0.25, 0.1])
    times = rng.exponential(calls.mean() / share, count).cumsum()
    return [Picture(int(n), float(time)) for n, time in zip(calls, times, strict=True)]


def test_short_pictures_need_not_wait_for_long_ones():
    pictures = load(400, 0.8)
    simulate(pictures)
    waits = [picture.finished - picture.submitted for picture in pictures]
    assert statistics.mean(waits) < 0.75 * statistics.mean(first_come(pictures))
    within = statistics.mean(wait <= 8 * picture.calls for wait, picture in zip(waits, pictures, strict=True))
    assert within > 0.95


def test_a_long_picture_is_not_starved_by_short_ones():
    """Short ones take all there is, for ever."""
    long = Picture(50)
    short = [Picture(4, 4.0 * i) for i in range(300)]
    simulate([long, *short], until=1200)
    assert long.finished is not None and long.finished < 1000


def test_callers_take_turns():
    many = [Picture(10, caller="many") for _ in range(50)]
    one = Picture(10, 1.0, caller="one")
    simulate([*many, one])
    assert one.finished <= 31
    before = sum(picture.finished < one.finished for picture in many)
    assert before <= 2


def test_interactive_comes_before_batch_until_that_has_waited_long():
    batch = Picture(5, priority="batch")
    interactive = [Picture(5, 5.0 * i) for i in range(400)]
    simulate([batch, *interactive])
    assert BATCH_PATIENCE <= batch.finished < BATCH_PATIENCE + 100
    assert interactive[3].finished == 20


def test_the_order_is_that_of_arrival_where_nothing_else_differs():
    pictures = [Picture(5) for _ in range(10)]
    assert Scheduler(1).order(pictures, 0.0) == pictures


def test_a_picture_gives_way_only_to_one_much_shorter_or_more_urgent():
    scheduler = Scheduler(1)
    assert scheduler.preempts(Picture(4), Picture(20))
    assert not scheduler.preempts(Picture(15), Picture(20))
    assert scheduler.preempts(Picture(50), Picture(20, priority="batch"))


@pytest.mark.parametrize("rows", [1, 4])
def test_what_is_expected_happens(rows):
    pictures = [Picture(int(n)) for n in np.random.default_rng(1).integers(3, 40, 20)]
    scheduler = Scheduler(rows, rate=1.0)
    order = scheduler.order(pictures, 0.0)
    expected = [scheduler.expected(order, picture) for picture in pictures]
    simulate(pictures, rows)
    finished = [picture.finished for picture in pictures]
    np.testing.assert_allclose(finished, expected, rtol=0.35, atol=5)
    assert scheduler.seconds([Picture(30)] * 4) == 120 / rows


def test_the_rate_follows_what_is_measured():
    scheduler = Scheduler(1, rate=1.0)
    for _ in range(100):
        scheduler.measured(10, 2.0)
    assert scheduler.rate == pytest.approx(0.2, rel=0.01)
    scheduler.measured(0, 5.0)  # a decode has no calls
    assert scheduler.rate == pytest.approx(0.2, rel=0.01)

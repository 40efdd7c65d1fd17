"""A generator in a thread of its own: order, errors, how far it runs ahead, and how it ends."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from ssd1b_jax.engine.prefetch import ahead, in_background


def test_items_come_in_order_and_the_maker_runs_ahead():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    taken = ahead(items(), 2)
    assert next(taken) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:  # one taken, two waiting, one that finds no room
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(taken) == list(range(1, 20))


def test_an_error_comes_in_its_turn():
    def items():
        yield 1
        raise ValueError("the second")

    taken = ahead(items(), 5)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="the second"):
        next(taken)


def test_closing_closes_the_generator_and_ends_the_thread():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield threading.current_thread()
        finally:
            closed.set()

    taken = ahead(items(), 1)
    thread = next(taken)
    taken.close()
    assert closed.is_set() and not thread.is_alive() and thread is not threading.current_thread()


def test_steps_beside_a_block_are_done_when_it_ends():
    begun, done = threading.Event(), []

    def steps():
        for i in range(3):
            begun.set()
            done.append(i)
            yield

    with in_background(steps()):
        assert begun.wait(10)  # while the block runs
    assert done == [0, 1, 2]


def test_an_error_beside_a_block_comes_at_its_end():
    reached = []

    def steps():
        yield
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"), in_background(steps()):
        reached.append("the end")
    assert reached == ["the end"]


def test_a_block_that_fails_ends_the_steps_beside_it():
    begun = threading.Event()

    def steps():
        while True:
            begun.set()
            yield

    with pytest.raises(ValueError, match="the block"), in_background(steps()):
        assert begun.wait(10)
        raise ValueError("the block")
    assert not any(thread.name == "ahead" for thread in threading.enumerate())


TWICE = """
import signal, time
from ssd1b_jax.engine.prefetch import in_background

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it

def steps():
    print("begun", flush=True)
    time.sleep(2)
    print("ended", flush=True)
    yield

with in_background(steps()):
    time.sleep(60)
"""


def test_interrupted_twice_it_still_waits_for_the_step():
    """A thread in XLA when Python ends would abort it."""
    command = [sys.executable, "-c", TWICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        for _ in range(2):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert out == "ended\n" and "KeyboardInterrupt" in err and process.returncode in (1, -signal.SIGINT)

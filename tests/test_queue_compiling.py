"""Programs are compiled beside the pictures that are made: who needs one waits for it, and nobody else does."""

import threading
import time

import jax
import pytest
from helpers.lora import CONV, LINEAR, SHORTCUT, kohya, write
from helpers.requests import digest, picture
from helpers.tiny import SIZE

from ssd1b_jax import CancelledError, DeviceError, Pipeline, Request
from ssd1b_jax.engine import programs
from ssd1b_jax.engine.devices import Devices

PATIENCE = 120  # seconds


def request(**settings) -> Request:
    return Request(**dict(image=picture(), prompt="a red apple", seed=1, width=SIZE, height=SIZE) | settings)


def other_size(**settings) -> Request:
    return request(height=SIZE // 2, **settings)


def endless() -> Request:
    return request(num_inference_steps=1000, strength=1.0)


class Compiler:
    """Stands in for `Programs._compile`: waits until the test lets it go on, or fails as the test says."""

    def __init__(self, compile):
        self._compile = compile
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.names: list[str] = []
        self.error: Exception | None = None

    def __call__(self, name, program):
        self.names.append(name)
        self.begun.set()
        assert self.may_go_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return self._compile(name, program)


@pytest.fixture
def pipe(tiny_model, monkeypatch):
    """Has the programs of SIZE, as all pipelines of the small model, and of other sizes none."""
    pipe = Pipeline(tiny_model, devices=Devices(jax.devices()[:1]))
    warm = pipe.runner.programs
    own = programs.Programs(warm.config, warm.stages.dtypes, warm.devices)
    pipe.generate([request()])
    own._compiled.update((key, compiled) for key, compiled in warm._compiled.items() if key[1].height == SIZE)
    own._alive.update(own._compiled)
    monkeypatch.setattr(pipe.runner, "programs", own)
    monkeypatch.setattr(pipe.queue._reading, "_programs", own)
    yield pipe
    pipe.close()


@pytest.fixture
def compilers():
    """The names of the threads that XLA compiles in, while a test runs."""
    names = set()

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.add(threading.current_thread().name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture
def compiler(pipe, monkeypatch):
    compiler = Compiler(pipe.runner.programs._compile)
    monkeypatch.setattr(pipe.runner.programs, "_compile", compiler)
    yield compiler
    compiler.may_go_on.set()


def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_pictures_are_made_while_a_program_is_compiled(pipe, compiler):
    long = pipe.submit(endless())
    new = pipe.submit(other_size())
    assert compiler.begun.wait(PATIENCE)
    seen = long.progress.calls_done
    until(lambda: long.progress.calls_done > seen + 20)
    short = pipe.submit(request(seed=5))  # is read too
    assert short.result(PATIENCE).seed == 5
    assert not new.done() and new.progress.calls_done == 0 and compiler.names == ["prepare"]
    long.cancel()
    new.cancel()


@pytest.mark.slow
def test_a_program_that_came_late_gives_the_same_bits(pipe, compiler, tiny_model):
    long, new = pipe.submit(endless()), pipe.submit(other_size())
    assert compiler.begun.wait(PATIENCE)
    compiler.may_go_on.set()
    made = new.result(PATIENCE)
    long.cancel()
    assert compiler.names == ["prepare", "advance", "decode"]
    assert digest([made]) == digest(Pipeline(tiny_model, devices=jax.devices()[:1]).generate([other_size()]))


def test_an_error_of_the_compiler_is_that_of_the_pictures_that_wait_for_it(pipe, compiler):
    compiler.error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large\nand more")
    long, *new = pipe.submit(endless()), pipe.submit(other_size()), pipe.submit(other_size(seed=2))
    assert compiler.begun.wait(PATIENCE)
    compiler.may_go_on.set()
    for ticket in new:
        with pytest.raises(DeviceError, match="pictures can't be compiled: RESOURCE_EXHAUSTED: too large$"):
            ticket.result(PATIENCE)
    assert not long.done() and pipe.submit(request(seed=3)).result(PATIENCE).seed == 3
    long.cancel()
    assert isinstance(pipe.submit(other_size()).exception(PATIENCE), DeviceError)
    assert compiler.names == ["prepare"] * 2  # the next one tries again


def test_the_first_merge_of_a_lora_compiles_beside_the_pictures_that_are_made(pipe, compilers, tmp_path):
    rank = 9  # of no other test
    tensors = kohya(pipe.config, [LINEAR, CONV, SHORTCUT, "up_blocks.0.upsamplers.0.conv"], rank)
    pipe.load_lora(write(tmp_path / "new.safetensors", tensors.items()), "new")
    compilers.clear()  # those of `load_lora`
    others = [pipe.submit(endless()) for _ in range(20)]  # more than a slow machine makes while it compiles
    until(lambda: others[0].progress.calls_done > 2)
    merged = pipe.submit(request(loras=dict(new=0.5))).result(PATIENCE)
    assert not others[-1].done() and compilers == {"ssd1b-compiler"}
    compilers.clear()
    pipe.submit(request(loras=dict(new=0.7))).result(PATIENCE)
    for other in others:
        other.cancel()
    assert not compilers and digest([merged]) == digest([pipe.submit(request(loras=dict(new=0.5))).result(PATIENCE)])


def test_closing_waits_for_what_is_being_compiled_and_no_more(pipe, compiler):
    new = [pipe.submit(other_size()), pipe.submit(request(height=2 * SIZE))]
    assert compiler.begun.wait(PATIENCE)
    closing = threading.Thread(target=pipe.close)
    closing.start()
    with pytest.raises(CancelledError):
        new[0].result(PATIENCE)
    assert closing.is_alive()
    compiler.may_go_on.set()
    closing.join(PATIENCE)
    assert not closing.is_alive() and new[1].cancelled() and compiler.names == ["prepare"]


def test_a_program_that_a_picture_needs_stays_however_many_others_come(pipe, monkeypatch):
    monkeypatch.setattr(programs, "MAX_PROGRAMS", 1)
    compiled = pipe.runner.programs
    program = pipe._planner.plan(request()).group.program
    held = compiled.hold(program, {True})
    assert len(compiled._compiled) == 1 and compiled.is_there(program, {True})
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("it is compiled again"))
    assert [compiled.get(name, program) for name in ("prepare", "decode")] == [held[0].result(), held[-1].result()]

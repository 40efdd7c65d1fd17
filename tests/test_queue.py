"""Pictures that share rows, join and leave at any step: each has the bits that it has alone."""

import asyncio
import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lora, tiny
from helpers.requests import digest, picture

from ssd1b_jax import (
    CancelledError,
    DeadlineError,
    Full,
    ImageError,
    NonFiniteError,
    Pipeline,
    Request,
    RequestError,
    Result,
)
from ssd1b_jax.engine import loop, programs, stages
from ssd1b_jax.engine.devices import Devices
from ssd1b_jax.engine.jobs import Program
from ssd1b_jax.engine.queue import THREADS
from ssd1b_jax.models import PARTS

SAMPLERS = ("euler", "heun", "dpmpp_2m_karras", "unipc", "euler_a", "dpmpp_2m_sde", "dpm2_a", "lcm", "pndm", "ddim")


def random_requests(count: int, seed: int, loras: tuple[str, ...] = ()) -> list[Request]:
    """Of one size, and otherwise of all that a request may vary."""
    rng = np.random.default_rng(seed)
    mask = np.tri(tiny.SIZE, dtype=np.uint8) * 255
    requests = []
    for i in range(count):
        start = float(rng.choice([0.0, 0.0, 0.3]))
        requests.append(
            Request(
                image=picture(int(rng.integers(4))),
                prompt=str(rng.choice(["a red apple", "apple", ""])),
                negative_prompt=[None, "a red"][rng.integers(2)],
                seed=int(rng.integers(2**63)),
                scheduler=str(rng.choice(SAMPLERS)),
                num_inference_steps=int(rng.integers(3, 12)),
                strength=float(rng.choice([0.4, 0.7, 1.0])),
                exact_steps=bool(rng.integers(2)),
                guidance_scale=float(rng.choice([1.0, 3.0, 7.0])),
                guidance_rescale=float(rng.choice([0.0, 0.5])),
                guidance_interval=(start, float(rng.choice([0.7, 1.0]))),
                noise=str(rng.choice(["jax", "jax", "torch", "nv"])),
                variation_seed=i,
                variation_strength=float(rng.choice([0.0, 0.3])),
                mask=[None, None, mask][rng.integers(3)],
                loras={name: 0.5 for name in loras if rng.integers(8) == 0},
            )
        )
    return requests


def pipeline(model, devices: int, width: int) -> Pipeline:
    return Pipeline(model, devices=Devices(jax.devices()[:devices], width))


def together(pipe: Pipeline, requests: list[Request], seed: int, cancels: int = 0) -> list[Result]:
    """Results of requests that are submitted at random moments; some more are cancelled."""
    rng = np.random.default_rng(seed)
    tickets, others = [], []
    for i, request in enumerate(requests):
        priority = str(rng.choice(["interactive", "batch"]))
        tickets.append(pipe.submit(request, priority=priority, caller=int(rng.integers(3))))
        if i < cancels:
            others.append(pipe.submit(dataclasses.replace(request, seed=i)))
        if rng.integers(3) == 0:
            time.sleep(float(rng.exponential(0.02)))
        if others and rng.integers(2):
            others.pop().cancel()
    for ticket in others:
        ticket.cancel()
    return [ticket.result(timeout=600) for ticket in tickets]


def pixels(results) -> np.ndarray:
    return np.stack([result.pixels for result in results]).astype(int)


@pytest.mark.slow
def test_pictures_that_come_and_go_have_the_bits_that_they_have_alone(tiny_model):
    requests = [
        dataclasses.replace(request, noise="jax", scheduler=name)
        for request, name in zip(random_requests(16, 1), SAMPLERS * 2, strict=False)
    ]
    alone = [pipeline(tiny_model, 1, 1).generate([request])[0] for request in requests]
    assert len(set(digest(alone))) > 12
    for devices in (1, 2):
        made = together(pipeline(tiny_model, devices, 1), requests[::-1], devices, cancels=5)
        assert digest(made) == digest(alone[::-1])


def remade(pipe: Pipeline, results: list[Result]) -> list[Result]:
    """Each picture alone, in the row that it had; on a CPU the row decides how sums are rounded."""
    return [pipe.remake(result.request, row=result.record.get("row", 0)) for result in results]


@pytest.mark.slow
def test_pictures_that_share_rows_are_those_made_alone_in_the_same_row(tiny_model):
    requests = [Request(image=picture(), prompt="apple", seed=i, num_inference_steps=3 + 2 * i) for i in range(6)]
    pipe = pipeline(tiny_model, 1, 2)
    made = together(pipe, requests, 0, cancels=3)
    assert {result.record["row"] for result in made} == {0, 1}
    assert digest(made) == digest(remade(pipe, made))
    first = [pipe.remake(request) for request in requests]
    assert np.abs(pixels(made) - pixels(first)).max() <= 1


def test_a_row_that_is_not_there_is_told(tiny_pipe):
    with pytest.raises(RequestError, match="row must be less than the 1 of a device, got 1"):
        tiny_pipe.remake(base(), row=1)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])
def test_200_pictures_are_those_made_alone(tiny_model, tmp_path, width):
    """To the bit, in the same row, on any number of devices."""
    lora.write(tmp_path / "style.safetensors", lora.kohya(tiny.tiny_config()).items())
    requests = [
        dataclasses.replace(request, noise="jax", guidance_scale=max(request.guidance_scale, 2.0))  # few programs
        for request in random_requests(200, 7, loras=("style",))
    ]
    pipes = [pipeline(tiny_model, devices, width) for devices in (1, 4)]
    for pipe in pipes:
        pipe.load_lora(tmp_path / "style.safetensors")
    alone: dict[tuple[int, int], Result] = {}
    for seed, pipe in enumerate(pipes):
        made = together(pipe, requests, seed, cancels=20)
        assert len(set(digest(made))) > 190
        places = [(index, result.record.get("row", 0)) for index, result in enumerate(made)]
        for index, row in {*places} - {*alone}:
            alone[index, row] = pipes[0].remake(made[index].request, row=row)
        assert digest(made) == digest(alone[place] for place in places)


@pytest.mark.slow
def test_noise_kinds_and_no_guidance_share_rows_too(tiny_model):
    requests = random_requests(40, 3)
    assert {request.noise for request in requests} == {"jax", "torch", "nv"}
    assert {request.guidance_scale for request in requests} == {1.0, 3.0, 7.0}
    pipe = pipeline(tiny_model, 1, 4)
    made = together(pipe, requests, 0, cancels=10)
    assert digest(made) == digest(remade(pipe, made))


@pytest.fixture
def own_programs(monkeypatch):
    """Programs that are compiled for this test alone."""
    monkeypatch.setattr(programs, "shared", programs.Programs)


def wrong_neighbour(denoise, state, *arguments):
    made = loop.sample(denoise, state, *arguments)
    return made._replace(latents=made.latents + 0.1 * jnp.roll(made.latents, 1, axis=0))


def wrong_step(denoise, state, tables, start, stop, *arguments):
    return loop.sample(denoise, state, tables, start.max() + 0 * start, (stop - start) + start.max(), *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [wrong_neighbour, wrong_step])
def test_a_row_that_leaks_or_a_wrong_step_is_seen(tiny_model, own_programs, monkeypatch, wrong):
    """The test above would fail."""
    monkeypatch.setattr(stages, "loop", type("loop", (), {**vars(loop), "sample": staticmethod(wrong)}))
    pipe = pipeline(tiny_model, 1, 2)
    long = pipe.submit(base(num_inference_steps=200, strength=1.0))
    while not long.progress.calls_done:
        time.sleep(0.01)
    made = [pipe.submit(base(seed=2)).result(timeout=600), long.result(timeout=600)]  # the first joins the second
    assert digest(made) != digest(remade(pipe, made))


# Callers


def base(**settings) -> Request:
    return Request(**dict(image=picture(), prompt="a red apple", seed=1) | settings)


def endless(**settings) -> Request:
    return base(num_inference_steps=1000, strength=1.0, **settings)


def test_a_ticket_says_how_far_its_picture_is(tiny_pipe):
    long, short = tiny_pipe.submit(endless()), tiny_pipe.submit(base(seed=5))
    called = []
    short.add_done_callback(called.append)
    short.add_done_callback(lambda _: 1 / 0)  # is logged, and stops nothing
    assert digest([short.result(timeout=60)]) == digest(tiny_pipe.generate([base(seed=5)]))
    assert called == [short] and short.done() and short.position == 0 and short.expected_seconds == 0
    assert short.progress.calls_done == short.progress.calls == 3
    assert not long.done() and long.progress.calls == 1000 and long.expected_seconds > 0
    with pytest.raises(TimeoutError):
        long.result(timeout=0.01)
    assert long.cancel() and long.exception(timeout=60) is not None and long.cancelled()
    with pytest.raises(CancelledError, match="the picture was cancelled"):
        long.result()
    assert not long.cancel()


def test_many_threads_may_submit(tiny_pipe):
    requests = [base(seed=seed) for seed in range(8)]
    made = {}

    def ask(seed):
        made[seed] = tiny_pipe.submit(requests[seed], caller=seed).result(timeout=120)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digest(made[seed] for seed in range(8)) == digest(tiny_pipe.generate(requests))


def test_a_ticket_can_be_awaited(tiny_pipe):
    async def ask():
        return await asyncio.gather(*(tiny_pipe.submit(base(seed=seed)) for seed in range(3)))

    assert digest(asyncio.run(ask())) == digest(tiny_pipe.generate(base(seed=seed) for seed in range(3)))


def test_a_callback_that_waits_is_told(tiny_pipe):
    told, asked = [], threading.Event()

    def wait(ticket):
        for ask in (lambda: tiny_pipe.submit(base(seed=2)).result(), lambda: tiny_pipe.generate([base()])):
            try:
                ask()
            except RequestError as error:
                told.append(str(error))
        asked.set()

    tiny_pipe.submit(base()).add_done_callback(wait)
    assert (
        asked.wait(60)
        and [message.partition(",")[0] for message in told] == ["a callback of a ticket must not wait for pictures"] * 2
    )
    tiny_pipe.queue.settle()


def test_a_callback_may_wait_for_pictures_of_another_queue(tiny_pipe, tiny_model):
    other, made, asked = pipeline(tiny_model, 1, 1), [], threading.Event()

    def wait(ticket):
        try:
            made.append(other.submit(base(seed=2)).result(60))
            made.extend(other.generate([base(seed=3)]))
        finally:
            asked.set()

    tiny_pipe.submit(base()).add_done_callback(wait)
    assert asked.wait(60) and [result.seed for result in made] == [2, 3]
    other.close()


def test_a_deadline_that_passes_fails_one_picture(tiny_pipe):
    late = tiny_pipe.submit(endless(), deadline=0.2)
    assert tiny_pipe.submit(base()).result(timeout=60).seed == 1
    with pytest.raises(DeadlineError, match="was not done by its deadline"):
        late.result(timeout=60)


def test_a_full_queue_says_when_to_come_again(tiny_pipe):
    long = tiny_pipe.submit(endless())
    with pytest.raises(Full, match="the queue is full") as error:
        tiny_pipe.submit(base(), limit=0.0)
    assert error.value.seconds > 0
    with pytest.raises(Full, match="more than there are"):
        tiny_pipe.submit(endless(seed=2), deadline=0.001)
    assert tiny_pipe.waiting == 1
    long.cancel()


def test_wrong_arguments_are_told(tiny_pipe):
    with pytest.raises(RequestError, match="priority must be one of interactive, batch, got 'high'"):
        tiny_pipe.queue.submit(tiny_pipe._planner.plan(base()), priority="high")
    for seconds in (float("nan"), -1, True):
        with pytest.raises(RequestError, match="deadline must be seconds from now, 0 or more, got"):
            tiny_pipe.submit(base(), deadline=seconds)
    with pytest.raises(RequestError, match="limit must be seconds from now"):
        tiny_pipe.submit(base(), limit=-0.5)
    with pytest.raises(RequestError, match="caller must be hashable, .* got \\[1\\]"):
        tiny_pipe.submit(base(), caller=[1])
    with pytest.raises(RequestError, match="on_error must be one of raise, return, got 'yield'"):
        tiny_pipe.generate([], on_error="yield")
    with pytest.raises(RequestError, match="no LoRA named 'style' is loaded"):
        tiny_pipe.submit(base(loras={"style": 1.0}))


def test_a_picture_that_cannot_be_read_fails_alone(tiny_pipe, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    requests = [base(), base(image=tmp_path / "broken.png"), base(seed=2)]
    results = tiny_pipe.generate(requests, on_error="return")
    assert isinstance(results[1], ImageError) and results[2].seed == 2
    outcomes = dict(tiny_pipe.stream(requests, on_error="yield"))
    assert isinstance(outcomes[1], ImageError) and len(outcomes) == 3
    stream, seen = tiny_pipe.stream(requests), []
    with pytest.raises(ImageError, match="broken.png"):
        seen.extend(stream)
    assert {index for index, _ in seen} == {0, 2}


def test_several_failures_are_named_together(tiny_pipe, tmp_path):
    requests = [base(image=tmp_path / f"{i}.png") for i in range(3)]
    with pytest.raises(ImageError, match="picture 1: .*0.png.*; picture 2: .*1.png.*; picture 3: "):
        tiny_pipe.generate(requests)


def test_requests_are_taken_as_they_are_needed(tiny_pipe):
    taken = []

    def requests():
        for seed in range(10**9):
            taken.append(seed)
            yield base(seed=seed, num_inference_steps=2)

    stream = tiny_pipe.stream(requests())
    for _ in range(20):
        next(stream)
    assert len(taken) <= 20 + 64
    stream.close()
    assert tiny_pipe.waiting == 0


def test_values_that_are_not_finite_name_the_picture(tiny_model):
    params = jax.tree.map(np.array, tiny_model.params)
    params["unet"]["conv_out"]["bias"][...] = np.nan
    pipe = Pipeline(dataclasses.replace(tiny_model, params=params), devices=jax.devices()[:1])
    results = pipe.generate([base(), base(seed=2)], on_error="return")
    assert all(isinstance(result, NonFiniteError) for result in results) and "picture 2" in str(results[1])


# Life


def queue_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in THREADS]


def test_abandoned_streams_leave_no_thread(tiny_pipe):
    for seed in range(100):
        stream = tiny_pipe.stream([endless(seed=seed)] * 3, on_progress=lambda progress: None)
        stream.close()
    tiny_pipe.queue.settle()
    assert queue_threads() == [] and tiny_pipe.waiting == 0


def test_a_stream_that_is_left_in_the_middle_gives_its_rows_back(tiny_pipe):
    for _ in range(3):
        for index, _ in tiny_pipe.stream([base(), endless(), endless(seed=2)]):
            assert index == 0
            break
        gc.collect()
    tiny_pipe.queue.settle()
    assert queue_threads() == [] and not tiny_pipe.queue.ticks.blocks


def test_closing_drains_or_cancels(tiny_model):
    drained, cancelled = pipeline(tiny_model, 1, 1), pipeline(tiny_model, 1, 1)
    ticket = drained.submit(base())
    drained.close(drain=True)
    assert ticket.done() and ticket.result().seed == 1
    ticket = cancelled.submit(endless())
    cancelled.close()
    assert ticket.cancelled()
    with pytest.raises(RuntimeError, match="the pipeline is closed"):
        cancelled.submit(base())
    assert queue_threads() == []


def test_a_device_that_fails_once_fails_no_picture(tiny_model, monkeypatch):
    pipe, failures = pipeline(tiny_model, 1, 1), []
    run = pipe.runner.run

    def failing(name, program, *arguments):
        if name == "advance" and len(failures) < limit:
            failures.append(name)
            raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")
        return run(name, program, *arguments)

    monkeypatch.setattr(pipe.runner, "run", failing)
    limit = 1
    (made,) = pipe.generate([base()])
    assert failures == ["advance"]
    limit = 0
    assert digest([made]) == digest(pipe.generate([base()]))
    limit, failures = 2, []
    with pytest.raises(RuntimeError, match="the device failed twice: INTERNAL"):
        pipe.generate([base()])


def test_a_device_that_fails_while_pixels_are_read_fails_no_picture(tiny_model, monkeypatch):
    pipe, failures = pipeline(tiny_model, 1, 1), []
    results = pipe.queue._finishing._results
    finish = results.result

    def failing(*arguments):
        if not failures:
            failures.append(arguments)
            raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")
        return finish(*arguments)

    monkeypatch.setattr(results, "result", failing)
    made = [pipe.submit(base(seed=seed)) for seed in range(2)]
    assert digest(ticket.result(timeout=120) for ticket in made) == digest(pipe.generate([base(seed=0), base()]))
    assert len(failures) == 1


def test_a_bug_in_the_queue_leaves_nobody_waiting(tiny_model, monkeypatch):
    pipe = pipeline(tiny_model, 1, 1)
    monkeypatch.setattr(pipe.runner, "advance", lambda *_: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        pipe.submit(base()).result(timeout=60)
    monkeypatch.undo()
    assert pipe.submit(base()).result(timeout=60).seed == 1


PROGRAM = """
import sys
import numpy as np
from ssd1b_jax import Pipeline, Request
pipe = Pipeline.from_pretrained(sys.argv[1])
request = Request(image=np.zeros((32, 32, 3), np.uint8), prompt="", strength=1.0, num_inference_steps=1000)
"""
MIDDLE = 'stream = pipe.stream([request] * 5, on_progress=lambda p: None)\nticket = pipe.submit(request)\nprint("ends")'
FORK = """
import os
stream = pipe.stream([Request(image=np.zeros((32, 32, 3), np.uint8), prompt="")] + [request] * 2)
next(stream)
first = pipe.submit(Request(image=np.zeros((32, 32, 3), np.uint8), prompt="")).result()
child = os.fork()
if child == 0:
    try:
        pipe.submit(request)
    except RuntimeError as error:
        print(error, flush=True)
    del stream  # does not wait for pictures that nobody makes
    os._exit(0)
os.waitpid(child, 0)
"""


def run_program(folder, rest: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM + rest, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_python_ends_in_the_middle_of_a_stream(tiny_folder):
    ended = run_program(tiny_folder, MIDDLE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ends\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_the_error_names_spawn(tiny_folder):
    ended = run_program(tiny_folder, FORK)
    assert ended.returncode == 0 and 'multiprocessing.get_context("spawn")' in ended.stdout


def test_programs_are_shared_and_bounded(tiny_model, compiled):
    first = pipeline(tiny_model, 1, 1)
    first.generate([base()])
    compiled.count = 0
    second = pipeline(tiny_model, 1, 1)
    second.generate([base()])
    assert compiled.count == 0 and second.runner.programs is first.runner.programs
    assert len(first.runner.programs._compiled) <= programs.MAX_PROGRAMS


@pytest.mark.slow
def test_programs_that_are_dropped_are_gone(tiny_model, monkeypatch):
    monkeypatch.setattr(programs, "MAX_PROGRAMS", 1)
    devices = pipeline(tiny_model, 1, 1).devices
    dtypes = dict.fromkeys(PARTS, jnp.dtype(jnp.float32))
    compiled = programs.Programs(tiny_model.config, dtypes, devices)
    alive = []
    for height in (16, 32, 48):
        compiled.get("decode", Program(tiny.SIZE, height, guided=False, chunks=1, noise_rows=0))
        gc.collect()
        alive.append(len(jax.devices()[0].client.live_executables()))
    assert alive[1:] == [alive[0]] * 2

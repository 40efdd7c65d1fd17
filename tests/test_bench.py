"""The benchmark's table, its turns, and each part on the embedded model."""

import json
import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pytest

from ssd1b_jax.bench import __main__ as bench
from ssd1b_jax.bench import contenders, timeline
from ssd1b_jax.bench import ours as contender
from ssd1b_jax.bench.arrivals import arrive, rates
from ssd1b_jax.bench.clients import ask_all
from ssd1b_jax.bench.contenders import Measured, agreement, take_turns
from ssd1b_jax.bench.ours import covered
from ssd1b_jax.bench.task import Task
from ssd1b_jax.errors import ContenderError, WeightsError


def test_the_table():
    ours = Measured("ours", [1.0, 2.0, 4.0], [2.0, 4.0, 8.0], 2e9, 1e12, dict(host_s=0.25))
    peer = Measured("peer", [2.0, 8.0, 5.0], [1.0, 1.0, 1.0], 1e9)
    header, line, first, second, note = bench.table([ours, peer], 2e12).splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == list(bench.COLUMNS)
    assert set(line) == {"|", "-"}
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (first, second)]
    assert cells[0] == ["ours", "2.000", "1.000 to 4.000", "", "4.00", "2.00", "1.000", "25%"]
    # Turn by turn: 0.5, 0.25 and 0.8.
    assert cells[1] == ["peer", "5.000", "2.000 to 8.000", "0.50", "1.00", "1.00", "1.000", "10%"]
    assert note == "ours: host_s 0.25"
    assert len(header) == len(line) == len(first) == len(second)


def test_a_matrix_product_takes_time():
    assert 1e8 < bench.matmul_peak(size=256, tries=2) < 1e15


@pytest.mark.parametrize(
    "wrong",
    [
        ["unett"],
        ["unet", "--size", "61"],
        ["unet", "--reps", "0"],
        ["queue", "--width", "0"],
        ["batch", "--model", "ssd_1b"],
    ],
    ids=str,
)
def test_what_it_refuses(wrong, capsys):
    with pytest.raises(SystemExit):
        bench.main(wrong)
    assert "got" in capsys.readouterr().err


def task(part, **settings):
    return Task(part=part, **dict(model="emoji", size=64, steps=2, strength=1.0) | settings)


@pytest.mark.slow
def test_contenders_take_turns():
    (measured,) = take_turns(["ours"], task("text"), reps=2)
    assert len(measured.seconds) == len(measured.cpu) == 2
    assert all(seconds > 0 for seconds in measured.seconds)
    assert measured.memory > 1e7
    assert measured.flops > 1e6


@pytest.mark.parametrize("process", [contenders._serve, contenders._once])
def test_a_contender_that_fails_is_named(process, monkeypatch):
    def fail(name, task):
        raise WeightsError("no such weights")

    monkeypatch.setattr(contenders, "_prepare", fail)
    here, there = multiprocessing.Pipe()
    process(there, "ours", task("text"))
    error = here.recv()
    assert isinstance(error, ContenderError) and error.exit_code == 1
    assert str(error) == "ours, text: no such weights"


def test_a_bug_of_a_contender_shows_its_traceback(capfd):
    """A module that has no parts."""
    with pytest.raises(ContenderError, match="traceback") as error:
        take_turns(["task"], task("text"), reps=1)
    assert error.value.exit_code == 70
    assert "has no attribute 'PARTS'" in capfd.readouterr().err


@pytest.mark.slow
def test_every_run_of_a_start_is_a_new_process():
    ours, loading = take_turns(["ours", "ours:load"], task("start"), reps=1, warm=False)
    assert 0 < ours.notes["second_s"] < ours.median
    assert 0 < loading.median < ours.median
    assert loading.notes == {}


@pytest.mark.slow
@pytest.mark.parametrize(("part", "who"), [("host", "ours"), ("batch", "runs")])
def test_what_is_measured_of_the_host_is_a_share(part, who):
    (measured,) = take_turns([who], task(part), reps=1)
    share = measured.notes["host_share" if part == "host" else "busy_share"]
    assert 0 < share < 1


def test_steps_of_the_queue():
    """Mixed ones in the same order for all contenders; the same for every picture of the even part."""
    mixed = task("queue").all_steps()
    assert mixed == task("queue").all_steps() != sorted(mixed)
    assert len(mixed) == 64 and set(mixed) == {4, 12, 24, 50}
    assert task("queue-even").all_steps() == [2] * 64


@pytest.mark.slow
def test_queue_and_batches_make_the_same_pictures():
    queue, batches = take_turns(["queue", "batches"], task("queue-even"), reps=1)
    assert queue.output.shape == (64, 64, 64, 3)
    assert agreement(queue.output.astype(int), batches.output.astype(int))[0] == 0
    for measured in (queue, batches):
        assert 0 < measured.notes["busy_share"] < 1
        assert measured.notes["host_ms_per_tick"] > 0
        assert measured.notes["pictures_per_s"] == pytest.approx(64 / measured.median, rel=0.1)


class StubServer(ThreadingHTTPServer):
    request_queue_size = 64  # more than there are clients


class Stub(BaseHTTPRequestHandler):
    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.steps.append(sent["steps"])
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_clients_ask_for_every_picture():
    with StubServer(("127.0.0.1", 0), Stub) as server:
        server.steps, server.status = [], 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        asked = ask_all(task("serve"), server.server_port, "/", lambda image, steps, seed: dict(steps=steps))
        for _ in range(2):
            asked.run()
        notes = asked.notes()
        server.status = 500
        with pytest.raises(ContenderError, match="the server answered 500"):
            asked.run()
        server.shutdown()
        thread.join()
    assert sorted(server.steps[:64]) == sorted(task("serve").all_steps())
    assert notes["pictures_per_s"] > 0 and 0 < notes["p95_of_4_steps_s"] and notes["p95_s"] > 0


def test_open_load_waits_for_no_picture():
    """Pictures are asked for while the first ones are made, and what is refused counts."""
    asked = threading.Semaphore(0)
    steps_of = []

    def ask(steps: int, seed: int) -> None:
        steps_of.append(steps)
        asked.release()
        if steps == 50:
            raise ContenderError("the server answered 429")
        if seed == 0:  # is not done before others have been asked for
            assert all(asked.acquire(timeout=10) for _ in range(20))

    arrivals = arrive({4: 100.0, 50: 20.0}, 0.5, ask)
    assert 30 < len(arrivals) < 100 and len(arrivals) == len(steps_of)
    assert [each.steps for each in arrivals if each.error] == [50] * steps_of.count(50)
    assert max(each.seconds for each in arrivals) > 0.02


def test_rates_ask_for_so_much_work():
    found = rates({4: 0.5, 50: 2.0}, 1.5, {4: 3.0, 50: 1.0})
    assert found[4] == pytest.approx(3 * found[50])
    assert 0.5 * found[4] + 2.0 * found[50] == pytest.approx(1.5)


def test_a_timeline_shows_where_pictures_end():
    """Rows make calls of pictures 0 and 1, one after the other, and of 2, which is cancelled."""
    pixels = timeline.draw(np.array([[0, 0, 1], [-1, 2, -1]]), {2})
    call, row = timeline.CALL, timeline.ROW
    assert pixels.shape == (2 * row, 3 * call, 3)
    first, second = pixels[row // 2, ::call], pixels[row + row // 2, ::call]
    assert (first[0] == first[1]).all() and (first[1] != first[2]).any()
    assert (second[0] == 255).all() and (second[1] == 0).all() and (second[2] == 255).all()
    assert (pixels[row // 2, 2 * call - 1] == 255).all()


def test_work_at_the_same_time_counts_once():
    assert covered([(3.0, 4.0), (1.0, 2.0), (1.5, 2.5), (3.25, 3.5)]) == 2.5
    assert covered([]) == 0


def test_the_table_says_how_far_outputs_differ():
    ours = Measured("ours", [1.0], [1.0], output=np.array([1.0, -2.0]))
    peer = Measured("peer", [1.0], [1.0], output=np.array([1.0, -2.02]))
    assert agreement(ours.output, peer.output)[0] == pytest.approx(0.02)
    # The root of the mean square is 0.02 / sqrt(2), and the peak is 2.02.
    assert bench.table([ours, peer], 1.0).splitlines()[-1].endswith("differ by at most 0.02, PSNR 43 dB")
    assert agreement(ours.output, ours.output) == (0, np.inf)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peer's own
@pytest.mark.parametrize("part", ["unet", "vae-encode", "vae-decode", "text"])
def test_ours_and_the_peer_compute_the_same(part):
    """Both have the same weights and inputs, in float32."""
    peer = pytest.importorskip("ssd1b_jax.bench.peer")
    outputs = [np.asarray(module.PARTS[part](task(part)).output()) for module in (contender, peer)]
    largest, psnr = agreement(*outputs)
    assert psnr > 80, (largest, psnr)
    assert np.abs(outputs[0]).max() > 0.1


CHEAP = ("unet", "vae-encode", "vae-decode", "img2img", "host")
CASES = [("ours", part) for part in CHEAP]
CASES += [(name, part) for name, (_, parts) in bench.PEERS.items() for part in parts if part in CHEAP]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peer's own
@pytest.mark.parametrize("name, part", CASES)
def test_every_part_runs(name, part):
    if name != "ours":
        needed, _ = bench.PEERS[name]
        if find_spec("torch") is None or find_spec(needed) is None:
            pytest.skip(f"needs PyTorch and {needed}")
    from importlib import import_module

    prepared = import_module(f"ssd1b_jax.bench.{name}").PARTS[part](task(part))
    prepared.run()
    assert prepared.flops is None or prepared.flops > 1e7

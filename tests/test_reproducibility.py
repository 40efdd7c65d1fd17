"""What a picture's bits follow on a CPU, and that its record names it: docs/reproducibility.md."""

import json
import os
import subprocess
import sys

import jax
import pytest

from ssd1b_jax.engine.devices import Devices

# The machine of a record, in a process whose CPU client has so many devices.
MACHINE = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from ssd1b_jax import records
from ssd1b_jax.engine.devices import Devices
print(json.dumps(records.maker({}, {}, {}, 1, Devices().pool_threads)))
"""


def maker(devices: int, **variables: str) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
    command = [sys.executable, "-c", MACHINE, str(devices)]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_record_names_the_threads_that_bits_follow():
    """XLA's pool is the larger of NPROC and the devices, and NPROC is among the flags."""
    few, devices, asked = maker(1, NPROC="2"), maker(5, NPROC="2"), maker(1, NPROC="5")
    assert [record["machine"]["threads"] for record in (few, devices, asked)] == [2, 5, 5]
    assert asked["flags"]["NPROC"] == "5"


def test_threads_are_those_of_the_process_whichever_devices_are_used():
    cpus = jax.local_devices(backend="cpu")
    assert Devices(cpus).pool_threads == Devices(cpus[:1]).pool_threads >= len(cpus)


# The digests of pictures in a process of its own, which compiles all programs itself.
PICTURES = """
import hashlib, json, os, sys
devices, cores = map(int, sys.argv[1:])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", devices)
jax.config.update("jax_enable_compilation_cache", False)
from ssd1b_jax import Pipeline, Request
image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
requests = [
    Request(
        image=image, prompt="a red apple", num_inference_steps=8,
        guidance_scale=scale, width=128, height=64, seed=seed,
    )
    for seed, scale in enumerate((1, 4, 1, 4))
]
results = Pipeline.from_pretrained("emoji").generate(requests)
print(json.dumps([hashlib.sha256(result.pixels.tobytes()).hexdigest() for result in results]))
"""


@pytest.mark.slow
def test_pixels_follow_the_threads_alone():
    """One device, eight of them, and a single core: the same pixels, as long as XLA's pool has eight threads."""

    def digests(devices: int, cores: int) -> list[str]:
        command = [sys.executable, "-c", PICTURES, str(devices), str(cores)]
        done = subprocess.run(command, env=os.environ | dict(NPROC="8"), capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    expected = digests(1, os.cpu_count())
    assert len(set(expected)) == 4
    assert digests(8, os.cpu_count()) == expected
    assert digests(1, 1) == expected

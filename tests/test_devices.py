"""Devices that can't be used are told in one sentence, with what to do."""

import os
import pickle
from types import SimpleNamespace

import jax
import pytest

from ssd1b_jax import Pipeline
from ssd1b_jax.cli import parser, serve, settings
from ssd1b_jax.cli.settings import MEMORY_VARIABLE, OLD_MEMORY_VARIABLE
from ssd1b_jax.engine import devices
from ssd1b_jax.errors import DeviceError

CPUS = jax.local_devices(backend="cpu")[:1]
# As libtpu and XLA have them.
IN_USE = "ABORTED: The TPU is already in use by process with pid 1234. Not attempting to load libtpu.so."
SAID = {
    IN_USE: "the TPU is in use by process 1234: end it",
    "ABORTED: The TPU is already in use by another process probably owned by another user. Run ...": "another user's",
    "Internal error when accessing libtpu multi-process lockfile.": "the TPU's lock",
    "Mismatched PJRT plugin PJRT API version (0.54) and framework PJRT API version 0.67).": "pip install -U 'jax.tpu.'",
    "Pallas TPU requires a libtpu version that's at most a month old. Found": "pip install -U 'jax.tpu.'",
}


@pytest.mark.parametrize("said", SAID)
def test_a_tpu_that_can_not_be_used(monkeypatch, said):
    def fail():
        raise RuntimeError(f"Unable to initialize backend 'tpu': {said} (set JAX_PLATFORMS='' to choose another)")

    monkeypatch.setattr(devices.jax, "local_devices", fail)
    with pytest.raises(DeviceError, match=SAID[said]) as error:
        devices.local_devices()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("platforms", "errors", "told"),
    [
        (None, dict(tpu=IN_USE), True),
        ("cpu", dict(tpu=IN_USE), False),
        (None, dict(tpu="no TPU here"), False),
        (None, {}, False),
    ],
)
def test_a_tpu_in_use_is_not_left_for_the_cpu_in_silence(monkeypatch, platforms, errors, told):
    here = SimpleNamespace(
        local_devices=lambda: CPUS, config=SimpleNamespace(jax_platforms=platforms), Device=jax.Device
    )
    monkeypatch.setattr(devices, "jax", here)
    monkeypatch.setattr(devices.xla_bridge, "_backend_errors", errors)
    if not told:
        assert devices.local_devices() == CPUS
        return
    with pytest.raises(DeviceError, match="in use by process 1234: .*, or set JAX_PLATFORMS=cpu to"):
        devices.local_devices()


@pytest.mark.parametrize("command", [["img2img", "a.png", "a cat"], ["batch", "a.csv", "-o", "out"], ["serve"]])
def test_the_part_of_a_gpus_memory(monkeypatch, capsys, command):
    """JAX takes one variable or the other, and reads it when it is first used."""
    monkeypatch.setenv(OLD_MEMORY_VARIABLE, "0.9")
    monkeypatch.setenv(MEMORY_VARIABLE, "0.8")
    parser().parse_args([*command, "--memory-fraction", "0.5"])
    assert os.environ[MEMORY_VARIABLE] == "0.5" and OLD_MEMORY_VARIABLE not in os.environ
    for wrong in ("0", "1.5", "nan"):
        with pytest.raises(SystemExit):
            parser().parse_args([*command, "--memory-fraction", wrong])
        assert "--memory-fraction: must be above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "load"),
    [(["batch", "a.csv", "-o", "out", "--ray"], lambda given: settings.pipeline(given, [])), (["serve"], serve.load)],
)
def test_the_part_of_a_gpus_memory_reaches_the_workers_of_ray(monkeypatch, command, load):
    """They get the arguments, and not the environment of the process that reads them."""
    seen = []
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *_, **__: seen.append(os.environ.get(MEMORY_VARIABLE)))
    monkeypatch.setenv(MEMORY_VARIABLE, "0.8")
    monkeypatch.setenv(OLD_MEMORY_VARIABLE, "0.9")
    given = pickle.dumps(parser().parse_args([*command, "--memory-fraction", "0.5"]))
    monkeypatch.delenv(MEMORY_VARIABLE)
    load(pickle.loads(given))
    assert seen == ["0.5"]

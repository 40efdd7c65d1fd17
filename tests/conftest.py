"""Eight virtual devices for all tests, compiled programs shared between them, and a small random model."""

import tempfile
from importlib.util import find_spec

import jax
import pytest

# Held against PyTorch throughout.
if find_spec("torch") is None:
    collect_ignore = [
        "test_convert_reference.py", "test_models.py", "test_parity.py", "test_schedule_parity.py",
        "test_solvers_parity.py",
    ]  # fmt: skip

jax.config.update("jax_num_cpu_devices", 8)
if jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="ssd1b_jax-tests-"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    import tiny

    return tiny.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    from ssd1b_jax.checkpoint import load_model

    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def tiny_pipe(tiny_model):
    """On one device."""
    from ssd1b_jax import Pipeline

    return Pipeline(tiny_model, devices=jax.devices()[:1])

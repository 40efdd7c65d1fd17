"""Eight virtual devices for all tests, compiled programs shared between them, and a small random model."""

import gc
import json
import os
import re
import tempfile
from collections import Counter
from importlib.util import find_spec

# Processes that tests start, and those of pytest-xdist, find what another has compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ssd1b_jax-tests-")

import jax  # noqa: E402
import pytest  # noqa: E402
from helpers.compare import QUICK_TO_COMPILE  # noqa: E402

# Held against PyTorch throughout.
if find_spec("torch") is None:
    collect_ignore = [
        "test_convert_reference.py", "test_models.py", "test_parity.py", "test_schedule_parity.py",
        "test_samplers_parity.py",
    ]  # fmt: skip

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_configure(config):
    """The fast tests spend their time compiling: they let XLA optimize less. The whole suite runs what users run."""
    if config.option.markexpr == "not slow":
        quick = " ".join(f"--{name}={json.dumps(value)}" for name, value in QUICK_TO_COMPILE.items())
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist takes files in the order of the next function
        config.option.loadscopereorder = False


def pytest_ignore_collect(collection_path, config):
    """Where slow tests are left out, so are files of nothing else: some import libraries for seconds."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        if re.search(r"^pytestmark = \[?\s*pytest\.mark\.slow", collection_path.read_text(encoding="utf-8"), re.M):
            return True
    return None


def pytest_collection_modifyitems(items):
    """Files with many slow tests come first: with several workers, none of them is left alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """What is imported by now lives to the end: the garbage collector searches it no more, and the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


MANY_PROGRAMS = 200  # of some ten megabytes each


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Between modules, once they are many: in all tests together they would take ten gigabytes."""
    yield
    if len(jax.devices()[0].client.live_executables()) > MANY_PROGRAMS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    from helpers import tiny

    return tiny.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    from ssd1b_jax.checkpoints.model_folder import load_model

    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def tiny_pipe(tiny_model):
    """On one device."""
    from ssd1b_jax import Pipeline

    return Pipeline(tiny_model, devices=jax.devices()[:1])


@pytest.fixture
def one_device(monkeypatch):
    """Whatever loads a model by itself uses the device of `tiny_pipe`, whose programs are compiled already."""
    from ssd1b_jax.engine import devices

    monkeypatch.setattr(devices, "local_devices", lambda: jax.devices()[:1])


@pytest.fixture
def compiled():
    """Counts the programs that XLA compiles while a test runs."""
    from ssd1b_jax.notebook import compilations

    with compilations() as counted:
        yield counted


@pytest.fixture
def commands_use_tiny_pipe(tiny_pipe, tiny_folder, monkeypatch):
    """Whatever loads the small model as it is gets `tiny_pipe`, whose programs are compiled already."""
    from ssd1b_jax import Pipeline

    load = Pipeline.from_pretrained

    def from_pretrained(model="emoji", *, dtype=None, per_device=1, loras, lora_partial=False, requests):
        if (str(model), dtype or "float32", per_device) != (str(tiny_folder), "float32", 1):
            about = dict(dtype=dtype, per_device=per_device, loras=loras, lora_partial=lora_partial)
            return load(model, **about, requests=requests)
        for name, file in loras.items():
            tiny_pipe.load_lora(file, name, partial=lora_partial)
        tiny_pipe._planner.keep(requests)
        return tiny_pipe

    monkeypatch.setattr(Pipeline, "from_pretrained", from_pretrained)


@pytest.fixture(params=["shared", pytest.param("loaded", marks=pytest.mark.slow)])
def each_way_of_loading(request):
    """Commands use `tiny_pipe`; in the slow tests they also load the small model themselves, as users' do."""
    if request.param == "shared":
        request.getfixturevalue("commands_use_tiny_pipe")

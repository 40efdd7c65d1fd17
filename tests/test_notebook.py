"""The notebook as Colab opens it, and what it shows with."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import types
from pathlib import Path

import httpx2 as httpx
import nbformat
import numpy as np
import pytest
from helpers.requests import picture

from ssd1b_jax import RequestError, notebook
from ssd1b_jax.notebook import places

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "ssd1b_img2img.ipynb"
BODY = dict(prompt="a cat")


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_output(stored):
    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_address_of_the_repository_has_one_place(stored):
    """What the notebook installs from and what the README opens in Colab are what pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"]
    (install,) = (cell.source for cell in stored.cells if "REPOSITORY =" in cell.source)
    assert f'REPOSITORY = "{repository}"' in install
    name = repository.removeprefix("https://github.com/")
    opened = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/{NOTEBOOK.name}"
    assert f"({opened})" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder with the notebook alone, a wheel of the tree, and a Python that has what the package needs, not it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    built = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "dist"]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "tests.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    (folder / "empty").mkdir()
    shutil.copy(NOTEBOOK, folder / "empty")
    return folder


def execute(folder: Path, monkeypatch, **environment: str):
    """The notebook, run from top to bottom by its own kernel with eight virtual devices in place of a TPU."""
    from nbclient import NotebookClient

    python = folder / "venv" / "bin" / "python"
    kernel = folder / "kernels" / "kernels" / "python3"
    kernel.mkdir(parents=True, exist_ok=True)
    described = dict(argv=[f"{python}", "-m", "ipykernel_launcher", "-f", "{connection_file}"], display_name="python3")
    (kernel / "kernel.json").write_text(json.dumps(described))
    for name in ("PYTHONPATH", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    virtual = dict(JUPYTER_PATH=str(folder / "kernels"), JAX_NUM_CPU_DEVICES="8", JAX_PLATFORMS="cpu")
    for name, value in (virtual | environment).items():
        monkeypatch.setenv(name, value)
    opened = nbformat.read(folder / "empty" / NOTEBOOK.name, as_version=4)
    opened.metadata["kernelspec"] = dict(name="python3", display_name="python3")
    client = NotebookClient(opened, timeout=600, resources={"metadata": {"path": str(folder / "empty")}})
    try:
        client.execute()
    finally:
        outputs = [output for cell in opened.cells if cell.cell_type == "code" for output in cell.outputs]
    return outputs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own machinery
def test_it_runs_alone_from_top_to_bottom(elsewhere, monkeypatch):
    (wheel,) = (elsewhere / "dist").iterdir()
    outputs = execute(elsewhere, monkeypatch, SSD1B_JAX_SOURCE=str(wheel), SSD1B_MODEL="emoji")
    printed = "".join(each.text for each in outputs if each.output_type == "stream" and each.name == "stdout")
    assert "emoji on 8 x cpu" in printed and "emoji needs no conversion" in printed
    assert re.search(r"loading: \d+ s, \d+ programs compiled$", printed, re.MULTILINE)
    assert re.search(r"^13 pictures, 0 programs compiled$", printed, re.MULTILINE)
    assert re.search(r"^8 pictures on 8 devices in .* 0 programs compiled$", printed, re.MULTILINE)
    pictures = [each for each in outputs if "image/png" in each.get("data", {})]
    assert len(pictures) == 1 + 1 + 3 + 1 + 1 + 3  # first, own, settings in three rows, strengths, batch, grid of three
    (shown,) = (each.data["text/html"] for each in outputs if "text/html" in each.get("data", {}))
    assert re.search(r'href="http://127\.0\.0\.1:\d+/#key=', shown)
    assert {path.name for path in (elsewhere / "empty").iterdir()} == {NOTEBOOK.name, "fish.png"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_install_that_fails_is_told_in_one_sentence(elsewhere, monkeypatch):
    from nbclient.exceptions import CellExecutionError

    shutil.rmtree(next((elsewhere / "venv" / "lib").glob("python*/site-packages/ssd1b_jax")), ignore_errors=True)
    with pytest.raises(CellExecutionError) as failed:
        execute(elsewhere, monkeypatch, SSD1B_JAX_SOURCE=str(elsewhere / "none.whl"))
    assert failed.value.ename == "SystemExit"
    sentence = failed.value.evalue
    assert sentence.startswith("set SOURCE to a clone's folder or a wheel") and "none.whl" in sentence
    assert "\n" not in sentence


# What it shows with


def test_labels_stand_above_their_pictures():
    pictures = [picture(seed) for seed in (0, 1)]
    plain, labelled = notebook.row(pictures, height=96), notebook.row(pictures, height=96, labels=["seed 0", "seed 1"])
    extra = labelled.height - plain.height
    assert labelled.width == plain.width and extra > 20
    assert np.array_equal(np.asarray(labelled)[extra:], np.asarray(plain))
    ink = np.asarray(labelled)[:extra] < 128
    assert ink[:, : plain.width // 2].any() and ink[:, plain.width // 2 :].any()
    with pytest.raises(RequestError, match="as many labels as pictures, 2, got 1"):
        notebook.row(pictures, labels=["one"])


def test_progress_counts_while_it_runs(capsys):
    with notebook.progress("loading"):
        pass
    assert re.fullmatch(r"\rloading: 0 s, \d+ programs compiled\n", capsys.readouterr().out)


def test_the_page_is_for_this_machine_and_whoever_has_its_key(tiny_pipe):
    with notebook.page(tiny_pipe) as page:
        page.wait_until_ready(60)
        address, _, key = page.url.partition("/#key=")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address) and len(key) > 20
        assert f'href="{page.url}"' in page._repr_html_() and "iframe" not in page._repr_html_()
        proxied = {"host": "hub.example.org", "origin": "https://hub.example.org"}
        assert httpx.get(f"{address}/settings").status_code == 401
        assert httpx.get(f"{address}/settings", headers={"x-api-key": key} | proxied).json()["state"] == "ready"
        assert (
            httpx.post(f"{address}/jobs", json=dict(prompt="a cat"), headers={"x-api-key": key} | proxied).status_code
            == 202
        )
        other = notebook.page(tiny_pipe)
        assert not page.is_open and other.is_open
        other.close()
        assert not other.is_open


def test_colab_shows_the_page_by_its_proxy(tiny_pipe, monkeypatch):
    """Whose address is another origin than the Host that arrives."""
    asked = []

    def eval_js(script: str) -> str:
        asked.append(script)
        return "https://x-1-colab.googleusercontent.com/"

    modules = {"google": types.ModuleType("google"), "google.colab": types.ModuleType("google.colab")}
    modules["google.colab.output"] = types.SimpleNamespace(eval_js=eval_js)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(places, "is_colab", lambda: True)
    with notebook.page(tiny_pipe) as page:
        port = page._server.port
        assert asked == [f"google.colab.kernel.proxyPort({port})"]
        address, _, key = page.url.partition("/#key=")
        assert address == "https://x-1-colab.googleusercontent.com"
        assert f'<iframe src="{page.url}"' in page._repr_html_()
        page.wait_until_ready(60)
        for origin, status in ((address, 202), ("https://elsewhere.example", 403)):
            headers = {"x-api-key": key, "origin": origin, "sec-fetch-site": "same-origin"}
            assert httpx.post(f"http://127.0.0.1:{port}/jobs", json=BODY, headers=headers).status_code == status


def test_jupyter_shows_the_page_by_its_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("JPY_PARENT_PID", "77")
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    (tmp_path / "jpserver-77.json").write_text(json.dumps({"base_url": "/user/me/"}))
    assert places.jupyter_path(80) is None  # no proxy is installed
    monkeypatch.setattr(places, "find_spec", lambda name: name == "jupyter_server_proxy")
    assert places.jupyter_path(80) == "/user/me/proxy/80"
    monkeypatch.setenv("JPY_PARENT_PID", "78")
    assert places.jupyter_path(80) is None
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/hub/")
    assert places.jupyter_path(80) == "/hub/proxy/80"


@pytest.mark.parametrize("ask", [notebook.upload, notebook.drive])
def test_what_only_colab_has_is_told_elsewhere(ask):
    with pytest.raises(RequestError, match="in Colab only"):
        ask()

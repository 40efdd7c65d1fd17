"""The notebook, run from top to bottom with the embedded model and eight virtual devices in place of a TPU."""

import os
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "ssd1b_img2img.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_output(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own machinery
def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("SSD1B_MODEL", "emoji")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    here = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "emoji on 8 x cpu" in said and "emoji needs no conversion" in said
    assert re.search(r"^13 pictures, 0 programs compiled$", said, re.MULTILINE)
    assert re.search(r"^8 pictures on 8 devices in .* 0 programs compiled$", said, re.MULTILINE)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3 + 3 + 1  # rows, a grid of three, and the batch
    assert (tmp_path / "fish.png").exists()

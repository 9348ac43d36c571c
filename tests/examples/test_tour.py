"""examples/tour.ipynb, executed on pvc-tiny: it runs, and says what it is to say."""

from pathlib import Path

import pytest


nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("trl")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[2]


def printed(cell) -> str:
    """Text that a cell printed, and its value; no warnings."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_the_tour(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(ROOT)}}).execute()
    load, ask, count, plot, stream, lora, push = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert int(printed(load)) > 2_000_000
    assert printed(ask).split("\n")[:2] == ["red triangle", "green square"]
    assert printed(count).splitlines()[2].split()[-5:] == ["10", "frames", "10", "40", "160"]
    assert any("image/png" in output.get("data", {}) for output in plot.outputs)
    assert "frame 10: novelty" in printed(stream) and "'red triangle'" in printed(stream)
    assert 0 < float(printed(lora).split()[-1]) < 10
    assert "problems: []" in printed(push) and "'model.safetensors'" in printed(push)

"""The example notebook runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from docs.generate import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_notebook_runs(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    # The bar, which was renewed until the end, and what `wait` returned.
    bar, returned = shown["run.wait()"]
    assert 'max="2" value="2"' in bar["data"]["text/html"]
    assert "finished, 2 of 2 rows" in bar["data"]["text/html"]
    assert "exit_status=0" in returned["data"]["text/plain"]
    (videos,) = shown["run.show()"]
    assert videos["data"]["text/html"].count("data:video/mp4;base64,") == 2
    assert "a red circle moves right" in videos["data"]["text/html"]

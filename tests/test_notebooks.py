"""Every notebook runs from top to bottom, tells rather than implements, and is stored without outputs."""

import ast
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_short_and_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 1 <= len(code) <= 12
    for cell in code:
        assert not cell.outputs
        assert len(cell.source.splitlines()) <= 10
        assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(ast.parse(cell.source)))


@pytest.fixture(scope="module")
def kernel():
    """One for all, which imports once; each notebook begins with nothing in its namespace."""
    manager = KernelManager()
    manager.start_kernel(cwd=str(FOLDER.parent))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(FOLDER.parent)}})
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client.execute()

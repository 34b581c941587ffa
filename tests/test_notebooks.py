"""Notebooks run, on the committed tables and on those of the preset ``quick``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import made_once

from analyses import comparison, runs

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def program(notebook: Path) -> str:
    """The code of a notebook, as one program."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures and tables of the recorded runs of the preset ``quick``, as ``test_comparison`` makes them."""

    def build(target: Path) -> None:
        comparison.build(runs.find([ROOT / "tests" / "data" / "runs"]), target)

    return made_once(tmp_path_factory, "comparison", build)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("of", ["committed", "quick"])
def test_a_notebook_runs(notebook: Path, of: str, request: pytest.FixtureRequest) -> None:
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    if of == "quick":
        environment["DYNAMICS_FIGURES"] = str(request.getfixturevalue("quick"))
    done = subprocess.run([sys.executable, "-c", program(notebook)], cwd=notebook.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(notebook: Path) -> None:
    """What the manual shows is what the build computed, not what somebody's machine once did."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)

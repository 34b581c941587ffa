"""Public names stay available in their modules, and ``import dynamics`` stays fast."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from dynamics._moved import MOVED, MOVED_NAMES

pytestmark = pytest.mark.filterwarnings("ignore:dynamics.*has moved:FutureWarning")

#: module -> public names that it has, in its ``__all__`` if there is one; names may be added but not removed
NAMES = {
    "dynamics": """InputError __version__ betabinomial bootstrap checkpoints entropy estimators logits overlap passk plots recorder samples
        sketch sparsity spectra train""",
    "dynamics.__main__": "main",
    "dynamics.errors": "InputError",
    "dynamics.sparsity": "Comparison Row compare compare_all series table",
    "dynamics.overlap": "compare overlap",
    "dynamics.spectra": "Spectrum angles compare hill measure ranks",
    "dynamics.entropy": """Document Fit TokenStats Trace bounds by_token change_by_percentile divergence fit forking from_hidden from_logits
        load read_logprobs summary trace""",
    "dynamics.passk": """Comparison Curve Report auc_at_k compare counts curve g_pass_at_k maj_at_k mg_pass_at_k pass_at_k pass_hat_k
        report""",
    "dynamics.report": "Finding Options Picture Report Sample Section Table open_runs report",
    "dynamics.samples": "STATUSES File Samples read",
    "dynamics.checkpoints": "Checkpoint Skip Source Tensor from_array open_checkpoint",
    "dynamics.recorder": "Recorder callback recording",
    "dynamics.logits": "Sums TokenStats divergence from_hidden from_logits",
    "dynamics.estimators": "auc_at_k curves g_pass_at_k maj_at_k mg_pass_at_k pass_at_k pass_hat_k",
    "dynamics.bootstrap": "Crossing Interval crossing crossing_ks difference_interval mean_interval",
    "dynamics.betabinomial": "Extrapolation Fit Validation extrapolate fit predict validate",
    "dynamics.sketch": "Sketch extremes likely_tail sketch",
    "dynamics.plots": "",
    "dynamics.plots.entropy": "figure series_figure",
    "dynamics.plots.entropy_page": "page",
    "dynamics.plots.entropy_terminal": "show",
    "dynamics.plots.html": "",
    "dynamics.plots.methods": "",
    "dynamics.plots.overlap": "figure",
    "dynamics.plots.overlap_page": "page",
    "dynamics.plots.overlap_terminal": "show",
    "dynamics.plots.passk": "colors crossing crossing_text curves differences figure",
    "dynamics.plots.passk_page": "page",
    "dynamics.plots.passk_terminal": "show",
    "dynamics.plots.proposer": "",
    "dynamics.plots.screen": "",
    "dynamics.plots.sparsity": "figure",
    "dynamics.plots.sparsity_page": "page",
    "dynamics.plots.sparsity_rules": "",
    "dynamics.plots.sparsity_terminal": "show",
    "dynamics.plots.spectra": "figure",
    "dynamics.plots.spectra_page": "page",
    "dynamics.plots.style": "ONE_COLUMN new_figure save use_style",
    "dynamics.plots.text": "",
    "dynamics.plots.train_terminal": "",
    "dynamics.plots.ulp": "",
    # of the README's example of a panel
    "analyses.pass_at_k": "draw measure",
    "analyses.runs": "find",
}
#: attributes that the README's examples and the documents use
ATTRIBUTES = {
    "dynamics.sparsity.Comparison": "total layers modules rows skipped notes tensors grid to_dict",
    "dynamics.sparsity.Row": """name numel changed sparsity ulp base_norm update_norm relative_update cosine cosine_distance max_abs_update
        nonfinite""",
    "dynamics.checkpoints.Checkpoint": "path format dtypes tensors",
    "dynamics.checkpoints.Tensor": "name shape dtype values",
    "dynamics.samples.Samples": "table files notes",
    "dynamics.passk.Curve": "name counts points mean statuses warnings to_dict",
    "dynamics.passk.Report": "curves comparisons against files notes to_dict table",
    "dynamics.passk.Comparison": "a b paired points crossing solved to_dict",
    "dynamics.entropy.Trace": "tokens texts notes dtype seconds",
    "dynamics.recorder.Recorder": "step close",
}


@pytest.mark.parametrize("module", NAMES)
def test_a_module_has_its_names(module):
    imported = importlib.import_module(module)
    names = NAMES[module].split()
    assert [name for name in names if not hasattr(imported, name)] == []
    assert {name for name in names if f"dynamics.{name}" not in MOVED} <= set(getattr(imported, "__all__", names))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_object_has_its_attributes(name):
    module, _, kind = name.rpartition(".")
    owner = getattr(importlib.import_module(module), kind)
    assert set(ATTRIBUTES[name].split()) <= {*dir(owner), *getattr(owner, "__dataclass_fields__", ())}


def python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def test_modules_are_there_once_dynamics_is_imported():
    """As the README writes it: ``import dynamics``, and no more, before ``dynamics.sparsity.compare(...)``."""
    modules = [name for name in NAMES["dynamics"].split() if name not in ("InputError", "__version__")]
    moved = {name: MOVED.get(f"dynamics.{name}", f"dynamics.{name}") for name in modules}
    python("-c", f"import dynamics\nfor name, module in {moved}.items(): assert getattr(dynamics, name).__name__ == module")


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_moved_module_and_warns(old):
    code = f"import warnings; warnings.simplefilter('error', FutureWarning); import {old}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("FutureWarning: dynamics.")
    assert importlib.import_module(old) is importlib.import_module(MOVED[old])


@pytest.mark.parametrize("old", MOVED_NAMES)
def test_an_old_name_of_a_function_is_the_moved_function_and_warns(old):
    module, _, name = old.rpartition(".")
    new_module, _, new_name = MOVED_NAMES[old].rpartition(".")
    with pytest.warns(FutureWarning, match=f"{old} has moved to {MOVED_NAMES[old]}"):
        moved = getattr(importlib.import_module(module), name)
    assert moved is getattr(importlib.import_module(new_module), new_name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module(module).nothing  # noqa: B018 - looked up for its error


def test_importing_dynamics_loads_nothing_heavy():
    heavy = ("torch", "transformers", "numba", "pandas", "numpy", "scipy", "matplotlib", "seaborn", "rich", "pyarrow")
    assert python("-c", f"import sys, dynamics; print([name for name in {heavy} if name in sys.modules])").strip() == "[]"


@pytest.mark.parametrize("command", ["report", "sparsity", "spectra", "overlap", "entropy", "passk", "games", "train"])
def test_a_command_is_a_module_that_can_be_run(command):
    assert python("-m", f"dynamics.{command}", "--help").startswith(f"usage: python -m dynamics.{command} ")

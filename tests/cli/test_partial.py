"""A comparison that leaves parameters out says so first, in its JSON and by exit status 3; ``--allow-partial`` accepts it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import write_safetensors

from dynamics import overlap, sparsity, spectra
from dynamics.overlap.__main__ import cli as run_overlap
from dynamics.sparsity.__main__ import cli as run_sparsity
from dynamics.spectra.__main__ import cli as run_spectra
from dynamics.spectra.notes import coverage_of

MODEL = {"model.layers.0.mlp.up_proj.weight": (30, 30), "model.layers.0.norm.weight": (100,)}
COMMANDS = {"sparsity": run_sparsity, "overlap": run_overlap, "spectra": run_spectra}


def state(seed: int, **more: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = MODEL | {name.replace("__", "."): shape for name, shape in more.items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def files(tmp_path):
    """Write a base of 1,000 weights and 3,000 more that the tuned checkpoints lack."""
    write_safetensors(tmp_path / "base.safetensors", state(0, vision__weight=(30, 100)))
    for seed in (1, 2):
        write_safetensors(tmp_path / f"tuned{seed}.safetensors", state(seed))
    return [str(tmp_path / name) for name in ("base.safetensors", "tuned1.safetensors", "tuned2.safetensors")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_partial_comparison_ends_with_status_3(command, files, tmp_path, capsys):
    if command == "spectra":
        pytest.importorskip("torch")
    cli = COMMANDS[command]
    paths = files if command == "overlap" else files[:2]
    assert cli(paths) == 3
    printed = capsys.readouterr()
    assert printed.out.startswith("parameters were left out of the comparison: only 25.00 % of base compared")
    assert printed.err.splitlines()[-1].startswith(f"dynamics.{command}: incomplete: ")
    assert "--allow-partial" in printed.err
    report = tmp_path / "report.json"
    assert cli([*paths, "--allow-partial", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["coverage"]["base"] == 0.25


def test_a_series_names_its_partial_comparison(files, capsys):
    assert run_sparsity([files[1], files[2], files[0]]) == 3
    assert "base.safetensors: parameters were left out of the comparison: only 25.00 % of tuned compared" in capsys.readouterr().err


def test_one_in_a_thousand_is_the_limit():
    base = state(0)
    assert not sparsity.compare(base, state(1, extra=(1,))).incomplete
    comparison = sparsity.compare(base, state(1, extra=(2,)))
    assert comparison.incomplete == "parameters were left out of the comparison: only 99.80 % of tuned compared"


def test_what_the_other_side_lacks_by_design_does_not_count():
    base, tuned = state(0, lm_head__weight=(10, 30)), state(1, lm_head__weight=(15, 30), v_head__summary__weight=(1, 30))
    comparison = sparsity.compare(base, tuned)
    assert comparison.coverage == {"base": 1.0, "tuned": 1.0}
    assert sum(skip.numel for skip in comparison.skipped if skip.by_design) == 150 + 30


def test_each_update_has_its_own_coverage():
    comparison = overlap.compare(state(0), [state(1), state(2, other=(1000,))], threads=1)
    assert comparison.coverage == {"base": 1.0, "1": 1.0, "2": 0.5}
    comparison = overlap.compare(state(0, other=(1000,)), [state(1, other=(1000,)), state(2)], threads=1)
    assert comparison.coverage == {"base": 0.5, "1": 0.5, "2": 1.0}


def test_stacked_experts_are_measured_each():
    pytest.importorskip("torch")
    base, tuned = (state(seed, model__layers__0__mlp__experts__up_proj=(4, 5, 6)) for seed in (0, 1))
    name = "model.layers.0.mlp.experts.up_proj"
    measured, skipped = spectra.compare(base, tuned, k=2, method="none")
    assert [spectrum.name for spectrum in measured][-4:] == [f"{name}[{expert}]" for expert in range(4)]
    alone, _ = spectra.compare({"w": base[name][3]}, {"w": tuned[name][3]}, k=2, method="none")
    assert alone[0].update_norm == measured[-1].update_norm
    assert coverage_of(measured, skipped) == {"base": 1.0, "tuned": 1.0}
    selected = spectra.compare(base, tuned, k=2, method="none", only="up_proj.weight")
    assert coverage_of(*selected) == {"base": 1.0, "tuned": 1.0}

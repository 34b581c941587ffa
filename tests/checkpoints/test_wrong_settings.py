"""Every setting in the JSON files beside weights is replaced by wrong values: a command reads it or refuses it in one line."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path

import pytest

from dynamics.sparsity.__main__ import cli

DATA = Path(__file__).parents[1] / "data"
WRONG = [
    None, True, False, 0, 1, -1, 3, 10**30, -(10**30), 0.5, math.nan, math.inf, -math.inf, 1e300, "", "x", "\x1b[31m\n", "float16",
    [], [0], [[]], [None, "x"], {}, {"x": None}, [1, 2, 3], [128, 128], [10**30, 1],
]  # fmt: skip
#: folder of a checkpoint and the file in it whose settings are replaced, and the base it is compared with
CASES = {
    **{
        f"adapter {name}": (f"adapters/{name}", "adapter_config.json", "adapters/base")
        for name in ("plain", "rslora_pat", "tokens", "dora", "tied_embed_both")
    },
    **{
        f"quantised {name}": (f"quantised/{name}", "config.json", f"quantised/{name}.expected.safetensors")
        for name in ("awq", "gptqmodel", "compressed_tensors", "finegrained_fp8", "mlx", "modelopt", "gpt_oss")
    },
    "model": ("base", "config.json", "base/model.safetensors"),
}


def replaced(document: object, whole: object, wrong: list[object]):
    """Yield the whole document with each part of ``document`` replaced by each wrong value, or left out."""
    if not isinstance(document, (dict, list)):
        return
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        value = document[key]
        for other in wrong:
            document[key] = other
            yield copy.deepcopy(whole)
        document[key] = value
        yield from replaced(value, whole, wrong)
    if isinstance(document, dict):
        for key in list(document):
            value = document.pop(key)
            yield copy.deepcopy(whole)
            document[key] = value


def sweep(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int) -> None:
    folder, file, base = CASES[case]
    target = tmp_path / "checkpoint"
    shutil.copytree(DATA / folder, target)
    document = json.loads((target / file).read_text())
    documents = list(replaced(document, document, WRONG)) + WRONG
    for changed in documents[::step]:
        (target / file).write_text(json.dumps(changed))
        status = cli([str(DATA / base), str(target)])
        error = capsys.readouterr().err
        assert status in (0, 2, 3), (changed, error)
        assert "internal error" not in error, changed
        assert status == 0 or error.count("\n") == 1, (changed, error)
        assert error.replace("\n", "").isprintable(), (changed, error)


@pytest.mark.parametrize("case", CASES)
def test_a_few_wrong_settings(case, tmp_path, capsys):
    sweep(case, tmp_path, capsys, 409)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_wrong_settings(case, tmp_path, capsys):
    sweep(case, tmp_path, capsys, 1)

"""Every family of language and vision-language models of transformers: a saved folder against the model in memory.

Every parameter is compared once, with the weight that it is: each parameter's first three weights are changed, so that a wrong pair would
change nearly all. DYNAMICS_FAMILIES names a file to which a line for each family is appended.
"""

from __future__ import annotations

import json
import os

import pytest
from checkpoints import families

from dynamics.checkpoints import Checkpoint, open_checkpoint, parameter_names
from dynamics.sparsity import compare

pytestmark = pytest.mark.slow

#: weights that are left out of a family, by name -> why
LEFT_OUT = {"deepseek_v4": ({"model.kv_norm.weight", "model.norm.weight"}, "saved under a name that transformers does not read")}


def _families():
    """List (id, model type, name of the class) of all families of the installed transformers."""
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    for task, mapping in (("causal", auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), ("image", auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)):
        for model_type, name in mapping.items():
            yield f"{task}-{model_type}", model_type, name if isinstance(name, str) else name[0]


def pytest_generate_tests(metafunc):
    if "class_name" in metafunc.fixturenames:
        deselected = metafunc.config.option.markexpr == "not slow"  # importing transformers takes longer than other tests
        listed = [] if deselected else [pytest.param(*names, id=label) for label, *names in _families()]
        metafunc.parametrize(("model_type", "class_name"), listed)


@pytest.fixture
def table(request):
    """Append a line for the family to the table."""
    lines = []
    yield lines.append
    if target := os.environ.get("DYNAMICS_FAMILIES"):
        with open(target, "a") as file:
            file.write(f"{request.node.callspec.id:40} {lines[-1] if lines else 'FAILED'}\n")


def test_a_saved_family_is_the_model_in_memory(tmp_path, table, model_type, class_name):
    transformers = pytest.importorskip("transformers")
    try:
        model = families.build(model_type, class_name)
    except Exception as error:
        if model_type not in families.NOT_BUILT and transformers.__version__.startswith(families.VERSION):
            raise
        reason = families.NOT_BUILT.get(model_type, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
        table(f"cannot be built: {reason}")
        pytest.skip(reason)
    model.save_pretrained(tmp_path)
    older = families.older_names(model, tmp_path)
    families.change(model)
    parameters = {name: parameter for name, parameter in model.named_parameters() if not parameter_names.is_balancer(name)}
    names, why = LEFT_OUT.get(model_type, (set(), ""))
    compared = {name: parameter.numel() for name, parameter in parameters.items() if name not in names}
    sources = [tmp_path]
    if older is not None:
        sources.append(Checkpoint("older", "memory", open_checkpoint(older).tensors, json.loads((tmp_path / "config.json").read_text())))
    for source in sources:
        found = compare(source, model.state_dict())
        assert found.total.numel == sum(compared.values())
        assert found.total.changed["exact"] == sum(min(3, size) for size in compared.values())
        assert {skip.name for skip in found.skipped if skip.numel} == names
        assert not found.incomplete
    how = "transformers' mapping" if any("as transformers does" in note for note in found.notes) else "names and structure"
    balancers = sum(parameter_names.is_balancer(name) for name, _ in model.named_parameters())
    table(
        f"compared all {len(compared)} parameters ({sum(compared.values())} weights) by {how}"
        + (f"; left out {', '.join(sorted(names))}: {why}" if names else "")
        + (f"; {balancers} balancing biases are not weights" if balancers else "")
        + ("; older prefixes too" if older is not None else "")
    )


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "qwen2_5_vl", "llava", "deepseek_v3", "phi3"])
def test_a_saved_family_without_the_mapping(tmp_path, monkeypatch, model_type):
    """Where transformers is not installed or does not know the model, the structure of the names suffices for these."""
    classes = {name: class_name for _, name, class_name in _families()}
    model = families.build(model_type, classes[model_type])
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    changed = families.change(model)
    found = compare(tmp_path, model.state_dict())
    assert found.total.numel == sum(parameter.numel() for parameter in model.parameters())
    assert found.total.changed["exact"] == changed

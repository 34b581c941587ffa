"""LoRA adapters saved by PEFT, read in factored form, equal the weights that PEFT merges."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import write_safetensors

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.adapter import LowRank, with_dora_update
from dynamics.checkpoints.adapter_settings import CHANGES_BASE, METHODS, NO_WEIGHTS
from dynamics.checkpoints.safetensors import read_safetensors
from dynamics.checkpoints.tensor import from_array
from dynamics.errors import InputError
from dynamics.sparsity import compare, series

#: adapters that PEFT saved, and what its merge gives for them; see ``make_adapters.py`` there
DATA = Path(__file__).parents[1] / "data" / "adapters"
TRUTH = json.loads((DATA / "truth.json").read_text())


def check(comparison, truth) -> None:
    """Check the tensors that changed, their changed weights and the norms of their changes."""
    changed = {row.name: row for row in comparison.rows if row.changed["exact"]}
    assert {name: row.changed["exact"] for name, row in changed.items()} == {name: count for name, (count, _) in truth.items()}
    for name, (_, norm) in truth.items():
        assert changed[name].update_norm == pytest.approx(norm, rel=1e-9)
    records = {record["name"]: record for record in comparison.adapters}
    for name in records.keys() & truth.keys():
        assert records[name]["update_norm"] == pytest.approx(truth[name][1], rel=1e-9)


@pytest.mark.parametrize("case", TRUTH)
def test_adapters_of_peft_equal_their_merge(case) -> None:
    comparison = compare(DATA / "base" / TRUTH[case]["base"], DATA / case)
    check(comparison, TRUTH[case]["rows"])
    assert ("norms that DoRA stores" in " ".join(comparison.notes)) == ("dora" in case)
    assert min(comparison.coverage.values()) == 1


@pytest.mark.slow
def test_peft_still_writes_these_adapters(tmp_path) -> None:
    pytest.importorskip("peft")
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_adapters", DATA / "make_adapters.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(tmp_path)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth.keys() == TRUTH.keys()
    for case, expected in truth.items():
        check(compare(tmp_path / "base" / expected["base"], tmp_path / case), expected["rows"])


def test_the_state_dict_of_a_whole_peft_model_is_merged(tmp_path) -> None:
    comparison = compare(DATA / "base" / "llama", DATA / "whole")
    check(comparison, TRUTH["layernorm_save"]["rows"])
    assert [skip.reason for skip in comparison.skipped] == ["an adapter: the weights were merged with it, in float64"]
    shutil.copy(DATA / "whole" / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match=r"holds LoRA factors beside the weights .*put the adapter_config.json of the run beside them"):
        compare(DATA / "base" / "llama", tmp_path)
    shutil.copy(DATA / "whole" / "lora_adapter" / "adapter_config.json", tmp_path)
    check(compare(DATA / "base" / "llama", tmp_path / "model.safetensors"), TRUTH["layernorm_save"]["rows"])
    check(compare(DATA / "base" / "llama", tmp_path), TRUTH["layernorm_save"]["rows"])


def test_a_distributed_checkpoint_of_a_peft_model_is_merged(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    import torch.distributed.checkpoint as dcp

    tensors = open_checkpoint(write_without_config(tmp_path)).tensors
    state = {name: torch.from_numpy(tensor.values().reshape(tensor.shape).copy()) for name, tensor in tensors.items()}
    config = DATA / "whole" / "lora_adapter" / "adapter_config.json"
    for folder, inside in (("dcp", "dcp"), ("verl", "verl/lora_adapter")):
        dcp.save(state, checkpoint_id=tmp_path / folder, no_dist=True)
        (tmp_path / inside).mkdir(exist_ok=True)
        shutil.copy(config, tmp_path / inside)
        check(compare(DATA / "base" / "llama", tmp_path / folder), TRUTH["layernorm_save"]["rows"])


def write_without_config(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATA / "whole" / "model.safetensors", tmp_path))


def test_weights_beside_an_adapter_are_named(tmp_path) -> None:
    shutil.copytree(DATA / "plain", tmp_path / "run")
    for name in ("model.safetensors", "pytorch_model_fsdp_0/.metadata", "second/adapter_config.json", "optimizer.pt"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).touch()
    comparison = compare(DATA / "base" / "llama", tmp_path / "run")
    check(comparison, TRUTH["plain"]["rows"])
    aside = {skip.name: skip.reason for skip in comparison.skipped}
    assert aside.keys() == {"model.safetensors", "pytorch_model_fsdp_0/", "second/"}
    assert "full weights beside the adapter, left aside" in aside["model.safetensors"]
    assert "left aside" in aside["pytorch_model_fsdp_0/"]
    assert "another adapter" in aside["second/"]
    assert min(comparison.coverage.values()) == 1


def test_a_folder_of_adapters_lists_them(tmp_path) -> None:
    for name in ("first", "second"):
        shutil.copytree(DATA / "plain", tmp_path / name)
    with pytest.raises(InputError, match=r"holds no weights itself but 2 adapters: first, second; name one of them, e.g. .*second"):
        open_checkpoint(tmp_path)


def test_a_square_layer_of_gpt2_is_transposed_also_without_a_config(tmp_path) -> None:
    shutil.copy(DATA / "base" / "gpt2" / "model.safetensors", tmp_path)
    for case in ("gpt2", "gpt2_dora"):
        check(compare(tmp_path, DATA / case), TRUTH[case]["rows"])


@pytest.mark.parametrize("by_row", [True, False])
def test_dora_is_computed_in_parts(rng, monkeypatch, by_row) -> None:
    monkeypatch.setattr("dynamics.checkpoints.adapter.CHUNK", 64)
    update, weight = low_rank(rng), rng.normal(size=(40, 30))
    magnitudes = rng.uniform(0.5, 2, 40 if by_row else 30)
    moved = weight + update.left @ update.right
    norms = np.linalg.norm(moved, axis=1 if by_row else 0, keepdims=True)
    expected = moved / norms * (magnitudes[:, None] if by_row else magnitudes)
    tensor, norm = with_dora_update("w", from_array("w", weight), update, magnitudes, by_row)
    assert norm == pytest.approx(np.linalg.norm(expected - weight), rel=1e-12)
    for start, stop in ((0, 1200), (7, 8), (31, 95), (1199, 1200)):
        assert np.allclose(tensor.values(start, stop), expected.reshape(-1)[start:stop], rtol=1e-13)


def test_the_norm_of_a_tiny_change_by_dora_is_accurate(rng) -> None:
    weight, small = rng.normal(size=(40, 30)), low_rank(rng)
    update = LowRank(small.left * 1e-9, small.right)
    magnitudes = np.linalg.norm(weight, axis=1) * (1 + 1e-9)
    moved = weight + update.left @ update.right
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True) * magnitudes[:, None] - weight
    _, norm = with_dora_update("w", from_array("w", weight), update, magnitudes, True)
    assert norm == pytest.approx(np.linalg.norm(expected), rel=1e-6)


def low_rank(rng, rows=40, columns=30, rank=4):
    return LowRank(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)))


def test_norm_and_rank_from_the_factors_are_those_of_the_dense_product(rng):
    update = low_rank(rng)
    dense = update.left @ update.right
    assert update.norm() == pytest.approx(np.linalg.norm(dense), rel=1e-12)
    assert np.allclose(update.singular_values(), np.linalg.svd(dense, compute_uv=False)[:4], rtol=1e-10)
    assert update.rank() == 4
    update.left[:, 3] = update.left[:, 2]
    update.right[3] = 2 * update.right[2]
    assert update.rank() == 3
    assert LowRank(np.zeros((5, 2)), np.ones((2, 3))).rank() == 0


def tiny_llama(**settings):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    size = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**size, **heads, **settings)
    return transformers.LlamaForCausalLM(config)


def peft_pair(tmp_path, model, seed=0, **settings):
    """Make (base folder, adapter folder, merged state dict in float32) with PEFT; the factors are not zero."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    model.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.05)
            elif parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload()
    return tmp_path / "base", tmp_path / "adapter", {name: value.detach() for name, value in merged.state_dict().items()}


SETTINGS = {
    "plain": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]},
    "rslora": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "v_proj": 6},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    },
    "saved modules": {"r": 2, "lora_alpha": 4, "target_modules": ["k_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"r": 2, "lora_alpha": 4, "target_modules": ["embed_tokens", "o_proj"]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_adapter_equals_its_merge(tmp_path, name):
    base, adapter, merged = peft_pair(tmp_path, tiny_llama(tie_word_embeddings=False), **SETTINGS[name])
    factored = compare(base, adapter)
    dense = compare(base, merged)
    assert {r.name: r.numel for r in factored.rows} == {r.name: r.numel for r in dense.rows}
    expected = {r.name: r for r in dense.rows}
    records = {record["name"]: record for record in factored.adapters}
    assert records
    for row in factored.rows:
        assert row.base_norm == pytest.approx(expected[row.name].base_norm, rel=1e-9)
        assert row.update_norm == pytest.approx(expected[row.name].update_norm, rel=1e-5, abs=1e-12)  # the merge rounds to float32
        assert row.changed["bf16"] == pytest.approx(expected[row.name].changed["bf16"], abs=3)
        if row.name in records:
            assert records[row.name]["update_norm"] == pytest.approx(row.update_norm, rel=1e-9)
            assert records[row.name]["numerical_rank"] == records[row.name]["rank"]
        elif name != "saved modules" or row.name != "lm_head.weight":
            assert row.changed["exact"] == 0


def test_merging_into_bf16_is_what_the_bf16_rule_counts(tmp_path):
    torch = pytest.importorskip("torch")
    base, adapter, _ = peft_pair(tmp_path, tiny_llama().bfloat16(), r=4, lora_alpha=4, target_modules=["q_proj"])
    factored = compare(base, adapter)
    name = "model.layers.0.self_attn.q_proj.weight"
    update = open_checkpoint(adapter).adapter.updates[name]
    weight = torch.from_numpy(open_checkpoint(base).tensors[name].values().reshape(32, 32)).double()
    merged = (weight + torch.from_numpy(update.left @ update.right)).bfloat16()
    expected = int((merged != weight.bfloat16()).sum())
    row = next(row for row in factored.rows if row.name == name)
    assert row.changed["bf16"] == expected
    assert row.changed["exact"] == row.numel


def test_conv1d_weights_are_transposed(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=20))
    base, adapter, merged = peft_pair(tmp_path, model, r=3, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True)
    factored = compare(base, adapter)
    dense = {row.name: row for row in compare(base, merged).rows}
    moved = [row for row in factored.rows if row.changed["exact"]]
    assert len(moved) == 2
    for row in moved:
        assert row.update_norm == pytest.approx(dense[row.name].update_norm, rel=1e-5)


def test_an_adapter_on_the_head_of_a_tied_model(tmp_path):
    base, adapter, _ = peft_pair(tmp_path, tiny_llama(tie_word_embeddings=True), r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"])
    factored = compare(base, adapter)
    rows = {row.name: row for row in factored.rows}
    assert rows["lm_head.weight"].changed["exact"] > 0
    assert rows["model.embed_tokens.weight"].changed["exact"] == 0
    assert rows["lm_head.weight"].base_norm == pytest.approx(rows["model.embed_tokens.weight"].base_norm, rel=1e-13)


def test_adapters_in_a_series(tmp_path):
    (tmp_path / "two").mkdir()
    base, one, _ = peft_pair(tmp_path, tiny_llama(), seed=1, **SETTINGS["plain"])
    _, two, _ = peft_pair(tmp_path / "two", tiny_llama(), seed=2, **SETTINGS["plain"])
    steps = series([base, one, two])
    assert [step.against for step in steps] == ["first", "first", "previous", "previous"]
    first, second = (open_checkpoint(path).adapter.updates for path in (one, two))
    expected = math.sqrt(sum(np.linalg.norm(second[n].left @ second[n].right - first[n].left @ first[n].right) ** 2 for n in first))
    assert steps[3].comparison.total.update_norm == pytest.approx(expected, rel=1e-9)


def adapter_folder(tmp_path, config, tensors=None):
    full = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config
    (tmp_path / "adapter_config.json").write_text(json.dumps(full))
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    default = {f"{stem}.lora_A.weight": np.ones((2, 4), np.float32), f"{stem}.lora_B.weight": np.ones((3, 2), np.float32)}
    write_safetensors(tmp_path / "adapter_model.safetensors", default if tensors is None else tensors)
    return tmp_path


BASE = {"model.layers.0.self_attn.q_proj.weight": np.ones((3, 4), np.float32)}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"use_dora": True}, "only one of DoRA's magnitudes and factors"),
        ({"peft_type": "LOHA"}, "only LoRA"),
        ({"lora_alpha": 0}, "lora_alpha = 0"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"r": 8}, "has rank 2, adapter_config.json says 8"),
        ({"init_lora_weights": "pissa_niter_4"}, "part of the base"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "targets parameters"),
        ({"layer_replication": [[0, 2]]}, "replicates layers"),
        ({"init_lora_weights": "somehow"}, "initialised in a way that is not known"),
        ({"peft_type": None, "lora_parameters": {"rank": 8}, "num_layers": 4}, r"an adapter of MLX; fuse it"),
        ({"peft_type": None, "hidden_size": 8, "model_class": "LlamaForCausalLM"}, "adapter of the library adapters"),
        ({"peft_type": None}, "names no peft_type"),
        ({"peft_type": "NEWER"}, "is a NEWER adapter"),
        *(({"peft_type": kind}, rf"is a {name} adapter; only LoRA and DoRA .* merge it") for kind, name in METHODS.items()),
        *(({"peft_type": kind}, rf"is a {name} adapter, which has no one set of weights") for kind, name in NO_WEIGHTS.items()),
        *(({"init_lora_weights": f"{start}_niter_4"}, f"is a {name} adapter") for start, name in CHANGES_BASE.items()),
    ],
)
def test_adapters_that_mean_something_else_are_refused(tmp_path, config, says):
    with pytest.raises(InputError, match=says) as caught:
        compare(BASE, adapter_folder(tmp_path, config))
    assert "\n" not in str(caught.value)


def test_a_broken_adapter_is_one_line(tmp_path):
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    one, other = np.ones((2, 4), np.float32), np.ones((3, 2), np.float32)
    cases = [
        ({f"{stem}.lora_A.weight": one}, "not its partner"),
        ({f"{stem}.lora_A.weight": one, f"{stem}.lora_B.weight": np.ones((3, 5), np.float32)}, "do not multiply"),
        ({f"{stem}.lora_A.weight": one, f"{stem}.lora_B.weight": np.ones((9, 2), np.float32)}, r"is \(9, 4\), the base weight is \(3, 4\)"),
        ({"elsewhere.lora_A.weight": one, "elsewhere.lora_B.weight": other}, "is this its base model"),
        ({f"{stem}.lora_A.weight": one, f"{stem}.lora_B.weight": other, f"{stem}.lora_magnitude_vector": one[0]}, "only one of DoRA's"),
        ({f"{stem}.hada_w1_a": one}, "no plain LoRA factor"),
        ({f"{stem}.base_layer.lora_A.weight": one, f"{stem}.base_layer.lora_B.weight": other}, "an adapter of an adapter"),
        ({f"{stem}.lora_A.a.weight": one, f"{stem}.lora_B.b.weight": other}, "holds several adapters \\(a, b\\)"),
        ({f"{stem}.token_adapter.trainable_tokens_delta": one}, "does not say which rows"),
        ({}, "holds no factors"),
    ]
    for tensors, says in cases:
        with pytest.raises(InputError, match=says):
            compare(BASE, adapter_folder(tmp_path, {}, tensors))
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="neither adapter_model"):
        compare(BASE, tmp_path)


def test_an_adapter_cannot_be_the_base(tmp_path):
    from dynamics.overlap import compare as overlap
    from dynamics.spectra import compare as spectra

    adapter, tuned = adapter_folder(tmp_path, {}), BASE
    for measure in (lambda: compare(adapter, tuned), lambda: overlap(adapter, [tuned, tuned]), lambda: spectra(adapter, tuned)):
        with pytest.raises(InputError, match=r"is a LoRA adapter, which has no weights of its own; name the model it belongs to as BASE"):
            measure()


def test_weights_the_adapter_leaves_alone_cost_no_second_reading(tmp_path):
    base = BASE | {"model.norm.weight": np.ones(4, np.float32)}
    tuned, _ = open_checkpoint(adapter_folder(tmp_path, {})).adapter.apply_to_base(open_checkpoint(base))
    untouched = open_checkpoint(base).tensors["model.norm.weight"]
    assert tuned.tensors["model.norm.weight"].source == untouched.source


def changed_copy(folder, **settings):
    """Copy an adapter with other settings."""
    shutil.copytree(DATA / "plain", folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_base_that_the_adapter_does_not_name_is_noted(tmp_path) -> None:
    base = DATA / "base" / TRUTH["plain"]["base"]
    for number, (name, noted) in enumerate(
        [(None, False), (str(base), False), (f"org/{base.name.upper()}", False), ("org/another", True), ("/gone/another/", True)]
    ):
        notes = compare(base, changed_copy(tmp_path / str(number), base_model_name_or_path=name)).notes
        assert ("the numbers hold only if BASE" in " ".join(notes)) == noted


def test_damaged_settings_and_factors_are_refused(tmp_path) -> None:
    base = DATA / "base" / TRUTH["plain"]["base"]
    with pytest.raises(InputError, match="a rank_pattern or alpha_pattern that is no mapping"):
        compare(base, changed_copy(tmp_path / "list", rank_pattern=[1]))
    folder = changed_copy(tmp_path / "diverged")
    stored = read_safetensors(folder / "adapter_model.safetensors").tensors
    tensors = {name: tensor.values().astype(np.float32).reshape(tensor.shape) for name, tensor in stored.items()}
    next(iter(tensors.values()))[0, 0] = np.nan
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    with pytest.raises(InputError, match="hold NaN or infinity; the training has diverged"):
        compare(base, folder)


def test_the_file_of_an_adapter_is_read_as_its_folder() -> None:
    base = DATA / "base" / TRUTH["plain"]["base"]
    by_file = compare(base, DATA / "plain" / "adapter_model.safetensors")
    assert by_file.total == compare(base, DATA / "plain").total

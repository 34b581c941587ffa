"""Matching of tensors: unambiguous cases are matched, the others are listed as skipped."""

from __future__ import annotations

import numpy as np
import pytest

from dynamics.checkpoints import open_checkpoint, parameter_names
from dynamics.checkpoints.matching import match
from dynamics.checkpoints.tensor import Checkpoint
from dynamics.errors import InputError
from dynamics.sparsity import compare

RNG = np.random.default_rng(7)


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def matched(base, tuned, base_config=None, tuned_config=None):
    def opened(tensors, config):
        checkpoint = open_checkpoint(tensors)
        return Checkpoint("memory", "memory", checkpoint.tensors, config, checkpoint.ignored)

    return match(opened(base, base_config), opened(tuned, tuned_config))


def assert_equal_pairs(found, expected):
    """Check the names of the pairs, and that both tensors of each pair hold the same values."""
    assert sorted(pair.name for pair in found.pairs) == sorted(expected)
    for pair in found.pairs:
        assert pair.base.shape == pair.tuned.shape
        assert np.array_equal(pair.base.values(), pair.tuned.values()), pair.name


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.{}",
        "module.{}",
        "module.module.{}",
        "base_model.model.{}",
        "actor.{}",
        "actor.module._orig_mod.{}",
        "_fsdp_wrapped_module.{}",
        "state_dict.{}",
    ],
)
def test_wrappers_around_names(wrapped):
    base = {"model.layers.0.mlp.up_proj.weight": array(3, 2), "lm_head.weight": array(5, 2)}
    found = matched(base, {wrapped.format(name): value for name, value in base.items()})
    assert_equal_pairs(found, base)
    assert found.skipped == []


def test_wrappers_inside_names():
    name = "model.layers.0._checkpoint_wrapped_module.mlp._orig_mod.up_proj.weight"
    value = array(3, 2)
    assert_equal_pairs(matched({"model.layers.0.mlp.up_proj.weight": value}, {name: value}), ["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize("stem", parameter_names.STEMS)
@pytest.mark.parametrize("swap", [False, True])
def test_a_model_against_its_inner_part(stem, swap):
    inner = {"layers.0.mlp.up_proj.weight": array(3, 2), "embed_tokens.weight": array(5, 2), "norm.weight": array(2)}
    outer = {stem + name: value for name, value in inner.items()} | {"lm_head.weight": array(5, 2)}
    found = matched(outer, inner) if swap else matched(inner, outer)
    assert_equal_pairs(found, [stem + name if swap else name for name in inner])  # the base's names, as for any other pair
    assert len(found.notes) == 1
    assert [skip.name for skip in found.skipped] == ["lm_head.weight"]


@pytest.mark.parametrize("swap", [False, True])
def test_fused_projections_are_split(swap):
    q, k, v, gate, up = array(8, 6), array(2, 6), array(2, 6), array(9, 6), array(9, 6)
    bias = [array(8), array(2), array(2)]
    stem = "model.layers.3."
    split = {f"{stem}self_attn.{n}_proj.weight": t for n, t in zip("qkv", (q, k, v), strict=True)}
    split |= {f"{stem}self_attn.{n}_proj.bias": t for n, t in zip("qkv", bias, strict=True)}
    split |= {f"{stem}mlp.gate_proj.weight": gate, f"{stem}mlp.up_proj.weight": up}
    fused = {
        f"{stem}self_attn.qkv_proj.weight": np.concatenate([q, k, v]),
        f"{stem}self_attn.qkv_proj.bias": np.concatenate(bias),
        f"{stem}mlp.gate_up_proj.weight": np.concatenate([gate, up]),
    }
    found = matched(fused, split) if swap else matched(split, fused)
    assert_equal_pairs(found, split)
    assert found.skipped == []


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("block", "roles"), [("mlp", ("gate_proj", "up_proj", "down_proj")), ("block_sparse_moe", ("w1", "w3", "w2"))])
def test_stacked_experts_are_split(swap, block, roles):
    gate, up, down = array(4, 5, 6), array(4, 5, 6), array(4, 6, 5)
    single = {}
    for expert in range(4):
        for role, stack in zip(roles, (gate, up, down), strict=True):
            single[f"model.layers.0.{block}.experts.{expert}.{role}.weight"] = stack[expert]
    stacked = {
        "model.layers.0.mlp.experts.gate_up_proj": np.concatenate([gate, up], axis=1),
        "model.layers.0.mlp.experts.down_proj": down,
    }
    found = matched(stacked, single) if swap else matched(single, stacked)
    assert_equal_pairs(found, single)
    assert found.skipped == []


def test_transposed_or_ambiguous_stacks_are_not_guessed():
    gate, up = array(4, 5, 6), array(4, 5, 6)
    single = {f"model.layers.0.mlp.experts.{e}.{r}_proj.weight": s[e] for e in range(4) for r, s in (("gate", gate), ("up", up))}
    transposed = {"model.layers.0.mlp.experts.gate_up_proj": np.concatenate([gate, up], axis=1).transpose(0, 2, 1).copy()}
    anchor = {"model.norm.weight": array(6)}
    found = matched(single | anchor, transposed | anchor)
    assert [pair.name for pair in found.pairs] == ["model.norm.weight"]
    assert len(found.skipped) == 9
    square = {f"model.layers.0.mlp.experts.{e}.{r}_proj.weight": array(3, 6) for e in range(4) for r in ("gate", "up")}
    found = matched(square | anchor, anchor | {"model.layers.0.mlp.experts.gate_up_proj": array(4, 6, 6)})
    assert len(found.skipped) == 9
    assert "both ways round" in found.skipped[-1].reason


def test_a_square_stack_lies_as_its_sibling_does():
    gate, up, down = array(4, 3, 6), array(4, 3, 6), array(4, 6, 3)  # gate_up is (4, 6, 6), as in OLMoE
    roles = {"gate_proj": gate, "up_proj": up, "down_proj": down}
    single = {f"model.layers.0.mlp.experts.{e}.{role}.weight": stack[e] for e in range(4) for role, stack in roles.items()}
    stacked = {
        "model.layers.0.mlp.experts.gate_up_proj": np.concatenate([gate, up], axis=1),
        "model.layers.0.mlp.experts.down_proj": down,
    }
    for found in (matched(single, stacked), matched(stacked, single)):
        assert_equal_pairs(found, single)
        assert found.skipped == []


@pytest.mark.parametrize("family", ["Qwen3Moe", "Mixtral", "GPTNeoX", "GPT2", "Phi3", "Gemma2", "Qwen2"])
def test_a_saved_model_is_the_model_in_memory(tmp_path, family):
    """A model saved by transformers against the model in memory: every parameter is compared once, and none has changed."""
    transformers = pytest.importorskip("transformers")
    size = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {
        "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_key_value_heads": 2, "head_dim": 8},
        "Mixtral": {"num_local_experts": 4, "num_key_value_heads": 2},
        "Phi3": {"pad_token_id": 0, "num_key_value_heads": 2},
        "Gemma2": {"head_dim": 8, "num_key_value_heads": 2},
        "Qwen2": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    }
    config = getattr(transformers, f"{family}Config")(**size, **more.get(family, {}))
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, f"{family}{head}")(config).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    total = compare(tmp_path, model.state_dict()).total
    assert total.numel == sum(parameter.numel() for parameter in model.parameters())
    assert total.changed["exact"] == 0


def test_interleaved_fusions_are_named_not_split():
    anchor = {"model.norm.weight": array(6)}
    split = {f"model.layers.0.self_attn.{n}_proj.weight": array(6, 6) for n in "qkv"}
    found = matched(split | anchor, {"model.layers.0.self_attn.query_key_value.weight": array(18, 6)} | anchor)
    assert len(found.skipped) == 4
    assert "row order depends on the architecture" in found.skipped[-1].reason


def test_vocabulary_rows_that_one_side_lacks():
    base = {"model.embed_tokens.weight": array(10, 4), "lm_head.weight": array(10, 4)}
    tuned = {name: np.concatenate([value, array(3, 4)]) for name, value in base.items()}
    for found, where in ((matched(base, tuned), "tuned"), (matched(tuned, base), "base")):
        assert_equal_pairs(found, base)
        assert [(skip.name, skip.where) for skip in found.skipped] == [
            ("model.embed_tokens.weight[10:13]", where),
            ("lm_head.weight[10:13]", where),
        ]
        assert "12 values" in found.skipped[0].reason


def test_vocabulary_rows_of_other_tokens_are_left_out():
    embedding = {"model.embed_tokens.weight": array(60, 8)}
    anchor = {"model.norm.weight": array(8)}
    for kept, pairs in ((slice(0, 40), 2), (slice(20, 60), 1), (np.r_[0:15, 30:60], 1)):
        found = matched(embedding | anchor, {name: value[kept] for name, value in embedding.items()} | anchor)
        assert len(found.pairs) == pairs
    assert [(skip.where, skip.numel) for skip in found.skipped] == [("base", 480), ("tuned", 360)]
    assert "other tokens" in found.skipped[0].reason


def test_the_note_names_modules_with_two_names():
    base, tuned = ({f"model.layers.0.{block}.gate.weight": array(4, 8)} for block in ("block_sparse_moe", "mlp"))
    found = matched(base, tuned)
    assert len(found.pairs) == 1
    assert found.notes == ["modules that have two usual names were paired, such as block_sparse_moe and mlp"]


def test_layers_that_moved_up_after_a_removal_are_left_out():
    base = {f"model.layers.{layer}.mlp.{module}.weight": array(16, 8) for layer in range(4) for module in ("up_proj", "gate_proj")}
    kept = {0: 0, 2: 1, 3: 2}
    tuned = {
        name.replace(f".{old}.", f".{new}."): base[name] + 0.1 * array(16, 8)
        for old, new in kept.items()
        for name in base
        if f".{old}." in name
    }
    found = matched(base, tuned)
    assert [pair.name for pair in found.pairs] == ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"]
    assert sum("another one" in skip.reason for skip in found.skipped) == 8
    cut_off = matched(base, {name: value for name, value in base.items() if ".3." not in name})
    assert len(cut_off.pairs) == 6


def test_a_reward_model_lacks_the_output_head_by_design():
    base = {"model.embed_tokens.weight": array(20, 4), "lm_head.weight": array(20, 4)}
    reward = {"model.embed_tokens.weight": base["model.embed_tokens.weight"], "score.weight": array(1, 4)}
    assert [skip.by_design for skip in matched(base, reward).skipped] == [True, True]
    tied = {"model.embed_tokens.weight": base["model.embed_tokens.weight"]}
    for head in ("score.weight", "v_head.weight", "value_head.weight"):
        found = matched(tied, tied | {head: array(1, 4)}, base_config={"tie_word_embeddings": True})
        assert [pair.name for pair in found.pairs] == ["model.embed_tokens.weight"]
        assert [(skip.name, skip.by_design) for skip in found.skipped] == [(head, True)]
    found = matched(reward, reward | {"score.weight": array(3, 4)})
    assert [pair.name for pair in found.pairs] == ["model.embed_tokens.weight"]
    assert all("another size" in skip.reason and skip.by_design for skip in found.skipped)
    assert [skip.by_design for skip in matched(base, tied).skipped] == [False]


def test_a_tied_head_stored_on_one_side_counts_once():
    embedding = array(10, 4)
    base = {"model.embed_tokens.weight": embedding}
    tuned = {"model.embed_tokens.weight": embedding + 1, "lm_head.weight": embedding + 1}
    for found in (matched(base, tuned), matched(tuned, base)):
        assert [pair.name for pair in found.pairs] == ["model.embed_tokens.weight"]
        assert "tied" in found.skipped[0].reason


def test_a_head_untied_in_training_is_compared_with_the_embedding_it_was_tied_to():
    embedding = array(10, 4)
    base = {"model.embed_tokens.weight": embedding}
    tuned = {"model.embed_tokens.weight": embedding + 1, "lm_head.weight": embedding}
    assert [skip.reason for skip in matched(base, tuned).skipped] == ["only in tuned"]
    found = matched(base, tuned, base_config={"tie_word_embeddings": True})
    assert sorted(pair.name for pair in found.pairs) == ["lm_head.weight", "model.embed_tokens.weight"]
    assert np.array_equal(*[getattr(found.pairs[1], side).values() for side in ("base", "tuned")])
    assert "config ties" in found.notes[0]


def test_two_names_for_one_memory_on_both_sides_count_once():
    one, other = array(10, 4), array(10, 4)
    names_of = ("model.embed_tokens.weight", "lm_head.weight")
    found = matched(dict.fromkeys(names_of, one), dict.fromkeys(names_of, other))
    assert [pair.name for pair in found.pairs] == ["model.embed_tokens.weight"]
    assert found.skipped[0].where == "both"
    untied = matched(dict.fromkeys(names_of, one), {name: array(10, 4) for name in names_of})
    assert len(untied.pairs) == 2


def test_buffers_are_named():
    base = {"w": array(2, 2), "model.layers.0.self_attn.rotary_emb.inv_freq": array(2), "h.0.attn.bias": array(1, 1, 4, 4)}
    found = matched(base, {"w": array(2, 2)})
    assert [pair.name for pair in found.pairs] == ["w"]
    assert all("buffer" in skip.reason for skip in found.skipped)
    assert len(found.skipped) == 2


def test_nothing_is_dropped():
    """Every tensor of either side is in a pair or in the list of skipped tensors."""
    base = {"model.embed_tokens.weight": array(10, 4), "only.base.weight": array(2), "rotary_emb.inv_freq": array(2), "x.weight": array(3)}
    tuned = {"model.embed_tokens.weight": array(12, 4), "lm_head.weight": array(12, 4), "x.weight": array(3), "list": [1]}
    found = matched(base, tuned)
    seen = {pair.name for pair in found.pairs} | {skip.name.partition("[")[0] for skip in found.skipped}
    assert seen == base.keys() | tuned.keys()


@pytest.mark.parametrize(
    ("base", "tuned", "says"),
    [
        ({"a.weight": array(2)}, {"b.weight": array(2)}, "no tensor in common .*a.weight.*b.weight"),
        ({"m.up_proj.weight": array(128, 64)}, {"m.up_proj.weight": array(128, 96)}, r"base \(128, 64\) vs tuned \(128, 96\)"),
        ({"lm_head.weight": array(10, 4)}, {"lm_head.weight": array(10, 5)}, "shapes differ"),
        (
            {"q.weight": array(2)},
            {"q.base_layer.weight": array(2), "q.lora_A.default.weight": array(1, 2)},
            "LoRA factors beside the weights",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(base, tuned, says):
    with pytest.raises(InputError, match=says) as caught:
        matched(base, tuned)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("model.layers.11.self_attn.q_proj.weight", "model.layers.11", "q"),
        ("model.layers.11.self_attn.q_proj.bias", "model.layers.11", "q"),
        ("model.layers.0.self_attn.q_norm.weight", "model.layers.0", "norm"),
        ("model.layers.0.post_attention_layernorm.weight", "model.layers.0", "norm"),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "model.layers.0", "kv"),
        ("model.layers.0.mlp.gate_proj.weight", "model.layers.0", "gate"),
        ("model.layers.0.mlp.gate.weight", "model.layers.0", "router"),
        ("model.layers.0.mlp.experts.7.down_proj.weight", "model.layers.0", "down"),
        ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0", "gate_up"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "model.layers.0", "up"),
        ("transformer.h.3.attn.c_attn.weight", "transformer.h.3", "qkv"),
        ("transformer.h.3.attn.c_proj.weight", "transformer.h.3", "o"),
        ("transformer.h.3.mlp.c_proj.weight", "transformer.h.3", "down"),
        ("transformer.h.3.ln_1.weight", "transformer.h.3", "norm"),
        ("transformer.wte.weight", None, "embedding"),
        ("bert.encoder.layer.2.attention.output.dense.weight", "bert.encoder.layer.2", "o"),
        ("bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer.2", "down"),
        ("bert.encoder.layer.2.intermediate.dense.weight", "bert.encoder.layer.2", "up"),
        ("gpt_neox.layers.1.attention.query_key_value.weight", "gpt_neox.layers.1", "qkv"),
        ("gpt_neox.layers.1.attention.dense.weight", "gpt_neox.layers.1", "o"),
        ("gpt_neox.layers.1.mlp.dense_4h_to_h.weight", "gpt_neox.layers.1", "down"),
        ("blk.4.ffn_down.weight", "blk.4", "down"),
        ("model.norm.weight", None, "norm"),
        ("lm_head.weight", None, "head"),
        ("output.weight", None, "head"),
        ("visual.patch_embed.proj.weight", None, "other"),
    ],
)
def test_layer_and_kind_of_a_name(name, layer, kind):
    assert parameter_names.layer(name) == layer
    assert parameter_names.kind(name) == kind


def test_layers_sort_by_number():
    layers = ["model.layers.10", "model.layers.9", "(no layer)", "visual.blocks.0"]
    assert sorted(layers, key=parameter_names.layer_order) == ["(no layer)", "model.layers.9", "model.layers.10", "visual.blocks.0"]

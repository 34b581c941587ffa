"""Memory and time that are worked out from the shape of a model."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dynamics import InputError
from dynamics.train import cost
from dynamics.train.cost import BEST, EXPECTED, H100, H200, SHAPES, WORST, Setup
from dynamics.train.settings import METHODS, preset_values

LAB = Path(__file__).parents[2] / "dynamics" / "train" / "lab" / "base" / "config.json"
THREE, SEVEN = SHAPES["Qwen/Qwen2.5-Coder-3B"], SHAPES["Qwen/Qwen2.5-Coder-7B"]


def settings(method: str, preset: str = "pretrained", **more):
    """Return the settings of a method."""
    return METHODS[method](**preset_values(method, preset, "a model") | more)


def test_what_is_said_of_the_code_is_so_in_the_code() -> None:
    """The formulas import no torch, so they have numbers of modules that do."""
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    from dynamics.train import policy
    from dynamics.train.engines import trl
    from dynamics.train.samplers import transformers

    assert cost.SLACK == trl.SLACK
    assert cost.CHUNK == policy.CHUNK_BYTES
    assert inspect.signature(transformers.generate).parameters["rows"].default == cost.ROWS


def test_the_shapes_have_the_published_numbers_of_weights() -> None:
    billions = {name: shape.parameters / 1e9 for name, shape in SHAPES.items()}
    published = {"0.5B": 0.494, "1.5B": 1.544, "3B": 3.086, "7B": 7.616}
    assert {name: billions[f"Qwen/Qwen2.5-Coder-{name}"] for name in published} == pytest.approx(published, abs=5e-4)
    assert billions["smollm2"] == pytest.approx(0.134515008, abs=1e-12)
    written, lab = json.loads(LAB.read_text()), SHAPES["lab"]
    named = (lab.vocabulary, lab.hidden, lab.layers, lab.heads, lab.key_heads, lab.intermediate)
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    assert named == tuple(written[key] for key in keys)
    assert (lab.tied, lab.bias) == (written["tie_word_embeddings"], written["attention_bias"])


def test_a_model_of_unknown_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"Qwen/Qwen2.5-Coder-8B: its shape is not known here; .*did you mean"):
        cost.shape("Qwen/Qwen2.5-Coder-8B")
    with pytest.raises(InputError, match="spc: its cost is not worked out"):
        cost.calls(settings("spc"))


@pytest.mark.parametrize("name", ["lab", "Qwen/Qwen2.5-Coder-0.5B", "Qwen/Qwen2.5-Coder-7B"])
def test_the_number_of_weights_is_that_of_the_model(name: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    shape = SHAPES[name]
    kind = transformers.Qwen2Config if shape.bias else transformers.LlamaConfig
    config = kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.intermediate,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(value.numel() for value in model.parameters()) == shape.parameters


def test_what_weights_gradient_and_moments_take() -> None:
    """Sixteen bytes a weight, of which FSDP2 shares all out but keeps a whole copy; DDP has buckets beside the gradient."""
    config = settings("rlvr", prompts_per_step=64, gradient_checkpointing=True)
    weights = THREE.parameters
    one = cost.memory(config, THREE, Setup())
    ddp = cost.memory(config, THREE, Setup(8, trl=True))
    fsdp = cost.memory(config, THREE, Setup(8, sharded=True, trl=True))
    optimizer = ("whole weights", "shards of the weights", "gradient", "moments", "buckets of the gradient")

    def of(memory: cost.Memory) -> float:
        return sum(memory.phases["updating"].get(part, 0.0) for part in optimizer) / weights

    assert (of(one), of(ddp), of(fsdp)) == (16, 20, 4 + 16 / 8)
    assert fsdp.phases["saving"]["whole moments"] == 8 * weights  # rank 0 has all of them to be saved
    assert "saving" not in ddp.phases
    narrow = cost.memory(settings("rlvr", master_dtype="bfloat16"), THREE, Setup())
    assert of(narrow) == 8
    assert cost.memory(settings("rlvr", kl_coef=0.1), THREE, Setup()).phases["updating"]["whole weights"] == 8 * weights
    two = cost.memory(settings("selfplay", players="two"), THREE, Setup())
    assert two.phases["updating"]["moments"] == 16 * weights


def test_seven_billion_weights_do_not_fit_where_each_process_has_80_gb() -> None:
    config = settings("selfplay", "azr-code", max_new_tokens=1024, eval_problems=0, gradient_checkpointing=True)
    for machine, fits in ((H100, False), (H200, True)):
        memory = cost.memory(config, SEVEN, Setup(8, sharded=True, machine=machine, trl=True))
        assert memory.fits is fits
    assert memory.of("saving") > H100.memory
    assert not cost.memory(config, THREE, Setup(8, trl=True)).fits  # nor three by DDP
    assert cost.memory(config, THREE, Setup(8, sharded=True, trl=True)).fits


def test_rows_are_those_of_the_process_that_has_most() -> None:
    assert cost.rows(cost.Call(360, 16, 32), 8) == [720]
    assert cost.rows(cost.Call(360, 64, 32), 8) == [1024, 1024, 832]
    assert cost.rows(cost.Call(3, 2000, 32), 1) == [1024] * 6
    assert cost.rows(cost.Call(1, 8, 32), 8) == [8]


def test_self_play_answers_what_was_valid_and_fills_its_batch() -> None:
    config = settings("selfplay", "azr-code")
    limit = config.max_new_tokens
    assert cost.calls(config) == [
        cost.Call(192, 1, config.max_proposal_tokens, proposes=True),
        *[cost.Call(192, 8, limit)] * 2,
    ]  # with the tasks of the step before
    assert [call.prompts for call in cost.calls(config, 0.25)] == [192, 48, 48, 144]
    assert [(call.prompts, call.group) for call in cost.completions(config)] == [(192, 1), (192, 1)]
    assert [call.prompts for call in cost.calls(settings("selfplay"), 0.5)] == [12, 6]


def test_micro_batches_are_those_of_the_engine() -> None:
    """48 rows of a process, of 1,624 tokens: TRL makes half as many more than the first batch needs, and fills them."""
    config = settings("selfplay", "azr-code", max_new_tokens=1024, max_proposal_tokens=1024, max_tokens_per_microbatch=8192)
    assert cost.microbatches(config, Setup(8, trl=True), EXPECTED) == cost.Microbatches(15, 4 * 1624)
    small = replace(config, max_tokens_per_microbatch=1280)
    assert cost.microbatches(small, Setup(8, trl=True), EXPECTED) == cost.Microbatches(92, 1624)  # most of them without a completion
    packed = cost.microbatches(config, Setup(), EXPECTED)
    assert packed == cost.Microbatches(42, 8192)


def test_time_grows_with_steps_and_falls_with_processes() -> None:
    config = settings("rlvr", prompts_per_step=64, max_new_tokens=1024, gradient_checkpointing=True)
    one, eight = (cost.time(config, THREE, Setup(count, trl=True)) for count in (1, 8))
    assert one.step["update"] / eight.step["update"] == pytest.approx(8, rel=0.1)
    assert one.step["sampling"] > eight.step["sampling"] > one.step["sampling"] / 8  # a token of any number of rows passes all layers
    assert eight.step["judging"] == one.step["judging"]  # by rank 0 alone
    assert "communication" not in one.step
    longer = cost.time(replace(config, steps=200), THREE, Setup(8, trl=True))
    assert longer.hours - eight.hours == pytest.approx(100 * eight.of_step / 3600)
    best, worst = (cost.time(config, THREE, Setup(8, trl=True), assumed) for assumed in (BEST, WORST))
    assert best.hours < eight.hours < worst.hours


def test_operations_are_counted() -> None:
    """A layer of width 2 with one head and a gate of width 3, a vocabulary of 5: 16 + 18 weights in products, 10 in the head."""
    small = cost.Shape(5, 2, 1, 1, 1, 3)
    assert (small.layer, small.products, small.parameters) == (34, 44, 48 + 2)
    assert cost.forward(small, 7, 4) == 2 * 7 * 44 + 4 * 2 * 7 * 4
    assert cost.forward(small, 7, 4, predicted=3) == 2 * (7 * 34 + 3 * 10) + 4 * 2 * 7 * 4


def test_a_run_is_described_with_its_parts() -> None:
    config = settings("rlvr", max_new_tokens=1024)
    lines = cost.described("rlvr-0", config, SEVEN, Setup(8, sharded=True, trl=True))
    assert "rlvr-0: 106 GB at most, while saving: does NOT fit in H100, 80 GB, fits in H200, 141 GB" in lines
    assert "whole moments 60.9" in "\n".join(lines)
    assert lines[-1].startswith("rlvr-0: ")
    assert "steps of" in lines[-1]

"""Log-probabilities of completions in any layout against the plain forward pass."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics import InputError
from dynamics.train import attention, tiny
from dynamics.train.batch import Batch, pack_rows
from dynamics.train.policy import Policy, checkpointed_layers, compute_dtype
from dynamics.train.samplers.transformers import check_lengths
from train.helpers import MODELS, llama


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(14, 60, n) for n in (5, 1, 9)]
    completions = [rng.integers(14, 60, n) for n in (3, 1, 7, 4, 2, 6)]
    blank = [""] * 6
    return Batch(prompts, completions, np.array([0, 0, 1, 1, 1, 2]), rng.normal(size=6), blank, blank, blank)


def reference(model, batch: Batch, temperature: float, compute: str = "float32"):
    """Compute the reference: a forward pass per completion, then log_softmax."""
    logp, entropy = [], []
    for sample, made in enumerate(batch.completions):
        prompt = batch.prompts[batch.prompt_of[sample]]
        ids = torch.tensor(np.concatenate([prompt, made]))[None]
        with torch.autocast("cpu", torch.bfloat16, enabled=compute == "bfloat16"):
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        picked = torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(made)[:, None])[:, 0]
        logp.append(picked)
        entropy.append(torch.distributions.Categorical(logits=logits).entropy())
    return torch.cat(logp), torch.cat(entropy)


def rounding(model, batch: Batch, temperature: float, compute: str) -> float:
    """Return the tolerance from float32: 2e-5, and in bfloat16 three times the error of the model's own numbers."""
    if compute == "float32":
        return 2e-5
    wide, narrow = (reference(model, batch, temperature, dtype) for dtype in ("float32", "bfloat16"))
    return 3 * max(float((gradient - other).detach().abs().max()) for gradient, other in zip(wide, narrow, strict=True))


def ours(policy: Policy, batch: Batch, tokens: int, share: bool, temperature: float):
    by_sample = {}
    for rows in pack_rows(batch, range(6), tokens, share):
        logp, entropy, _ = policy.logprobs(rows, temperature)
        for sample in set(rows.sample.tolist()):
            mine = torch.from_numpy(rows.sample == sample)
            by_sample[sample] = (logp[mine], entropy[mine])
    return tuple(torch.cat([by_sample[sample][which] for sample in range(6)]) for which in (0, 1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_layout_changes_nothing(name: str, temperature: float, compute: str, batch: Batch) -> None:
    model = MODELS[name]().eval()
    expected, entropy = reference(model, batch, temperature)
    tolerance = rounding(model, batch, temperature, compute)
    assert tolerance < 0.5
    policy = Policy(model, tiny.build_tokenizer(), "float32", compute)
    assert policy.shares
    for tokens, share in ((1, False), (40, False), (40, True), (10_000, True)):
        logp, computed = ours(policy, batch, tokens, share, temperature)
        torch.testing.assert_close(logp, expected, atol=tolerance, rtol=1e-5)
        torch.testing.assert_close(computed, entropy, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("share", [False, True])
def test_gradients_are_those_of_autograd(temperature: float, share: bool, compute: str, batch: Batch, monkeypatch) -> None:
    """In bfloat16, their L2 distance from float32's is at most twice that of autograd's gradients in bfloat16."""
    monkeypatch.setattr("dynamics.train.policy.CHUNK_BYTES", 1)  # many chunks
    model = llama().eval()
    weights = torch.randn(2, 23, generator=torch.Generator().manual_seed(1))

    def gradients(logp: torch.Tensor, entropy: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (weights[0] * logp + weights[1] * entropy).sum().backward()
        return {key: value.grad.clone() for key, value in model.named_parameters()}

    expected = gradients(*reference(model, batch, temperature))
    own = gradients(*reference(model, batch, temperature, compute))
    actual = gradients(*ours(Policy(model, tiny.build_tokenizer(), "float32", compute), batch, 60, share, temperature))
    for key, value in expected.items():
        if compute == "float32":
            torch.testing.assert_close(actual[key], value, atol=1e-4, rtol=1e-4, msg=key)
        else:
            assert (actual[key] - value).norm() <= 2 * (own[key] - value).norm() < 0.2 * value.norm(), key


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tokens", [1, 4, 7])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sequence_computed_in_pieces(name: str, tokens: int, checkpointing: bool) -> None:
    """Values and gradients are those of the whole sequence; pieces may lie within the prompt and have any length."""
    model = MODELS[name]().eval()
    rng = np.random.default_rng(0)
    one = Batch([rng.integers(14, 60, 9)], [rng.integers(14, 60, 11)], np.array([0]), np.ones(1), [""], [""], [""])
    weights = torch.randn(2, 11, generator=torch.Generator().manual_seed(1))
    expected = reference(model, one, 0.7)
    (weights[0] * expected[0] + weights[1] * expected[1]).sum().backward()
    theirs = {key: value.grad.clone() for key, value in model.named_parameters()}
    model.zero_grad()
    policy = Policy(model, tiny.build_tokenizer(), gradient_checkpointing=checkpointing)
    (rows,) = policy.pack(one, [0], tokens)
    found, count = torch.zeros(2, 11), 0
    for piece in policy.pieces(rows, tokens, 0.7):
        assert piece.rows.ids.shape[1] <= tokens
        logp, entropy, _ = piece.values
        at = torch.from_numpy(piece.rows.token)
        found[:, at] = torch.stack([logp, entropy]).detach()
        piece.backward((weights[0, at] * logp + weights[1, at] * entropy).sum())
        count += 1
    assert count == -(-20 // tokens)
    torch.testing.assert_close(found, torch.stack(expected).detach(), atol=2e-5, rtol=1e-5)
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, theirs[key], atol=1e-4, rtol=1e-4, msg=key)
    with torch.no_grad():  # the same bits as with gradient: the ratio to old log-probabilities starts at 1
        torch.testing.assert_close(policy.logprobs_of(replace(one, temperature=0.7), tokens), found[0], atol=0, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_no_bit(name: str, compute: str, batch: Batch) -> None:
    """It keeps the inputs of layers only, and leaves nothing behind in the model."""
    kept, gradients = [], []
    for checkpointing in (False, True):
        model = MODELS[name]().eval()
        policy = Policy(model, tiny.build_tokenizer(), "float32", compute, checkpointing)
        (rows,) = policy.pack(batch, range(6), 10_000)
        sizes = {}

        def pack(tensor: torch.Tensor, sizes: dict = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logp, _, _ = policy.logprobs(rows)
        kept.append(sum(sizes.values()))
        logp.sum().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
        assert not any("forward" in vars(module) for module in model.modules())
    assert kept[1] < 0.6 * kept[0]
    for key, value in gradients[0].items():
        assert torch.equal(value, gradients[1][key]), key


def test_a_model_without_layers_to_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no layers to checkpoint; leave out --gradient-checkpointing"):
        checkpointed_layers(torch.nn.Linear(2, 2))


def test_a_model_that_attends_otherwise_gets_rows_of_its_own(compute: str, batch: Batch, monkeypatch) -> None:
    attend = attention.attend

    def seeing_the_future(module, query, key, value, *more, **options):
        return attend(module, query, key.roll(-1, 2), value.roll(-1, 2), *more, **options)

    monkeypatch.setattr(attention, "attend", seeing_the_future)
    model = llama().eval()
    policy = Policy(model, tiny.build_tokenizer(), "float32", compute)
    assert not policy.shares
    assert model.config._attn_implementation == "eager"
    logp, _ = ours(policy, batch, 40, policy.shares, 1.0)
    torch.testing.assert_close(logp, reference(model, batch, 1.0)[0], atol=rounding(model, batch, 1.0, compute), rtol=1e-5)


@pytest.mark.parametrize(("window", "packed"), [(4, [False, True, True]), (11, [False, True])])
def test_a_sliding_window(window: int, packed: list[bool], batch: Batch) -> None:
    """Sequences that are longer than the window get rows of their own."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**sizes, num_key_value_heads=2, sliding_window=window)).eval()
    expected, entropy = reference(model, batch, 1.0)
    policy = Policy(model, tiny.build_tokenizer())
    assert policy.shares
    assert [rows.segments is None for rows in policy.pack(batch, range(6), 10_000)] == packed
    logp, computed, _ = policy.measure(batch, 10_000)
    torch.testing.assert_close(logp, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(computed, entropy, atol=2e-5, rtol=1e-5)


def test_dropout_is_off() -> None:
    model = llama(attention_dropout=0.5).train()
    policy = Policy(model, tiny.build_tokenizer())
    assert not any(module.training for module in policy.model.modules())


def test_every_completion_token_is_in_exactly_one_layout(batch: Batch) -> None:
    for tokens, share in ((1, True), (16, True), (30, False), (1000, True)):
        seen = np.zeros(6, int)
        for rows in pack_rows(batch, range(6), tokens, share):
            for sample in range(6):
                mine = rows.sample == sample
                seen[sample] += mine.sum()
                if mine.any():
                    assert rows.targets[mine].tolist() == batch.completions[sample].tolist()
                    at = rows.positions[rows.row[mine], rows.column[mine]]
                    start = len(batch.prompts[batch.prompt_of[sample]]) - 1
                    assert at.tolist() == list(range(start, start + mine.sum()))
        assert seen.tolist() == batch.lengths.tolist()


def long_and_short() -> Batch:
    rng = np.random.default_rng(1)
    lengths = [*(int(n) for n in rng.integers(1, 64, 40)), *([3] * 8 + [40] * 8) * 4, *[5] * 20]
    prompt_of = np.array([*range(40), *np.repeat(np.arange(40, 48), 8), *np.repeat(48, 20)])
    blank = [""] * len(lengths)
    prompts = [rng.integers(14, 60, n) for n in (*[10] * 44, *[50] * 4, 10)]
    return Batch(prompts, [rng.integers(14, 60, n) for n in lengths], prompt_of, np.ones(len(lengths)), blank, blank, blank)


@pytest.mark.parametrize("share", [True, False])
def test_every_sample_is_in_one_micro_batch(share: bool) -> None:
    """Packed rows have no padding; padded rows are of similar length."""
    batch = long_and_short()
    microbatches = pack_rows(batch, range(len(batch.completions)), 1024, share)
    assert sorted(np.concatenate([np.unique(rows.sample) for rows in microbatches]).tolist()) == list(range(len(batch.completions)))
    slots = sum(rows.ids.size for rows in microbatches)
    assert all(rows.ids.size <= 1024 for rows in microbatches)
    needed = sum(len(batch.prompts[prompt]) for prompt in batch.prompt_of) + int(batch.lengths.sum())
    if share:
        assert slots == sum(map(len, batch.prompts)) + int(batch.lengths.sum())
        assert len(microbatches) <= 1 + slots // 900
    else:
        assert slots < 1.3 * needed


def test_a_sequence_longer_than_the_window_gets_a_row_of_its_own() -> None:
    batch = long_and_short()
    microbatches = pack_rows(batch, range(len(batch.completions)), 1024, window=60)
    for rows in microbatches:
        for sample in np.unique(rows.sample).tolist():
            whole = len(batch.prompts[batch.prompt_of[sample]]) + len(batch.completions[sample])
            assert (rows.segments is not None) == (whole <= 60)
    assert {rows.segments is None for rows in microbatches} == {True, False}


def test_what_auto_computes_in(monkeypatch) -> None:
    monkeypatch.delenv("DYNAMICS_COMPUTE_DTYPE", raising=False)
    cpu = torch.device("cpu")
    for native, hidden, expected in ((True, 128, "float32"), (True, 576, "bfloat16"), (False, 576, "float32")):
        monkeypatch.setattr("dynamics.train.policy.native_bfloat16", lambda device, native=native: native)
        assert compute_dtype("auto", cpu, hidden) == expected
        for forced in ("float32", "bfloat16"):
            monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", forced)
            assert compute_dtype("auto", cpu, hidden) == forced
            assert compute_dtype("float32", cpu, hidden) == "float32"  # an explicit setting takes precedence
        monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "auto")
        assert compute_dtype("auto", cpu, hidden) == expected
        monkeypatch.delenv("DYNAMICS_COMPUTE_DTYPE")
    monkeypatch.setenv("DYNAMICS_COMPUTE_DTYPE", "bf16")
    with pytest.raises(InputError, match="DYNAMICS_COMPUTE_DTYPE=bf16: must be auto, float32 or bfloat16"):
        compute_dtype("auto", cpu, 128)


def test_no_graph_waits_for_the_garbage_collector(batch: Batch) -> None:
    """A graph in a reference cycle would keep the activations of earlier steps in memory."""
    policy = Policy(llama().eval(), tiny.build_tokenizer())
    gc.collect()
    gc.disable()
    try:
        for rows in policy.pack(batch, range(len(batch.completions)), 20):
            policy.logprobs(rows)[0].sum().backward()
        assert not [node for node in gc.get_objects() if "_LogProbs" in type(node).__name__ and not isinstance(node, type)]
    finally:
        gc.enable()


ROTARY = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
LONGROPE = {"rope_type": "longrope", "factor": 8.0, "rope_theta": 100.0, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}


@pytest.mark.parametrize(
    ("limit", "more"),
    [
        (8, {"max_position_embeddings": 8, "rope_parameters": ROTARY}),  # the check of twelve tokens is longer
        (20, {"max_position_embeddings": 20, "rope_parameters": ROTARY}),
        (8, {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 8}}),
        (20, {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 20}}),
    ],
)
def test_lengths_on_which_a_rotary_embedding_depends_are_refused(limit: int, more: dict) -> None:
    """Shorter sequences have the log-probabilities that a model has that never saw a longer one, and those beside a longer one differ."""
    rng = np.random.default_rng(0)
    prompts, completions = [rng.integers(14, 60, 4)], [rng.integers(14, 60, n) for n in (3, limit - 4, limit - 3)]
    blank = ["", "", "long one"]
    batch = Batch(prompts, completions, np.zeros(3, int), np.ones(3), blank, blank, blank)
    fits = replace(batch, completions=completions[:2])
    expected = reference(llama(**more).eval(), fits, 1.0)[0]
    policy = Policy(llama(**more).eval(), tiny.build_tokenizer())
    assert policy.shares or limit < 12
    torch.testing.assert_close(policy.logprobs_of(fits, 1000), expected, atol=2e-5, rtol=1e-5)
    with pytest.raises(
        InputError, match=rf"^long one: {limit + 1} tokens, prompt and completion: beyond {limit} tokens, .*rotary embedding"
    ):
        policy.logprobs_of(batch, 1000)
    for rows in pack_rows(batch, range(3), 1000, policy.shares):  # what is refused is wrong
        found = policy.logprobs(rows)[0][rows.sample < 2]
    assert (found - expected).abs().max() > 0.01
    with pytest.raises(InputError, match=rf"^long one: 4 tokens and {limit - 3} new ones") as refused:
        check_lengths(policy.model, prompts, [limit - 3], ["long one"])
    assert "\n" not in str(refused.value)
    check_lengths(policy.model, prompts, [limit - 4], ["fits"])

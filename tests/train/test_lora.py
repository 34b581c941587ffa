"""LoRA players that share a base: their weights and gradients, one model for all, and adapters of PEFT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynamics import InputError, sparsity
from dynamics.io.folders import save_folder
from dynamics.recorder.recorder import Recorder
from dynamics.train import lora, tiny
from dynamics.train.batch import Batch
from dynamics.train.completions import Request
from dynamics.train.config import RLVRConfig
from dynamics.train.lora import Factors, LoraPolicy, SharedBase
from dynamics.train.policy import Policy
from dynamics.train.samplers.transformers import decoder_of
from dynamics.train.sampling import sample
from dynamics.train.update import Before, gradient, make_optimizer, optimizer_step
from train.helpers import gpt2, llama, qwen2

CONFIG = RLVRConfig(weight_decay=0.1, max_grad_norm=0, learning_rate=1e-2, max_new_tokens=6, warmup_steps=0)


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(14, 60, n) for n in (5, 1, 9)]
    completions = [rng.integers(14, 60, n) for n in (3, 1, 7, 4, 2, 6)]
    blank = [""] * 6
    return Batch(prompts, completions, np.array([0, 0, 1, 1, 1, 2]), rng.normal(size=6), blank, blank, blank)


def shared(make=llama, compute: str = "float32") -> SharedBase:
    return SharedBase(Policy(make(), tiny.build_tokenizer(), compute=compute))


def moved(base: SharedBase, number: int = 0, rank: int = 3, size: float = 0.05) -> LoraPolicy:
    """Make a player whose B is not zero."""
    player = LoraPolicy(base, rank, seed=1, number=number)
    rng = np.random.default_rng(number)
    player.assign(
        {name: value.detach() + size * torch.from_numpy(rng.normal(size=value.shape)).float() for name, value in player.masters.items()}
    )
    return player


def unmerged(player: LoraPolicy) -> torch.nn.Module:
    """Make the model as PEFT computes it, ``x W0^T + s (x A^T) B^T``, from its own copy of the base; factors are leaves with gradients."""
    model = llama().eval()

    class Adapted(torch.nn.Module):
        def __init__(self, linear, down, up):
            super().__init__()
            self.linear, self.down, self.up = linear, torch.nn.Parameter(down.detach().clone()), torch.nn.Parameter(up.detach().clone())

        def forward(self, x):
            return self.linear(x) + player.scaling * (x @ self.down.T) @ self.up.T

    for name in player.base.originals:
        path = name.removesuffix(".weight")
        parent, _, leaf = path.rpartition(".")
        names = Factors.of(name)
        setattr(model.get_submodule(parent), leaf, Adapted(model.get_submodule(path), player.masters[names.down], player.masters[names.up]))
    return model


def log_probabilities(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    picked = []
    for number, made in enumerate(batch.completions):
        prompt = batch.prompts[batch.prompt_of[number]]
        logits = model(input_ids=torch.tensor(np.concatenate([prompt, made]))[None]).logits[0, len(prompt) - 1 : -1]
        picked.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(made)[:, None])[:, 0])
    return torch.cat(picked)


@pytest.mark.parametrize("make", [llama, qwen2])
def test_an_untrained_player_is_the_base_to_the_bit(make, compute: str, batch: Batch) -> None:
    plain = Policy(make(), tiny.build_tokenizer(), compute=compute)
    expected = plain.measure(batch, 100)
    base = shared(make, compute)
    other = moved(base)
    assert not torch.equal(other.measure(batch, 100), expected)
    for policy in (LoraPolicy(base, 2), base.policy, other.base.policy):
        other.model  # noqa: B018  merged in between
        assert torch.equal(policy.measure(batch, 100), expected)
    assert plain.shares
    assert other.shares
    drawn = [sample(policy, Request.of(CONFIG, batch.prompts, 4, "sample", 1)) for policy in (plain, LoraPolicy(base, 2))]
    for ours, theirs in zip(*drawn, strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert one.ids.tolist() == two.ids.tolist()
            np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-6)  # where a model lies in memory can change the last bit


def test_samples_and_log_probabilities_are_those_of_the_merged_weights(batch: Batch) -> None:
    player = moved(shared())
    expected = log_probabilities(unmerged(player), batch)
    torch.testing.assert_close(player.logprobs_of(batch, 100), expected.detach(), atol=2e-5, rtol=1e-5)
    assert decoder_of(player) == "layers"
    groups = sample(player, Request.of(CONFIG, batch.prompts, 3, "sample", 1))
    numbers = [number for number, group in enumerate(groups) for _ in group]
    made = [one for group in groups for one in group]
    blank = [""] * len(made)
    again = Batch(batch.prompts, [one.ids for one in made], np.array(numbers), np.ones(len(made)), blank, blank, blank)
    torch.testing.assert_close(
        player.logprobs_of(again, 100), torch.from_numpy(np.concatenate([one.logprobs for one in made])), atol=1e-4, rtol=1e-4
    )


def test_gradients_are_those_of_the_unmerged_form(batch: Batch) -> None:
    player = moved(shared())
    gradient(player, batch, CONFIG, Before())
    player.move_gradients()
    model = unmerged(player)
    weights = torch.from_numpy(np.repeat(batch.advantages, batch.lengths)) / batch.lengths.sum()
    (-(weights * log_probabilities(model, batch))).sum().backward()
    for name in player.base.originals:
        adapted, names = model.get_submodule(name.removesuffix(".weight")), Factors.of(name)
        for factor, expected in ((names.down, adapted.down.grad), (names.up, adapted.up.grad)):
            torch.testing.assert_close(player.masters[factor].grad, expected, atol=1e-6, rtol=1e-4, msg=factor)
            assert expected.abs().max() > 1e-4
    assert all(value.grad is None for value in player.model.parameters())


def test_gradients_are_slopes_of_the_loss(batch: Batch) -> None:
    """A step along the gradient changes the loss by its squared norm."""
    player = moved(shared())
    gradient(player, batch, CONFIG, Before())
    player.move_gradients()
    slopes = {name: value.grad.clone() for name, value in player.masters.items()}
    squares = sum(float((slope.double() ** 2).sum()) for slope in slopes.values())
    step = 1e-3 / squares
    start = {name: value.detach().clone() for name, value in player.masters.items()}
    losses = []
    for sign in (1, -1):
        player.assign({name: value + sign * step * slopes[name] for name, value in start.items()})
        with torch.no_grad():
            losses.append(gradient(player, replace(batch, trained=np.zeros(6, bool)), CONFIG, Before()))
    weights = np.repeat(-batch.advantages, batch.lengths) / batch.lengths.sum()
    up, down = ((weights * tokens.logp).sum() for tokens in losses)
    assert (up - down) / 2 == pytest.approx(1e-3, rel=0.02)


def test_players_do_not_disturb_each_other(batch: Batch) -> None:
    """Two players that take turns end where each ends alone, and the base stays as it is."""

    def trained(numbers: list[int], base: SharedBase) -> dict[int, bytes]:
        players = {number: moved(base, number) for number in numbers}
        optimizers = {number: make_optimizer(player, CONFIG) for number, player in players.items()}
        for step in range(1, 4):
            for number, player in players.items():
                tokens = gradient(player, batch, CONFIG, Before())
                optimizer_step(player, optimizers[number], CONFIG, step, tokens, batch)
                base.policy.measure(batch, 100)
        return {
            number: b"".join(value.detach().numpy().tobytes() for value in player.masters.values()) for number, player in players.items()
        }

    base = shared()
    before = {name: value.detach().clone() for name, value in base.policy.model.named_parameters()}
    both = trained([0, 1], base)
    assert both == trained([0], shared()) | trained([1], shared())
    assert both[0] != both[1]
    for name, value in base.policy.model.named_parameters():
        assert torch.equal(value, before[name]), name
    assert base.policy.masters.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.policy.masters.items())


def test_memory_is_one_model_and_one_copy_of_its_matrices() -> None:
    base = shared()
    players = [moved(base, number) for number in range(4)]
    assert {id(value) for player in players for value in player.model.parameters()} == {
        id(value) for value in base.policy.model.parameters()
    }
    reached = [*base.policy.model.parameters(), *base.policy.masters.values(), *base.originals.values()]
    reached += [value for player in players for value in player.masters.values()]
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in reached}
    matrices = sum(value.nbytes for name, value in base.policy.model.named_parameters() if "proj" in name)
    factors = sum(value.nbytes for player in players for value in player.masters.values())
    assert sum(held.values()) == sum(value.nbytes for value in base.policy.model.parameters()) + matrices + factors


def test_merging_amid_the_gradient_of_another_is_refused(batch: Batch) -> None:
    base = shared()
    one, two = moved(base, 0), moved(base, 1)
    gradient(one, batch, CONFIG, Before())
    with pytest.raises(RuntimeError, match="move the gradients first"):
        two.model  # noqa: B018
    one.move_gradients()
    two.move_gradients()  # it has none
    assert all(value.grad is None for value in two.masters.values())
    assert all(value.grad is not None for value in one.masters.values())


def test_effective_weights_and_copies(batch: Batch) -> None:
    base = shared()
    player = moved(base)
    effective = player.effective()
    merged = {name: value.detach().clone() for name, value in player.model.named_parameters()}
    base.policy.model  # noqa: B018  they do not change with what is merged
    assert list(effective) == list(merged)
    assert all(torch.equal(effective[name], value) for name, value in merged.items())
    for name, value in base.originals.items():
        names = Factors.of(name)
        expected = value + player.scaling * player.masters[names.up] @ player.masters[names.down]
        torch.testing.assert_close(effective[name], expected.detach(), atol=1e-6, rtol=1e-5)
    twin = player.copy()
    assert torch.equal(twin.measure(batch, 100), player.measure(batch, 100))
    twin.assign({name: 2 * value.detach() for name, value in twin.masters.items()})
    assert not torch.equal(twin.measure(batch, 100), player.measure(batch, 100))


def test_a_recorder_keeps_the_factors_of_a_step_and_no_matrices(tmp_path: Path, monkeypatch) -> None:
    """The measures are those of copies of all weights; matrices are merged only to be measured."""
    base = shared()
    player, computed, real = moved(base), [], lora.merged

    def merged(original, factors, name, *more):
        computed.append(name)
        return real(original, factors, name, *more)

    factors, copies = (Recorder(tmp_path / name, every=3, base=base.policy.effective(), keeps_base=True) for name in ("factors", "copies"))
    monkeypatch.setattr(lora, "merged", merged)
    counts = []
    for step in (1, 2, 3):
        player.assign({name: value.detach() + 0.01 * step for name, value in player.masters.items()})
        copies.step(step, {name: value.clone() for name, value in player.effective().items()}, {})
        computed.clear()
        factors.step(step, player.effective(), {})
        counts.append(len(computed))
    assert counts == [0, 0, 2 * len(base.originals)]
    kept, copied = (json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("factors", "copies"))
    assert kept["step_norm"] > 0
    assert {key: value for key, value in kept.items() if "time" not in key} == {
        key: value for key, value in copied.items() if "time" not in key
    }


def test_factors_at_the_start() -> None:
    base = shared()
    one, same, other = LoraPolicy(base, 4, seed=3), LoraPolicy(base, 4, seed=3), LoraPolicy(base, 4, seed=3, number=1)
    assert one.scaling == 2.0
    assert LoraPolicy(base, 4, alpha=4).scaling == 1.0
    for name in base.originals:
        names = Factors.of(name)
        down = one.masters[names.down]
        bound = down.shape[1] ** -0.5
        assert 0.8 * bound < down.abs().max() <= bound
        assert torch.equal(down, same.masters[names.down])
        assert not torch.equal(down, other.masters[names.down])
        assert not one.masters[names.up].any()
    assert len(base.originals) == 14
    assert not any("lm_head" in name or "embed" in name for name in base.originals)


def test_chosen_modules() -> None:
    base = SharedBase(Policy(llama(), tiny.build_tokenizer()), ["q_proj", "v_proj"])
    assert list(base.originals) == [f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qv"]
    with base.freezing():
        assert {name for name, value in base.policy.model.named_parameters() if value.requires_grad} == set(base.originals)


def test_bad_input() -> None:
    base = shared()
    with pytest.raises(
        InputError, match=r"^--lora-rank 33: is larger than a side of model.layers.0.self_attn.q_proj.weight, 32 x 32; use at most 32$"
    ):
        LoraPolicy(base, 33)
    with pytest.raises(InputError, match="--lora-rank 0: must be at least 1"):
        LoraPolicy(base, 0)
    with pytest.raises(InputError, match="--lora-alpha 0: must be above 0"):
        LoraPolicy(base, 2, 0.0)
    with pytest.raises(InputError, match="--master-dtype bfloat16: LoRA needs float32, because small updates would be rounded away"):
        SharedBase(Policy(llama(), tiny.build_tokenizer(), "bfloat16"))
    with pytest.raises(InputError, match=r"no linear layer of LlamaForCausalLM has this name \(down_proj, gate_proj, k_proj, o_proj, "):
        SharedBase(Policy(llama(), tiny.build_tokenizer()), ["c_attn"])
    with pytest.raises(InputError, match=r"GPT2LMHeadModel has no layers of torch.nn.Linear beside its output head"):
        SharedBase(Policy(gpt2(), tiny.build_tokenizer()))


def saved(player: LoraPolicy, folder: Path) -> Path:
    save_folder(folder, player.save)
    return folder


def test_adapters_keep_their_bits(tmp_path: Path) -> None:
    base = shared()
    player = moved(base, rank=3)  # alpha / rank is no power of two
    player.scaling, player.alpha = 7 / 3, 7.0
    again = lora.load(saved(player, tmp_path / "adapter"), base)
    assert again.scaling == player.scaling
    assert again.rank == 3
    assert again.masters.keys() == player.masters.keys()
    assert all(torch.equal(value, player.masters[name]) for name, value in again.masters.items())


def test_peft_computes_the_same(tmp_path: Path, batch: Batch) -> None:
    peft = pytest.importorskip("peft")
    player = moved(shared())
    folder = saved(player, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(llama(), folder).eval()
    loaded = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(loaded) == len(player.masters)
    expected = log_probabilities(model, batch).detach()
    torch.testing.assert_close(player.logprobs_of(batch, 100), expected, atol=2e-5, rtol=1e-5)
    assert (expected - shared().policy.logprobs_of(batch, 100)).abs().max() > 0.1
    for name, value in model.named_parameters():
        value.requires_grad_("lora_" in name)
    weights = torch.from_numpy(np.repeat(batch.advantages, batch.lengths)) / batch.lengths.sum()
    (-(weights * log_probabilities(model, batch))).sum().backward()
    gradient(player, batch, CONFIG, Before())
    player.move_gradients()
    theirs = {name.replace(".default", ""): value.grad for name, value in model.named_parameters() if "lora_" in name}
    for name, value in player.masters.items():
        torch.testing.assert_close(value.grad, theirs[lora.PEFT_PREFIX + name], atol=1e-6, rtol=1e-4, msg=name)


def test_peft_loads_some_of_several_equal_names(tmp_path: Path) -> None:
    """A base with factors on one layer's q_proj only is saved with whole names."""
    peft = pytest.importorskip("peft")
    base = SharedBase(Policy(llama(), tiny.build_tokenizer()), ["q_proj"])
    name = "model.layers.1.self_attn.q_proj.weight"
    base.originals = {name: base.originals[name]}
    player = moved(base)
    model = peft.PeftModel.from_pretrained(llama(), saved(player, tmp_path / "adapter"))
    assert [key for key, _ in model.named_parameters() if "lora_A" in key] == [f"base_model.model.{name[:-7]}.lora_A.default.weight"]


def test_the_measures_read_an_adapter(tmp_path: Path) -> None:
    base = shared()
    save_folder(tmp_path / "base", base.policy.save)
    player = moved(base, size=0.3)
    comparison = sparsity.compare(str(tmp_path / "base"), str(saved(player, tmp_path / "adapter")))
    assert len(comparison.adapters) == len(base.originals)
    effective = player.effective()
    expected = sum(float(((effective[name] - value) ** 2).double().sum()) for name, value in base.policy.masters.items()) ** 0.5
    assert comparison.total.update_norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("size", r"is an adapter of another base: its update of \S+ is 48 x 96, the matrix 32 x 64$"),
        ("layers", r"is an adapter of another base: the adapter has LoRA on model.layers.2.mlp.down_proj.weight, the base does not$"),
        ("fewer", r"is an adapter of another base: the base has LoRA on model.layers.1.self_attn.q_proj.weight, the adapter does not$"),
        ("settings", r"adapter: model.layers.0.mlp.down_proj has rank 3, adapter_config.json says 4$"),
        ("patterns", r"adapter: has ranks or scalings that differ between matrices; a player has one of each$"),
        ("nothing", r"neither adapter_model.safetensors nor adapter_model.bin$"),
    ],
)
def test_an_adapter_that_does_not_fit(tmp_path: Path, change: str, said: str) -> None:
    sizes = {"size": {"hidden_size": 48, "intermediate_size": 96}, "layers": {"num_hidden_layers": 3}, "fewer": {"num_hidden_layers": 1}}
    folder = saved(moved(shared(lambda: llama(**sizes.get(change, {})))), tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    if change == "settings":
        settings["r"] = 4
    if change == "patterns":
        settings["alpha_pattern"] = {"q_proj": 1}
    if change == "nothing":
        (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=said):
        lora.load(folder, shared())


def test_only_plain_adapters_are_players(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = shared()
    save_folder(tmp_path / "base", base.policy.save)
    with pytest.raises(InputError, match="is no adapter of PEFT"):
        lora.load(tmp_path / "base", base)
    settings = peft.LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    peft.get_peft_model(llama(), settings).save_pretrained(tmp_path / "more")
    with pytest.raises(InputError, match="trains more than the factors of linear layers"):
        lora.load(tmp_path / "more", base)
    peft.get_peft_model(llama(), replace(settings, modules_to_save=None)).save_pretrained(tmp_path / "theirs")
    assert lora.load(tmp_path / "theirs", base).rank == 2

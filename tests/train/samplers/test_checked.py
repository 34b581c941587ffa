"""A sampler beside the trainer: what it draws is used if its weights and arithmetic are the trainer's, and stops the run if not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynamics.errors import InputError
from dynamics.train import config as settings
from dynamics.train import loop, policy
from dynamics.train.batch import Batch
from dynamics.train.completions import Request
from dynamics.train.samplers import transformers
from dynamics.train.samplers.checked import LIMITS, Checked, Movement, Row
from dynamics.train.sampling import sample
from train.helpers import contents


class Copy:
    """A faithful sampler: a copy of the model, to which the weights are brought."""

    name = "copy"
    holds = "float32"
    hotter = 1.0
    forgets: tuple[str, ...] = ()
    delay = 0

    def __init__(self):
        self.model = None
        self.waiting = []
        self.loads = 0

    def load(self, of):
        self.loads += 1
        values = {name: value.detach().clone() for name, value in of.effective().items()}
        if self.model is None:
            self.model = policy.Policy(policy.copy.deepcopy(of.model), of.tokenizer, "float32", self.holds)
            move(self.model, 0.5)  # as long as it has taken no weights, it has others
        values = {name: value for name, value in values.items() if not name.endswith(self.forgets or "-")}
        self.waiting.append(values)
        if len(self.waiting) > self.delay:
            with torch.no_grad():
                for name, value in self.waiting.pop(0).items():
                    self.model.masters[name].copy_(value)

    def draw(self, request, eos):
        hot = tuple(temperature * self.hotter for temperature in request.temperatures)
        groups = transformers.sample(self.model, replace(request, temperatures=hot))
        greedy = [not temperature for temperature in request.temperatures]
        return [
            [replace(one, logprobs=self.measure([prompt], [one.ids])[0]) if zero else one for one, zero in zip(group, greedy, strict=True)]
            for prompt, group in zip(request.prompts, groups, strict=True)
        ]

    def score(self, prompts, completions):
        positions = self.model.model.config.max_position_embeddings
        assert all(len(prompt) + len(ids) < positions for prompt, ids in zip(prompts, completions, strict=True))
        return self.measure(prompts, completions)

    def measure(self, prompts, completions):
        blank = [""] * len(prompts)
        batch = Batch(prompts, completions, np.arange(len(prompts)), np.ones(len(prompts)), blank, blank, blank)
        values = self.model.measure_here(batch, 1000)[0].numpy()
        return np.split(values, np.cumsum(batch.lengths)[:-1])

    def describe(self):
        return {"name": "copy", "version": "1"}

    def close(self):
        self.model = None


def stale_load(self, of):
    """Take weights once only."""
    if self.model is None:
        self.model = of.copy()


def wrong(**how):
    return type("Wrong", (Copy,), how)()


def policy_of(base, compute="float32"):
    return policy.load(str(base), "cpu", "float32", compute)


def request(seed=0, **more):
    prompts = [np.array(ids, np.int64) for ids in ([5, 6, 7, 8], [9, 10], [11, 12, 13])]
    return replace(Request(prompts, (1.0, 1.0, 0.5, 0.0), 24, seed, "test"), **more)


def move(of, size=0.1):
    with torch.no_grad():
        for number, value in enumerate(of.masters.values()):
            value += size * value.std() * torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
    of.update_model()


def test_draws_what_the_model_itself_does(base):
    of = policy_of(base)
    own = sample(of, request())
    of.sampler = checked = Checked(Copy(), 1280)
    for given, expected in zip(sample(of, request()), own, strict=True):
        for one, other in zip(given, expected, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.logprobs.tolist() == other.logprobs.tolist()
            assert one.ended == other.ended
    measured = checked.measured()
    assert measured["time/syncs"] == 1
    assert measured["sampler/checked_max_difference"] < 1e-5
    assert measured["sampler/checked_tokens"] > 30
    assert checked.measured() == {}


def test_takes_weights_when_they_change_and_when_another_policy_is_asked(base):
    one = policy_of(base)
    one.sampler = checked = Checked(Copy(), 1280)
    two = one.copy()
    assert two.sampler is checked
    move(two)
    for of, loads in ((one, 1), (one, 1), (two, 2), (one, 3)):
        sample(of, request())
        assert checked.backend.loads == loads
    move(one)
    sample(one, request())
    assert checked.backend.loads == 4


@pytest.mark.parametrize(
    ("how", "compute"),
    [
        ({"delay": 1}, "float32"),
        ({"delay": 1}, "bfloat16"),
        ({"forgets": ("embed_tokens.weight",)}, "float32"),
        ({"forgets": ("layers.0.mlp.down_proj.weight",)}, "float32"),
    ],
)
def test_stops_at_weights_that_are_not_those_of_the_trainer(base, how, compute):
    of = policy_of(base, compute)
    of.sampler = Checked(wrong(holds=compute, **how), 1280)
    with pytest.raises(InputError, match=r"copy: its log-probabilities differ from the trainer's by .* tokens that it drew"):
        sample(of, request())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_step_that_rounding_hides_is_seen_by_how_log_probabilities_move(base, compute):
    of = policy_of(base, compute)
    of.sampler = stale = Checked(wrong(holds=compute, load=stale_load), 1280)
    sample(of, request())
    move(of, {"float32": 1e-4, "bfloat16": 3e-3}[compute])
    rows = [
        Row(prompt, one.ids, one.logprobs, temperature or 1.0)
        for prompt, group in zip(request().prompts, stale.backend.draw(request(), of.eos), strict=True)
        for one, temperature in zip(group, request().temperatures, strict=True)
    ]
    found = stale.difference(of, rows)
    assert found.mean < LIMITS[compute].mean
    assert found.largest < LIMITS[compute].largest
    with pytest.raises(InputError, match=r"has not taken the weights of the trainer: .* its own have by -?0 \(standard error"):
        sample(of, request(2))


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e-5, 1e-3, 1e-1])
def test_a_sampler_that_takes_the_weights_moves_as_the_trainer_does(base, compute, size):
    of = policy_of(base, compute)
    of.sampler = checked = Checked(wrong(holds=compute), 1280)
    for seed in range(3):
        sample(of, request(seed))
        move(of, size)
    if compute == "float32" or size > 1e-2:
        assert abs(checked.movement.slope - 1) < 0.2
    assert not checked.movement.stale


def test_movement_of_weights_that_did_not_change_says_nothing():
    zeros, ones = np.zeros(3), np.ones(3)
    assert Movement.of([zeros], [ones]) is None
    assert Movement.of([ones, ones], [zeros, zeros]) == Movement(0.0, 0.0)
    assert Movement(0.0, 0.0).stale
    assert not Movement(0.1, 0.2).stale
    noise = np.random.default_rng(0).normal(size=(400, 5))
    faithful = Movement.of(list(0.2 * noise), list(0.2 * noise + np.random.default_rng(1).normal(size=(400, 5))))
    assert abs(faithful.slope - 1) < 3 * faithful.error
    assert 0.08 < faithful.error < 0.16  # 1 / (0.2 sqrt(2000)) = 0.11


@pytest.mark.parametrize("how", [{"hotter": 1.2}, {"holds": "bfloat16"}])
def test_stops_at_another_arithmetic(base, how):
    of = policy_of(base)
    of.sampler = Checked(wrong(**how), 1280)
    with pytest.raises(InputError, match="its log-probabilities differ"):
        sample(of, request())


def test_stops_at_log_probabilities_that_are_no_numbers(base):
    of = policy_of(base)
    broken = Copy()
    of.sampler = Checked(broken, 1280)
    draw = broken.draw
    broken.draw = lambda *asked: [[replace(one, logprobs=one.logprobs * np.float32("nan")) for one in group] for group in draw(*asked)]
    with pytest.raises(InputError, match="by nan on average"):
        sample(of, request())


def test_truncated_samples_are_checked_by_others(base):
    of = policy_of(base)
    of.sampler = checked = Checked(Copy(), 1280)
    own = transformers.sample(of, request(top_k=3))
    for given, expected in zip(sample(of, request(top_k=3)), own, strict=True):
        assert [one.ids.tolist() for one in given] == [one.ids.tolist() for one in expected]
    assert checked.measured()["sampler/checked_max_difference"] < 1e-5
    of.sampler = Checked(wrong(hotter=1.2), 1280)
    with pytest.raises(InputError, match="its log-probabilities differ"):
        sample(of, request(top_k=3))


@pytest.mark.parametrize("limit", [1, 2, 24])
def test_completions_up_to_the_last_position_are_checked(base, limit):
    of = policy_of(base)
    of.sampler = checked = Checked(Copy(), 1280)
    prompt = 5 + np.arange(of.model.config.max_position_embeddings - limit) % 20
    for _ in range(2):
        sample(of, request(prompts=[prompt], limit=limit))
        move(of)
        assert checked.measured()["sampler/checked_tokens"] >= 1


def test_too_long_a_prompt_is_named(base):
    of = policy_of(base)
    of.sampler = Checked(Copy(), 1280)
    with pytest.raises(InputError, match="prompt 1: 1000 tokens"):
        sample(of, request(prompts=[np.array([5]), np.full(1000, 5)]))


SMALL = settings.RLVRConfig(
    steps=2,
    threads=1,
    num_problems=8,
    prompts_per_step=2,
    group_size=4,
    probe_every=0,
    eval_problems=3,
    eval_samples=2,
    eval_temperatures=(1.0, 0.0),
    validate_every=1,
    validation_problems=3,
    save_every=1,
)


@pytest.fixture
def small(base):
    return replace(SMALL, model=str(base))


def without_sampler(out):
    found = contents(out)
    for row in found["metrics.jsonl"]:
        for name in [name for name in row if name.startswith("sampler/checked")]:
            del row[name]
    return found


def test_a_run_with_a_faithful_sampler_is_the_run_without(small, tmp_path):
    loop.run("rlvr", small, tmp_path / "own")
    loop.run("rlvr", small, tmp_path / "copy", sampler=Checked(Copy(), 1280))
    assert without_sampler(tmp_path / "copy") == without_sampler(tmp_path / "own")
    document = json.loads((tmp_path / "copy" / "run.json").read_text())
    assert document["sampler"] == {"name": "copy", "version": "1"}
    assert document["sampled_by"] == "copy"
    assert document["base_samples"] == "sampled by this run"
    own = json.loads((tmp_path / "own" / "run.json").read_text())
    assert "sampler" not in own
    row = json.loads((tmp_path / "copy" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["sampler/checked_max_difference"] < 1e-5
    assert {"time/syncs", "time/sync_seconds", "time/check_seconds"} <= set(row)


def test_a_stale_sampler_stops_the_run(base, tmp_path):
    config = settings.SFTConfig(
        str(base), steps=3, threads=1, num_problems=8, batch_size=4, learning_rate=0.03, warmup_steps=0, probe_every=0, eval_problems=0,
        validate_every=1, validation_problems=4,
    )  # fmt: skip
    with pytest.raises(InputError, match="copy: has not taken the weights of the trainer"):
        loop.run("sft", config, tmp_path / "run", sampler=Checked(wrong(load=stale_load), 1280))
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["status"] == "failed"


def test_a_resumed_run_has_the_sampler_that_it_began_with(small, tmp_path):
    class Stop(Exception):
        pass

    def stop(step, _):
        raise Stop

    out = tmp_path / "run"
    with pytest.raises(Stop):
        loop.run("rlvr", small, out, on_step=stop, sampler=Checked(Copy(), 1280))
    with pytest.raises(InputError, match="was started with --sampler copy, not transformers, which draws other samples"):
        loop.run("rlvr", small, out, resume=True)
    newer = Copy()
    newer.describe = lambda: {"name": "copy", "version": "2"}
    loop.run("rlvr", small, out, resume=True, sampler=Checked(newer, 1280))
    document = json.loads((out / "run.json").read_text())
    assert document["sampler"] == {"name": "copy", "version": "2"}
    assert "sampling by copy 2 from here on, before by copy 1: the samples may be others" in document["notes"]
    loop.run("rlvr", small, tmp_path / "straight", sampler=Checked(Copy(), 1280))
    assert contents(out) == contents(tmp_path / "straight")

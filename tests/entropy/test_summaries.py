"""Summaries of traces: bounds, forking tokens, the fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.entropy import bounds, by_token, change_by_percentile, fit, forking, summary
from dynamics.errors import InputError


@given(st.integers(2, 60), st.integers(1, 20), st.floats(0.1, 8), st.integers(0, 2**31))
def test_bounds_hold(size, k, spread, seed):
    k = min(k, size)
    z = np.random.default_rng(seed).normal(0, spread, size)
    log_p = np.sort(z - np.log(np.exp(z).sum()))[::-1]
    entropy = -(np.exp(log_p) * log_p).sum()
    bounded = bounds(log_p[None, :k], size)
    assert bounded.low[0] <= entropy + 1e-9
    assert entropy <= bounded.high[0] + 1e-9
    whole = bounds(log_p[None], size)
    assert whole.low[0] == pytest.approx(entropy, abs=1e-9)
    assert whole.high[0] == pytest.approx(entropy, abs=1e-6)


def test_bounds_are_reached():
    """A tail that is spread evenly, and a tail in as few tokens as possible, attain the bounds."""
    even = np.log([0.5] + [0.5 / 99] * 99)
    assert bounds(even[None, :1], 100).high[0] == pytest.approx(-(np.exp(even) * even).sum())
    packed = np.log([0.3, 0.3, 0.3, 0.1])
    assert bounds(packed[None, :1], 50).low[0] == pytest.approx(-(np.exp(packed) * packed).sum())


def test_bounds_of_a_ragged_list():
    bounded = bounds([[np.log(0.9), np.nan], [np.log(0.5), np.log(0.5)]], 10)
    assert bounded.low[0] > 0
    assert bounded.low[1] == pytest.approx(np.log(2))
    for values, vocabulary, message in (([[0.0, 0.0]], 10, "more than 1"), ([[-1.0, -2.0]], 1, "is less than the 2")):
        with pytest.raises(InputError, match=message):
            bounds(values, vocabulary)


def test_bounds_of_what_a_server_wrote(tmp_path, capsys):
    import json

    from dynamics import entropy
    from dynamics.entropy.__main__ import cli

    tops = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3.0}]
    chat = {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": tops}] * 3}}]}
    completion = {"choices": [{"logprobs": {"tokens": ["a"], "top_logprobs": [{"a": -0.1, "b": -3.0}]}}]}
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(chat) + "\n" + json.dumps(completion) + "\n")
    assert entropy.read_logprobs(str(path)) == [[-0.1, -3.0]] * 4
    assert cli(["logprobs", str(path), "--vocabulary", "1000", "--json", str(tmp_path / "o.json")]) == 0
    assert "bounds from the most likely tokens, not an estimate" in capsys.readouterr().out
    document = json.loads((tmp_path / "o.json").read_text())
    expected = bounds([[-0.1, -3.0]], 1000)
    assert document["mean_entropy"] == {"low": pytest.approx(expected.low[0]), "high": pytest.approx(expected.high[0])}
    assert cli(["logprobs", str(path)]) == 2
    path.write_text('{"choices": []}\n')
    assert cli(["logprobs", str(path), "--vocabulary", "10"]) == 2


@given(st.lists(st.sampled_from([0.0, 0.0, 0.1, 1.0, 2.0, np.nan]), min_size=1, max_size=40), st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_forking_is_exactly_the_share(values, share):
    marked = forking(values, share)
    known = np.asarray(values)[~np.isnan(values)]
    assert marked.mask.sum() == int(np.ceil(share * len(known) - 1e-9))
    if len(known):
        chosen = np.sort(np.asarray(values)[marked.mask])[::-1]
        assert np.array_equal(chosen, np.sort(known)[::-1][: len(chosen)])
        assert marked.ties == (known == marked.threshold).sum() - (chosen == marked.threshold).sum()


def test_the_fit_finds_its_own_coefficients(rng):
    entropy = rng.uniform(0.05, 1, 40)
    held = 0
    for _ in range(200):
        reward = -0.3 * np.exp(entropy) + 0.9 + rng.normal(0, 0.02, 40)
        fitted = fit(entropy, reward)
        held += fitted.a_interval[0] <= 0.3 <= fitted.a_interval[1]
        assert fitted.ceiling == pytest.approx(fitted.b - fitted.a)
    assert 0.90 <= held / 200 <= 0.99
    exact = fit(entropy, -0.3 * np.exp(entropy) + 0.9)
    assert (exact.a, exact.b) == (pytest.approx(0.3), pytest.approx(0.9))
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3])):
        with pytest.raises(InputError, match="a fit with an interval"):
            fit(x, y)


def table(rng, texts=30, length=50):
    values = np.abs(rng.normal(0, 1, texts * length)) * np.repeat(rng.random(texts), length)
    frame = pd.DataFrame({"text": np.repeat([f"t{i}" for i in range(texts)], length), "entropy": values})
    frame["prompt"] = np.tile(np.arange(length) < 10, texts)
    frame["token_id"] = np.tile(np.arange(length) % 7, texts)
    return frame.assign(token=frame["token_id"].astype(str), varentropy=values, surprisal=values, entropy_b=0.5 * values)


def test_the_summary(rng):
    tokens = table(rng)
    tokens.loc[0, "entropy"] = np.nan
    parts = summary(tokens).set_index("part")
    assert list(parts.index) == ["all", "prompt", "response"]
    assert parts.loc["all", "tokens"] == 1499
    assert parts.loc["all", "entropy"] == pytest.approx(tokens["entropy"].mean())
    assert parts.loc["all", "low"] < parts.loc["all", "entropy"] < parts.loc["all", "high"]
    assert parts.loc["all", "p50"] == pytest.approx(tokens["entropy"].median())
    assert parts.loc["all", "forking_overlap"] == 1
    assert parts.loc["all", "change"] == pytest.approx(-tokens["entropy"].mean() / 2)
    naive = 2 * 1.96 * tokens["entropy"].std() / np.sqrt(1499)
    assert parts.loc["all", "high"] - parts.loc["all", "low"] > 2 * naive  # tokens of a text are alike
    assert np.isnan(summary(tokens[tokens["text"] == "t1"])["low"].iloc[0])


def test_change_by_percentile(rng):
    changes = change_by_percentile(table(rng), 20)
    assert len(changes) == 20
    assert changes["tokens"].sum() == 1500
    assert (np.diff(changes["low"]) >= 0).all()
    assert changes["change"].iloc[-1] < changes["change"].iloc[0] <= 0


def test_by_token(rng):
    tokens = table(rng)
    ranked = by_token(tokens)
    assert len(ranked) == 7
    assert ranked["tokens"].sum() == 1500
    assert (np.diff(ranked["entropy"]) <= 0).all()
    assert ranked["change"].tolist() == pytest.approx((-ranked["entropy"] / 2).tolist())

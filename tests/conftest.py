"""Small generated checkpoints, and the environment of all tests."""

from __future__ import annotations

import os

# numpy and torch read this once, when they are imported. pytest-xdist runs a worker per core, so a worker needs one thread.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
for name in ("FORCE_COLOR", "COLUMNS"):  # output is that of a plain terminal with 80 columns
    os.environ.pop(name, None)
os.environ["DYNAMICS_PROGRESS"] = "0"  # progress lines on stderr depend on the speed of the machine
#: The user's cache, for tests with the fixture ``embedded_model``; empty for the default. Workers inherit it from the process that
#: starts them, which has already changed DYNAMICS_CACHE.
USERS_CACHE = os.environ.setdefault("DYNAMICS_USERS_CACHE", os.environ.get("DYNAMICS_CACHE", ""))
# Other tests must not need the embedded model, which takes minutes to make: in this folder it is not found and cannot be made.
os.environ["DYNAMICS_CACHE"] = os.path.join(os.devnull, "see tests/conftest.py")

import numpy as np
import pytest
from hypothesis import settings

#: Modules whose annotations are checked at every call during tests, including shapes and dtypes of arrays. Modules with nested functions
#: in frequently called functions are excluded: decorating these at each call takes longer than their work.
#: DYNAMICS_CHECK_TYPES=0 checks none.
CHECKED = [
    "dynamics.bootstrap",
    "dynamics.entropy.logprob_bounds",
    "dynamics.passk.crossing",
    "dynamics.passk.estimators",
    "dynamics.report.assembly",
    "dynamics.report.cache",
    "dynamics.report.section",
    "dynamics.report.updates",
    "dynamics.runs.open",
    "dynamics.runs.readers.looking",
    "dynamics.runs.readers.weights",
    "dynamics.runs.rollouts",
    "dynamics.sparsity.accumulate",
    "dynamics.sparsity.masks",
    "dynamics.spectra.linalg",
    "dynamics.spectra.randomized_svd",
    "dynamics.train.attention",
    "dynamics.train.objectives",
    "dynamics.train.token_metrics",
]
#: the same with DYNAMICS_CHECK_TYPES=all, as `make test-slow` does: checking these takes as long as the tests themselves
CHECKED_WHEN_SLOW = [
    "dynamics.checkpoints.adapter",
    "dynamics.entropy.logits",
    "dynamics.entropy.moments",
    "dynamics.entropy.summaries",
    "dynamics.passk.comparison",
    "dynamics.report.cells",
    "dynamics.report.change_points",
    "dynamics.report.collapse",
    "dynamics.report.completions",
    "dynamics.report.duplicates",
    "dynamics.report.files",
    "dynamics.report.kept_passes",
    "dynamics.entropy.kinds",
    "dynamics.report.labels",
    "dynamics.report.markdown",
    "dynamics.report.page",
    "dynamics.report.passes",
    "dynamics.report.plot_curves",
    "dynamics.report.plot_rollouts",
    "dynamics.report.plot_uncertainty",
    "dynamics.report.prompts",
    "dynamics.report.readable",
    "dynamics.report.run_texts",
    "dynamics.report.sections.configuration",
    "dynamics.report.sections.curves",
    "dynamics.report.sections.directions",
    "dynamics.report.sections.overlap",
    "dynamics.report.sections.passk",
    "dynamics.report.sections.rollouts",
    "dynamics.report.sections.uncertainty",
    "dynamics.report.sections.weights",
    "dynamics.report.terminal",
    "dynamics.report.token_means",
    "dynamics.report.trends",
    "dynamics.runs.completions",
    "dynamics.runs.directory",
    "dynamics.runs.logged_names",
    "dynamics.runs.nearby",
    "dynamics.runs.readers.hf_checkpoints",
    "dynamics.runs.readers.hf_completions",
    "dynamics.runs.readers.hf_files",
    "dynamics.runs.readers.hf_log",
    "dynamics.runs.readers.hf_trainer",
    "dynamics.runs.readers.logs",
    "dynamics.runs.readers.metric_names",
    "dynamics.runs.readers.open_instruct",
    "dynamics.runs.readers.openrlhf",
    "dynamics.runs.readers.own",
    "dynamics.runs.readers.prime_rl",
    "dynamics.runs.readers.settings",
    "dynamics.runs.readers.tensorboard_events",
    "dynamics.runs.readers.training_arguments",
    "dynamics.runs.readers.verl",
    "dynamics.runs.readers.wandb_files",
    "dynamics.runs.schema",
    "dynamics.runs.view",
    "dynamics.spectra.bounds",
    "dynamics.spectra.comparison",
    "dynamics.train.batch",
    "dynamics.train.evaluate",
    "dynamics.train.games.proposals",
    "dynamics.train.games.selfplay_metrics",
    "dynamics.train.kept_samples",
    "dynamics.train.methods.rlvr",
    "dynamics.train.policy",
    "dynamics.train.probe_prompts",
    "dynamics.train.opponent_rewards",
    "dynamics.train.proposer_rewards",
    "dynamics.train.samplers.transformers",
    "dynamics.train.tasks.prompt_formats",
    "dynamics.train.tiny.pretraining",
    "dynamics.train.update",
]
if (checked := os.environ.get("DYNAMICS_CHECK_TYPES", "1")) != "0":
    from jaxtyping import install_import_hook

    install_import_hook(CHECKED + (CHECKED_WHEN_SLOW if checked == "all" else []), "typechecking.checked")

settings.register_profile("untimed", deadline=None)  # the duration of an example depends on the machine
settings.load_profile("untimed")


@pytest.fixture
def embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a slow test use the embedded model in the user's cache, and make it there if needed."""
    if USERS_CACHE:
        monkeypatch.setenv("DYNAMICS_CACHE", USERS_CACHE)
    else:
        monkeypatch.delenv("DYNAMICS_CACHE")


@pytest.fixture(params=["float32", "bfloat16"])
def compute(request: pytest.FixtureRequest) -> str:
    """Return the dtype that a model computes in. bfloat16 by autocast runs on every CPU, with or without native arithmetic."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20251)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Make a small Llama-like float32 state dict and an update of it, in which a tenth of the weights changed."""
    shapes = {"model.embed_tokens.weight": (97, 24), "model.norm.weight": (24,), "lm_head.weight": (97, 24)}
    for layer in range(12):
        for name, shape in {
            "self_attn.q_proj": (24, 24),
            "self_attn.k_proj": (8, 24),
            "mlp.up_proj": (40, 24),
            "input_layernorm": (24,),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    base = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    tuned = {
        name: value + np.where(rng.random(value.shape) < 0.1, rng.normal(0, 1e-4, value.shape), 0).astype(np.float32)
        for name, value in base.items()
    }
    return base, tuned

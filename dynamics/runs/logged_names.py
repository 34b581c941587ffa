"""What the metrics of ``dynamics.runs.METRICS`` are called in the logs of a Trainer and of this project, for readers and for the recorder.

Nothing is imported, so that a recorder starts fast.
"""

from __future__ import annotations

#: before the name of what a recorder takes from its trainer's log under the trainer's own name
FROM_TRAINER = "trainer/"
#: metric -> names in the logs of TRL and of trainers built on it, the current ones first
TRAINER = {
    "reward": ("reward", "objective/scores"),
    "reward_std": ("reward_std",),
    "zero_variance": ("frac_reward_zero_std",),
    "held_out": ("eval_reward",),
    "loss": ("loss",),
    "held_out_loss": ("eval_loss",),
    "entropy": ("entropy", "policy/entropy_avg"),
    "kl": ("kl",),
    "length": ("completions/mean_length", "completion_length"),
    "truncated": ("completions/clipped_ratio", "completions/truncated_fraction"),
    "clip_fraction": ("clip_ratio/region_mean", "clip_ratio", "policy/clipfrac_avg"),
    "mismatch": ("sampling/sampling_logp_difference/mean",),
    "grad_norm": ("grad_norm",),
    "learning_rate": ("learning_rate", "lr"),
}
#: metric -> names in ``metrics.jsonl`` of this project and of its recorder, the current ones first
OWN = {
    "reward": ("reward",),
    "reward_std": ("reward_std", "group/std"),
    "zero_variance": ("group/zero_std",),
    "held_out": ("evals/: mean score", f"{FROM_TRAINER}eval_reward"),
    "loss": ("loss",),
    "held_out_loss": (f"{FROM_TRAINER}eval_loss",),
    "entropy": ("entropy",),
    "kl": ("kl",),
    "length": ("length/mean", "solver/length"),
    "truncated": ("length/truncated",),
    "clip_fraction": ("clip/low + clip/high",),
    "mismatch": ("sampler/kl", f"{FROM_TRAINER}sampling/sampling_logp_difference/mean"),
    "grad_norm": ("grad_norm",),
    "learning_rate": ("learning_rate",),
}
#: metrics that a Trainer logs as this project defines them. A recorder measures ``entropy`` itself, at another temperature;
#: ``clip_fraction`` is logged in two parts, and the others keep the trainer's names
_SAME = ("reward", "reward_std", "zero_variance", "loss", "kl", "length", "truncated", "grad_norm", "learning_rate")
#: name in the log of a Trainer -> name under which a recorder writes it; others get ``FROM_TRAINER`` before them
RECORDED = {TRAINER[metric][0]: OWN[metric][0] for metric in _SAME} | {
    "clip_ratio/low_mean": "clip/low",
    "clip_ratio/high_mean": "clip/high",
    "num_tokens": "tokens_seen",
}

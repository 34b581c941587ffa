"""Records the dynamics of a run, this project's or somebody else's: a line of ``metrics.jsonl`` a step, with what moved in the weights.

    with Recorder("runs/mine", every=10, base=dict(model.named_parameters())) as recorder:
        for step in range(1, steps + 1):
            ...
            recorder.step(step, model.named_parameters(), {"loss": loss, "grad_norm": norm})

In a trainer of transformers or TRL::

    trainer = GRPOTrainer(..., callbacks=[dynamics.recorder.callback("runs/grpo")])

Update sparsity is measured every so many steps, never by the clock, by the arithmetic of ``dynamics.sparsity``; the time that it takes is
counted in ``time/recorder_seconds``.
"""

from __future__ import annotations

from dynamics.recorder.recorder import Recorder, snapshot
from dynamics.recorder.trainer_callback import callback, recording

__all__ = ["Recorder", "callback", "recording", "snapshot"]

"""Record a training run, of this project or any other trainer: metrics of each step in ``metrics.jsonl``, with update sparsity.

    with Recorder("runs/mine", every=10, base=dict(model.named_parameters())) as recorder:
        for step in range(1, steps + 1):
            ...
            recorder.step(step, model.named_parameters(), {"loss": loss, "grad_norm": norm})

With a trainer of transformers or TRL::

    trainer = GRPOTrainer(..., callbacks=[dynamics.recorder.callback("runs/grpo")])

Update sparsity is computed by ``dynamics.sparsity`` every ``every`` steps, independent of time, so that runs are reproducible. The time
that it takes is recorded in ``time/recorder_seconds``. The callback also measures the entropy of the trained tokens, of prompts, and of
right and wrong completions, every ``entropy_every`` steps, that of fixed texts every ``probe_every`` steps, and ends with a report.

Under several ranks of ``torch.distributed`` (DDP, ``fully_shard``), rank 0 writes the numbers of the whole model, and each
measures what it holds.
"""

from __future__ import annotations

from dynamics.recorder.recorder import Recorder, snapshot
from dynamics.recorder.trainer_callback import callback, recording

__all__ = ["Recorder", "callback", "recording", "snapshot"]

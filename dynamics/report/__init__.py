"""Reports on training runs: one page from the output directory of a run.

    python -m dynamics.report runs/grpo
    python -m dynamics.report runs/sft runs/grpo --base Qwen/Qwen3-4B --out files

As a library::

    import dynamics.report.page

    run = dynamics.runs.open_run("runs/grpo")
    result = dynamics.report.report([run])
    result.to_dict()                       # every number, unrounded
    dynamics.report.page.page(result, dynamics.report.page.draw(result))  # HTML

Each section states a question, findings with their numbers and caveats, doubts, tables, figures and the commands that make its numbers
alone; see ``dynamics.report.section``.
"""

from __future__ import annotations

from dynamics.report.assembly import SCHEMA, Report, open_runs, report
from dynamics.report.section import Change, Finding, Options, Picture, Sample, Section, Table

__all__ = ["SCHEMA", "Change", "Finding", "Options", "Picture", "Report", "Sample", "Section", "Table", "open_runs", "report"]

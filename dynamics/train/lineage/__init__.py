"""The lineage of a run of PopuLoRA: who descends from whom."""

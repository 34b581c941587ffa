"""On which processes a batch is computed: one (``local``), or several that TRL and accelerate share it among (``trl``).

A method or game knows nothing of it: it samples from policies and returns batches. The process of rank 0 leads: it plays, judges, draws
random numbers and writes the run directory; the others follow (``ranks``).
"""

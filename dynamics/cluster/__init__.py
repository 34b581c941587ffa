"""Comparisons over several hosts: what a measure computes is cut into parts, computed anywhere, and put together in one order.

A measure says what there is to compute as a ``work.Work``: units, such as tensors or matrices, whose tallies do not depend on each other.
``parts`` deals the units to parts, writes the tallies of a part to a file and merges such files; ``scheduler`` has them computed by the
workers of a Dask scheduler. What is put together is the tally of every unit, in the order of one process, by the code of one process: so
the result equals that of one process in every field.
"""

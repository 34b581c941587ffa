"""The test sets of the triplets, and the splits of their programs."""

from __future__ import annotations

#: the test sets, equal parts of the test problems: pre-training programs of the embedded model on new inputs (seen), programs of neither
#: pre-training nor training (unseen), and deeper programs on larger values (ood, out of distribution)
TEST_SETS = ("seen", "unseen", "ood")
#: test set -> split of the programs that it draws from, see ``programs.split_of``
PROGRAMS_OF_TEST_SET = {"seen": "pretraining", "unseen": "test", "ood": "test"}

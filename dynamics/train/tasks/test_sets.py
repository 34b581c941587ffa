"""The test sets of the triplets: which programs each draws from."""

from __future__ import annotations

#: the test sets, equal parts of the test problems: programs of the embedded model's pre-training on other inputs (seen), programs that were
#: met nowhere before (unseen), and deeper ones on larger values (ood, out of distribution)
TEST_SETS = ("seen", "unseen", "ood")
#: test set -> split of the programs that it draws from, see ``programs.split_of``
PROGRAMS_OF_TEST_SET = {"seen": "pretraining", "unseen": "test", "ood": "test"}

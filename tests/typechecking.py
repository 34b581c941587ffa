"""Settings with which ``conftest.py`` checks annotations."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

#: an int is a float to the type checker too (PEP 484)
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

"""The examples in docstrings give the documented output; ``test_docs`` checks those of the README and the manual."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import dynamics


def _modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(dynamics.__path__, "dynamics.") if ".checkpoints.fsdp" not in module.name]


@pytest.mark.parametrize("name", [name for name in _modules() if not name.endswith("__main__")])
def test_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert doctest.testmod(module).failed == 0

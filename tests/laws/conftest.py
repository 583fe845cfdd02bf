"""A registry that takes one more method for the length of a test: how the laws are shown to catch a broken one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tempering.registry import METHODS, find


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type], None]:
    """Make a class of the test a registered method, named like the class in lower case."""

    def add(kind: str, cls: type) -> None:
        monkeypatch.setitem(METHODS[kind], cls.__name__.lower(), f"{cls.__module__}:{cls.__qualname__}")
        find.cache_clear()

    return add

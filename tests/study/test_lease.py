"""A driver that is gone is told from one that works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tempering.study.lease import gone, owner_name


def test_names_are_unique_and_this_process_is_not_gone() -> None:
    assert owner_name() != owner_name()
    assert not gone(owner_name())


def test_a_process_that_ended_is_gone() -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    assert gone(owner_name().replace(f"/{os.getpid()}/", f"/{done.stdout.strip()}/"))


@pytest.mark.parametrize("owner", ["another-machine/1/2", "me", ""])
def test_of_others_only_the_lease_tells(owner: str) -> None:
    assert not gone(owner)

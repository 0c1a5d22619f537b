"""Builds in tests are forked off one process. What a module builds for all its tests is built as users build it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.native.forked import Forking
from tinyrnn.targets import worker


@pytest.fixture(scope="session")
def forking() -> Iterator[Forking]:
    forking = Forking()
    yield forking
    forking.close()


@pytest.fixture(autouse=True)
def compile_in_forks(forking: Forking, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(os, "fork"):
        monkeypatch.setattr(worker, "subprocess", forking)

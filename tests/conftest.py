"""Fixtures of all tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache of compiled code for all workers of a run, unless TINYRNN_CACHE names another."""
    if "TINYRNN_CACHE" not in os.environ:
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        os.environ["TINYRNN_CACHE"] = str(shared / "tinyrnn-cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("TINYRNN_PROCESSES", "1")  # the workers are as many as cores

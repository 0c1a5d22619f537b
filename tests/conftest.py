"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os

import pytest


def pytest_collection_finish() -> None:
    """What is imported and collected stays: garbage is not looked for in it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache of compiled code for all workers of a run, unless TINYRNN_CACHE names another."""
    base, worker = tmp_path_factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    shared = base.parent if worker else base
    os.environ.setdefault("TINYRNN_CACHE", str(shared / "tinyrnn-cache"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started: each would read all sources again
    if worker:
        os.environ.setdefault("TINYRNN_PROCESSES", "1")  # the workers are as many as cores

"""Large pages on a CPU: when a process starts itself again, and that it does so once."""

import os
import subprocess
import sys

import pytest

from unified_fm.runtime import huge_pages


@pytest.fixture
def possible(monkeypatch):
    monkeypatch.setattr(huge_pages, "_glibc_knows", lambda: True)
    monkeypatch.setattr(huge_pages, "_kernel_gives", lambda: True)


def test_the_tunable_is_added_to_those_that_are_given(possible):
    found = huge_pages.environment({"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.a=2"})
    assert found["GLIBC_TUNABLES"] == "glibc.a=2:glibc.malloc.hugetlb=1"
    assert huge_pages.environment(found) is None  # so that it happens once


@pytest.mark.parametrize(
    "given",
    [
        {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        {"JAX_PLATFORMS": "cuda,cpu"},
        {"JAX_PLATFORMS": "tpu"},
    ],
)
def test_a_decision_and_accelerators_are_left_alone(possible, given):
    assert huge_pages.environment(given) is None


def test_nothing_is_done_where_it_would_be_of_no_use(possible, monkeypatch):
    monkeypatch.setattr(huge_pages, "_kernel_gives", lambda: False)
    assert huge_pages.environment({"JAX_PLATFORMS": "cpu"}) is None


def test_a_process_keeps_its_number_and_its_arguments():
    program = (
        "import os, sys; from unified_fm.runtime import huge_pages as h;"
        "h._glibc_knows = h._kernel_gives = lambda: True;"
        "print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:], flush=True);"
        "h.restart()"
    )
    given = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}
    command = [sys.executable, "-c", program, "a b", "--c"]
    out = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    first, second = out.splitlines()
    assert second == first.replace("  [", " glibc.malloc.hugetlb=1 [")

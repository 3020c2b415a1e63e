"""The log of a test, whatever ran before it."""

import logging

import pytest


@pytest.fixture(autouse=True)
def shown_log(caplog, monkeypatch):
    """Our lines reach caplog, also where a test has set up the log of a run before."""
    monkeypatch.setattr(logging.getLogger("unified_fm"), "propagate", True)
    caplog.set_level(logging.INFO, logger="unified_fm")

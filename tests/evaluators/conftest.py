"""Every evaluator that a test here runs must have said beforehand which metrics it yields."""

import pytest

from unified_fm import plugins


@pytest.fixture(autouse=True)
def _metrics_have_the_names_announced(monkeypatch):
    for name in plugins.names("evaluators"):
        cls = plugins.load("evaluators", name)
        monkeypatch.setattr(cls, "run", _checked(cls.run))


def _checked(run):
    def checked(self, apply, params):
        for metric in run(self, apply, params):
            # Metrics and terms of a loss are below its own name.
            known = [n for n in self.metric_names if f"{metric.name}/".startswith(f"{n}/")]
            assert known, f"{metric.name} is none of {self.metric_names}"
            yield metric

    return checked

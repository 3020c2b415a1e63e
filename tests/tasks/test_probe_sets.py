"""The table of probe sets: what every row must have, whatever it says."""

import pytest

from unified_fm.data.source import open_source
from unified_fm.tasks import probe_sets
from unified_fm.tasks.probe_sets import SETS


def test_the_18_sets_are_there_with_their_metrics():
    assert len(SETS) == 18
    per_class = {name for name, row in SETS.items() if row.metric == probe_sets.PER_CLASS}
    assert per_class == {"aircraft", "pets", "flowers", "caltech101"}
    assert {name: SETS[name].classes for name in ("imagenet", "sst", "gtsrb")} == {
        "imagenet": 1000,
        "sst": 2,
        "gtsrb": 43,
    }


@pytest.mark.parametrize("row", SETS.values(), ids=SETS)
def test_a_row_has_a_size_for_each_source_and_sources_that_exist_or_say_how_to_get_them(
    row, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(row.sizes) == len(row.sources)
    here = row.at(str(tmp_path))
    for source in here.sources:
        with pytest.raises((ValueError, OSError)) as caught:
            open_source(source)
        said = str(caught.value)
        assert "tfds build" in said or (f"{tmp_path}/" in said and "no such folder" in said)


def test_a_wrong_name_is_refused_with_the_nearest():
    assert [*probe_sets.chosen("pets,dtd")] == ["pets", "dtd"]
    assert len(probe_sets.chosen("all")) == 18
    with pytest.raises(ValueError, match="did you mean 'flowers'"):
        probe_sets.chosen("flower")

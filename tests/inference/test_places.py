"""What lies at a path, and what is said about a path where nothing does."""

import json

import pytest

from unified_fm import plugins
from unified_fm.inference import places


def write(folder, config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


RUN = {"model": {"name": "xfm"}, "streams": {}}


def test_a_run_its_checkpoints_and_one_of_them(tmp_path):
    run = write(tmp_path / "run", RUN)
    (run / "checkpoints" / "800").mkdir(parents=True)
    assert places.find(run).step is None
    for path, step in ((run / "checkpoints", None), (run / "checkpoints" / "800", 800)):
        found = places.find(path)
        assert (found.kind, str(found.folder), found.step) == (places.RUN, str(run), step)


def test_imported_weights_and_a_hugging_face_folder(tmp_path):
    imported = write(tmp_path / "imported", {"source": {}, "model": {"name": "bert"}})
    assert places.find(imported).kind == places.WEIGHTS
    assert places.find(write(tmp_path / "hf", {"model_type": "bert"})).kind == places.FOREIGN


def test_nothing_there_says_what_was_looked_for_and_the_nearest_name(tmp_path):
    write(tmp_path / "quickstart", RUN)
    with pytest.raises(FileNotFoundError) as caught:
        places.find(tmp_path / "quikstart")
    message = str(caught.value)
    assert f"did you mean {tmp_path}/quickstart?" in message
    assert "a workdir (config.json, checkpoints/)" in message and "Folders in" in message


def test_a_run_comes_before_other_folders_and_what_is_far_is_no_suggestion(tmp_path):
    (tmp_path / "requirements").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        places.find(tmp_path / "runs" / "first")
    assert f"there is no {tmp_path}/runs/first. Looked for" in str(caught.value)
    write(tmp_path / "quickstart_2", RUN)
    (tmp_path / "quickstarts").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        places.find(tmp_path / "quickstart")
    assert f"did you mean {tmp_path}/quickstart_2?" in str(caught.value)
    assert str(caught.value).endswith(f"in {tmp_path}: quickstart_2, quickstarts, requirements")


def test_a_folder_of_runs_names_them(tmp_path):
    write(tmp_path / "runs" / "first", RUN)
    with pytest.raises(ValueError, match="below it there are first"):
        places.find(tmp_path / "runs")


@pytest.mark.parametrize("config", [{"a": 1}, [], {"model": "xfm"}])
def test_another_config_says_what_it_has(tmp_path, config):
    with pytest.raises(ValueError, match="neither a run"):
        places.find(write(tmp_path / "x", config))


def test_a_damaged_config_is_named(tmp_path):
    folder = write(tmp_path / "x", {})
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        places.find(folder)


def test_a_file_alone_may_not_name_a_module_to_import(tmp_path):
    strange = {**RUN, "model": {"name": "elsewhere.model"}}
    folder = write(tmp_path / "x", strange)
    with pytest.raises(plugins.Unnamed, match=r"elsewhere\.model"):
        places.find(folder)
    assert places.find(folder, ("elsewhere",)).kind == places.RUN

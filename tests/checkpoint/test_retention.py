"""Removing what a failed save left, while one of its threads still writes there."""

import threading

from etils import epath

from unified_fm.checkpoint import retention


def test_a_folder_is_removed_although_a_thread_still_writes_into_it(tmp_path):
    folder = epath.Path(tmp_path / "5.orbax-checkpoint-tmp")
    stop, began = threading.Event(), threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(number)).write_text("")
            number += 1
            began.set()

    thread = threading.Thread(target=write)
    thread.start()
    began.wait()
    threading.Timer(0.3, stop.set).start()
    retention.remove_while_written(folder)
    stop.set()
    thread.join()
    retention.remove_while_written(folder)
    assert not folder.exists()


def test_a_folder_that_stays_is_a_warning_and_no_error(caplog, monkeypatch):
    class Stays:
        tries = 0

        def rmtree(self, missing_ok):
            self.tries += 1
            raise OSError(39, "Directory not empty")

        def __str__(self):
            return "checkpoints/5.orbax-checkpoint-tmp"

    monkeypatch.setattr(retention.time, "sleep", lambda seconds: None)
    folder = Stays()
    retention.remove_while_written(folder)
    assert folder.tries == 5
    assert "checkpoints/5.orbax-checkpoint-tmp could not be removed" in caplog.text

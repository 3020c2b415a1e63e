"""Compiled programs: as few as can be, and none of them kept for ever."""

import threading

import numpy as np

from unified_fm.inference import programs


def test_programs_of_many_lists_of_answers_do_not_pile_up(monkeypatch):
    made = []

    def make(program, place):
        made.append(place)
        return lambda *asked: {"logits": np.zeros((1, 2))}

    monkeypatch.setattr(programs.step, "make_predictions", make)
    asked = programs.Programs.__new__(programs.Programs)
    asked.batch_size, asked._predictions, asked._lock = 1, {}, threading.Lock()
    asked._program = asked._place = asked._params = None
    for number in [*range(40), 39, 25, 39]:
        asked.predict("task", "vqa", {"text": np.zeros((1, 3))}, key=number)
    assert len(made) == 40  # those of the last lists are there still
    assert len(asked._predictions) == 16
    assert list(asked._predictions)[-1] == ("task", "vqa", 39)

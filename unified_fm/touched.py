"""How often a test set has been looked at: a number that is looked at often is chosen by it.

    FOLDER/test_touched.json   {"demo:mnist/test": [{"date": "2026-11-02T10:07:31Z", "name": "test",
                                "step": 200, "checkpoint": "1f0c..."}]}

An entry is one evaluation, by however many evaluators. The folder is the workdir of a run, or that
of a scoreboard, whose entries name the cell in place of a step.
"""

import datetime
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from unified_fm.files import write_whole

FILE = "test_touched.json"

_log = logging.getLogger(__name__)
_TEST = re.compile(r"test(?![a-z])")  # test, test1, testA, test-P, test2015; never "tested"
_Entries = dict[str, list[dict[str, Any]]]


def is_test(name: str, source: str) -> bool:
    """Whether an evaluator looks at test data: by its own name, or by that of a split or a file.

    "demo:mnist/test", "nlvr2:data/nlvr2/test1.json", "karpathy:coco.json:test@data/coco" are test
    data, and so is anything that an evaluator called "test" reads. Of a path the last part counts.
    """
    if _TEST.match(name):
        return True
    for one in source.split("+"):
        last = one.partition("@")[0].rpartition("/")[2]
        if any(_TEST.match(word) for word in re.split(r"[^A-Za-z0-9]", last)):
            return True
    return False


def read(folder: Any) -> _Entries:
    """{source: its evaluations, the first one first}; empty where nothing is noted."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        return {str(source): [dict(one) for one in found[source]] for source in found}
    except (ValueError, TypeError) as error:
        _log.warning("%s is damaged, and the count begins anew: %s", path, error)
        return {}


def add(folder: Any, source: str, entry: Mapping[str, Any], *, once: str = "") -> int:
    """Notes an evaluation, with the date of now; gives how many there are of this source.

    Args:
        folder: a `pathlib.Path` or an `epath.Path`, which is there.
        source: of the test data.
        entry: what was evaluated.
        once: a key of the entry. If it was noted before with this value nothing is written, and if
            not, the evaluation was an earlier one, whose date nobody knows.

    Raises:
        OSError: it cannot be written.
    """
    found = read(folder)
    of_source = found.setdefault(source, [])
    if once and any(one.get(once) == entry[once] for one in of_source):
        return len(of_source)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    of_source.append({"date": None if once else now, **entry})
    write_whole(folder / FILE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return len(of_source)

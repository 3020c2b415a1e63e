import numpy as np

from unified_fm.data import identity
from unified_fm.data.skips import Skip


class _Source(list):
    def __getitem__(self, index):
        example = super().__getitem__(index)
        if example is None:
            raise Skip("unreadable", "file")
        return example


def _example(text="a", image="one/a.png", label=1):
    return {"text": [text, "\ud800"], "image": image, "label": np.int32(label), "x": np.eye(2)}


def test_C1_the_same_records_have_the_same_hash_and_others_another():
    same = identity.of_source(_Source([_example(), None]))
    assert identity.of_source(_Source([_example(image="other/mount/a.png"), None])) == same
    others = [
        [_example(), _example()],
        [_example()],
        [_example(text="b"), None],
        [_example(image="one/b.png"), None],
        [_example(image=b"encoded"), None],
        [_example(label=2), None],
    ]
    hashes = {identity.of_source(_Source(records)) for records in others}
    assert len(hashes) == len(others)
    assert same not in hashes

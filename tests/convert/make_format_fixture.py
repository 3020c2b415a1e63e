"""Writes `files/format_N.zip`, a small checkpoint of ours in the present format N.

Run once for every new format, before it changes again:
PYTHONPATH=. python tests/convert/make_format_fixture.py
"""

import pathlib
import tempfile
import zipfile

import numpy as np

from unified_fm.checkpoint import formats
from unified_fm.checkpoint import store as checkpoint

FILES = pathlib.Path(__file__).parent / "files"
KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
PARAMS = {
    "text": {
        "layer_00": {"mlp_in": {"kernel": KERNEL, "bias": np.ones(3, np.float32)}},
        "layer_01": {"mlp_in": {"kernel": KERNEL + 10, "bias": np.zeros(3, np.float32)}},
    },
    "temperature": np.float32(0.07),
}


def main():
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "checkpoint"
        checkpoint.save_params(folder, PARAMS)
        target = FILES / f"format_{formats.FORMAT}.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                # Orbax's notes say where the folder was, nothing reads them.
                if path.is_file() and path.name != "commit_success.txt":
                    info = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                    file.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()

"""The guide's Python 3.7, and 3.8, with the guide's numpy, Pillow and OpenCV: the same files as with this Python.

conftest.old_pythons() finds them; where there is none, the summary says so. CANN is the fake one, run by this Python.
"""
import os
import re
import subprocess
import sys

from conftest import SUITE, old_environment, old_pythons
from test_img_preprocess import kinds_of_jpeg
from test_run_all_cann import BENCHMARK, FAKES, PHOTOS, make_onnx, make_suite

import pytest

HERE = os.path.dirname(sys.executable)
WRITTEN = ("prep_dataset/*.bin", "xception.info", "result/dumpOutput_bs*/*.txt", "result_bs*.json", "details_bs*.csv")


@pytest.fixture(scope="module", params=sorted(old_pythons()))
def old(request):
    return old_environment(request.param)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the suite, tiny.onnx, and tools/: the fake CANN."""
    folder = tmp_path_factory.mktemp("old")
    make_suite(folder / "suite")
    make_onnx(folder / "tiny.onnx")
    (folder / "tools").mkdir()
    for name in ("atc", BENCHMARK, "npu-smi"):
        (folder / "tools" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKES / name}" "$@"\n')
        (folder / "tools" / name).chmod(0o755)
    return folder


def run(place, python, *command, status=0):
    environment = {"PATH": f"{place}/tools:{python}:/usr/bin:/bin", "HOME": str(place), "PIP_NO_INDEX": "1",
                   "FAKE_CANN_LOG": str(place / "calls.jsonl"), "FAKE_CANN_LABELS": str(PHOTOS / "val_label.txt"),
                   "FAKE_CANN_TOP1": "0.8", "ASCEND_INSTALL_PATH": str(place / "none"), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(list(map(str, command)), cwd=place, env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def files(folder, *patterns) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for pattern in patterns for path in folder.glob(pattern)}


def run_all(place, python, workdir, *options) -> str:
    return run(place, python, "bash", "suite/run_all.sh", "--weights=tiny.onnx", f"--datasets_path={PHOTOS.parent}",
               f"--workdir={workdir}", *options).stdout


@pytest.fixture(scope="module")
def expected(place):
    """What this Python writes, in the folder `new`."""
    run_all(place, HERE, "new")
    return files(place / "new", *WRITTEN)


def test_the_whole_run_writes_the_same_files(old, place, expected):
    work = old.parent.name
    assert "45 tensors in prep_dataset (45 made, 0 kept)" in run_all(place, old, work)
    assert len(expected) == 3 * 45 + 1 + 2 + 2
    assert files(place / work, *WRITTEN) == expected
    assert "45 tensors in prep_dataset (0 made, 45 kept)" in run_all(place, old, work)
    assert "PASSED" in run_all(place, old, work, "--aipp", "--batch_sizes=1")


def test_the_other_ways_of_running_it(old, place):
    checked = run_all(place, old, "work", "--check")
    assert "✗" not in checked
    assert f"✓ python: 3.{old.parent.name[-1]}." in checked
    listed = []
    for python in (old, HERE):
        run(place, python, "python3", "suite/gen_dataset_info.py", "jpg", PHOTOS / "val", "jpg.info")
        listed.append((place / "jpg.info").read_text())
    assert listed[0] == listed[1]
    for script in [*SUITE.glob("*.py"), *SUITE.glob("tools/*.py")]:
        if "parser_of(__doc__)" in script.read_text():
            run(place, old, "python3", script, "--help")
    refused = run(place, old, "python3", "suite/xception_pth2onnx.py", "w.pth", "out.onnx", status=4).stderr
    assert re.match(r"xception_pth2onnx.py: Python 3\.\d\.\d+: 3.9 or later is needed; export on another m", refused)


def test_jpegs_of_every_kind(old, place):
    images = kinds_of_jpeg(place / old.parent.name / "kinds")
    made = []
    for name, python in ((old.parent.name, old), ("new", HERE)):
        run(place, python, "python3", "suite/img_preprocess.py", images, place / name / "bins")
        made.append(files(place / name, "bins/*.bin"))
    assert len(made[1]) == len(list(images.iterdir()))
    assert [name for name in made[1] if made[0][name] != made[1][name]] == []

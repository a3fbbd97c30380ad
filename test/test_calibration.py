"""gen_calibration_bin.py: the files that amct_onnx calibrates with."""
import sys
from collections import Counter

from conftest import SUITE, run

import numpy as np
import pytest

SCRIPT = SUITE / "tools/gen_calibration_bin.py"
BYTES = 3 * 299 * 299 * 4


def make(folder, *words, status=0):
    done = run(sys.executable, SCRIPT, "prep", "cal", *words, cwd=folder, status=status)
    if status:
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1
        return done.stderr.removeprefix("gen_calibration_bin.py: ")
    rows = [line.split(" ") for line in (folder / "cal.txt").read_text().splitlines()]
    return done.stdout, rows


@pytest.fixture
def tensors(tmp_path):
    """12 tensors, each filled with its number, and their labels: six of class 0, three of 5, three of 7."""
    (tmp_path / "prep").mkdir()
    for number in range(12):
        np.full(BYTES // 4, number, "<f4").tofile(tmp_path / f"prep/i{number:02}.bin")
    (tmp_path / "labels").write_text("".join(f"i{n:02}.JPEG {0 if n < 6 else 5 if n < 9 else 7}\n" for n in range(12)))
    return tmp_path


def numbers(path):
    values = np.fromfile(path, "<f4").reshape(-1, BYTES // 4)
    assert (values == values[:, :1]).all()
    return values[:, 0].astype(int).tolist()


def test_bytes_are_those_of_the_tensors_listed(tensors):
    out, rows = make(tensors, "3", "2")
    assert out == "2 files of 3 tensors in cal: 6 of 12 images\n"
    assert sorted(path.name for path in (tensors / "cal").iterdir()) == ["img_bs3_0.bin", "img_bs3_1.bin"]
    for file in ("img_bs3_0.bin", "img_bs3_1.bin"):
        assert numbers(tensors / "cal" / file) == [int(name[1:]) for place, name in rows if place == file]
    assert len({name for _, name in rows}) == 6


def test_same_files_at_every_run_and_others_by_another_seed(tensors):
    first = make(tensors, "2", "2")
    before = {path.name: path.read_bytes() for path in (tensors / "cal").iterdir()}
    assert make(tensors, "2", "2") == first
    assert {path.name: path.read_bytes() for path in (tensors / "cal").iterdir()} == before
    assert make(tensors, "2", "2", "--seed=1")[1] != first[1]
    assert make(tensors, "4", "1")[0] == "1 files of 4 tensors in cal: 4 of 12 images\n"
    assert [path.name for path in (tensors / "cal").iterdir()] == ["img_bs4_0.bin"]  # and none of the earlier ones


@pytest.mark.parametrize(("number", "expected"), [(3, [1, 1, 1]), (6, [2, 2, 2]), (12, [3, 3, 6])])
def test_classes_are_drawn_evenly(number, expected, tensors):
    out, rows = make(tensors, str(number), "1", "--labels=labels")
    assert out.endswith("images, of 3 classes\n")
    labels = dict(line.split(".JPEG ") for line in (tensors / "labels").read_text().splitlines())
    assert sorted(Counter(labels[name] for _, name in rows).values()) == expected


def spoil(folder, change):
    if change == "uint8":
        (folder / "prep/manifest.json").write_text('{"complete": true, "count": 12, "recipe": {"dtype": "uint8"}}')
    elif change == "unfinished":
        (folder / "prep/manifest.json").write_text('{"complete": false, "recipe": {"dtype": "float32"}}')
    elif change == "size":
        (folder / "prep/i03.bin").write_bytes(bytes(7))
    elif change == "stranger":
        (folder / "cal").mkdir()
        (folder / "cal/notes.txt").touch()
    elif change == "label":
        (folder / "labels").write_text("i00.JPEG 1\n")


@pytest.mark.parametrize(("change", "words", "message"), [
    ("", ("5", "3"), "prep: 12 tensors, fewer than 3 files of 5; lower BATCH or COUNT, or make more tensors"),
    ("uint8", ("1", "1"), "prep: holds uint8 tensors; calibration takes those of the network itself"),
    ("unfinished", ("1", "1"), "prep: img_preprocess.py did not finish here; rerun it"),
    ("size", ("1", "1"), "prep/i03.bin: 7 bytes, expected 1,072,812 (3 x 299 x 299 float32); rerun img_preprocess.py"),
    ("stranger", ("1", "1"), "cal: holds other files (notes.txt), which amct_onnx would read; use an empty folder"),
    ("label", ("1", "1", "--labels=labels"), "11 of 12 tensors have no label: "),
])
def test_what_cannot_calibrate_is_refused(change, words, message, tensors):
    spoil(tensors, change)
    assert message in make(tensors, *words, status=3)
    assert not list(tensors.glob("cal/*.bin"))
    assert not (tensors / "cal.txt").exists()

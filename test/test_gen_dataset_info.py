"""gen_dataset_info.py: the info file byte by byte, and what must not be listed."""
import json
import os
import sys

from conftest import SUITE, run

import pytest
from PIL import Image

SCRIPT = SUITE / "gen_dataset_info.py"
BYTES = 3 * 5 * 4 * 4  # of a tensor of width 5 and height 4


@pytest.fixture
def info(tmp_path):
    """Run the script in tmp_path; return (stdout, stderr)."""
    def call(*words, status=0, env=None):
        result = run(sys.executable, SCRIPT, *words, cwd=tmp_path, status=status, env=env)
        assert not list(tmp_path.rglob("*.part"))
        return result.stdout, result.stderr
    return call


@pytest.fixture
def prep(tmp_path):
    """prep/ with c.bin, a.bin and b.bin of 3 x 4 x 5 float32."""
    return make_bins(tmp_path / "prep", "c.bin", "a.bin", "b.bin")


def make_bins(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(bytes(BYTES))
    return folder


def make_jpegs(folder, sizes):
    folder.mkdir()
    for name, size in sizes.items():
        Image.new("RGB", size).save(folder / name, "JPEG")
    return folder


MADE = {"recipe": {"dtype": "float32"}}  # of a manifest


def manifest(folder, **entries):
    (folder / "manifest.json").write_text(json.dumps(entries))


def refusal(info, tmp_path, *words, status=3):
    """The message of a failed run, which must be one line and must leave an earlier x.info as it was."""
    (tmp_path / "x.info").write_text("0 earlier 1 1\n")
    out, err = info(*words, status=status)
    assert out == ""
    assert err.startswith("gen_dataset_info.py: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert (tmp_path / "x.info").read_text() == "0 earlier 1 1\n"
    (tmp_path / "x.info").unlink()
    assert info(*words, status=status) == (out, err)
    assert not (tmp_path / "x.info").exists()
    return err[len("gen_dataset_info.py: "):-1]


# ---- what is written

def test_bin(info, prep, tmp_path):
    """Width before height."""
    assert info("bin", "./prep", "./x.info", "5", "4") == ("3 lines in x.info\n", "")
    assert (tmp_path / "x.info").read_bytes() == b"0 ./prep/a.bin 5 4\n1 ./prep/b.bin 5 4\n2 ./prep/c.bin 5 4\n"


def test_jpg(info, tmp_path):
    """One running index over all spellings; each photo with its own width, then height."""
    make_jpegs(tmp_path / "val", {"d.JPG": (9, 2), "b.jpeg": (3, 7), "a.jpg": (640, 480), "c.JPEG": (1, 1),
                                  "E.Jpeg": (8, 6)})
    Image.new("RGB", (4, 4)).save(tmp_path / "val/f.png")
    (tmp_path / "val/val_label.txt").write_text("a.jpg 1\n")
    assert info("jpg", "val", "x.info") == ("5 lines in x.info\n", "")
    assert (tmp_path / "x.info").read_bytes() == (
        b"0 val/E.Jpeg 8 6\n"
        b"1 val/a.jpg 640 480\n"
        b"2 val/b.jpeg 3 7\n"
        b"3 val/c.JPEG 1 1\n"
        b"4 val/d.JPG 9 2\n"
    )


def test_published_example(info, tmp_path):
    folder = tmp_path / "prep_dataset"
    folder.mkdir()
    for number in (2, 1):
        with open(folder / f"ILSVRC2012_val_{number:08}.bin", "wb") as file:
            file.truncate(1_072_812)
    info("bin", "./prep_dataset", "./xception.info", "299", "299")
    assert (tmp_path / "xception.info").read_bytes() == (
        b"0 ./prep_dataset/ILSVRC2012_val_00000001.bin 299 299\n"
        b"1 ./prep_dataset/ILSVRC2012_val_00000002.bin 299 299\n"
    )


@pytest.mark.parametrize("given, listed", [
    ("prep", "prep/"), ("./prep", "./prep/"), ("prep/", "prep/"), ("./prep//", "./prep//"),
    ("../run/prep", "../run/prep/"), ("{}/prep", "{}/prep/"), ("prep/.", "prep/./"),
])
def test_the_folder_is_kept_as_given(tmp_path, given, listed):
    (tmp_path / "run").mkdir()
    make_bins(tmp_path / "run/prep", "a.bin")
    given, listed = (text.format(tmp_path / "run") for text in (given, listed))
    run(sys.executable, SCRIPT, "bin", given, "x.info", "5", "4", cwd=tmp_path / "run")
    assert (tmp_path / "run/x.info").read_text() == f"0 {listed}a.bin 5 4\n"


def test_the_order_is_that_of_the_names(info, tmp_path):
    """By code point, not by number and not as the folder happens to list them."""
    make_bins(tmp_path / "prep", *(f"{i}.bin" for i in range(11, -1, -1)))
    info("bin", "prep", "x.info", "5", "4")
    names = [line.split()[1] for line in (tmp_path / "x.info").read_text().splitlines()]
    assert names == [f"prep/{i}.bin" for i in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)]


def test_only_bins_are_listed(info, prep, tmp_path):
    manifest(prep, complete=True, count=3, **MADE)
    for name in ("notes.txt", "d.bin.bak", "e.npy", ".bin"):
        (prep / name).write_text("x")
    assert info("bin", "prep", "x.info", "5", "4")[0] == "3 lines in x.info\n"
    lines = (tmp_path / "x.info").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["prep/a.bin", "prep/b.bin", "prep/c.bin"]


def test_a_photo_is_listed_as_it_is_stored(info, tmp_path):
    """EXIF rotation is not applied, here no more than in img_preprocess.py."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "val").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "val/a.jpg", exif=exif, progressive=True)
    Image.new("CMYK", (20, 30)).save(tmp_path / "val/b.jpg")
    info("jpg", "val", "x.info")
    assert (tmp_path / "x.info").read_text() == "0 val/a.jpg 30 20\n1 val/b.jpg 20 30\n"


def test_an_earlier_info_file_is_replaced(info, prep, tmp_path):
    (tmp_path / "x.info").write_text("0 earlier 1 1\n" * 100)
    info("bin", "prep", "x.info", "5", "4")
    assert (tmp_path / "x.info").read_text().splitlines()[2:] == ["2 prep/c.bin 5 4"]


def test_name_that_is_not_utf8_is_kept(info, tmp_path):
    make_bins(tmp_path / "prep", os.fsdecode(b"caf\xe9.bin"))
    info("bin", "prep", "x.info", "5", "4")
    assert (tmp_path / "x.info").read_bytes() == b"0 prep/caf\xe9.bin 5 4\n"


def test_bins_are_listed_without_pillow(info, prep, tmp_path):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/PIL.py").write_text("raise ImportError('no Pillow')")
    env = {"PYTHONPATH": str(tmp_path / "fake")}
    assert info("bin", "prep", "x.info", "5", "4", env=env)[0] == "3 lines in x.info\n"


# ---- what is refused

@pytest.mark.parametrize("words", [
    (), ("bin",), ("bin", "prep"), ("bin", "prep", "x.info"), ("bin", "prep", "x.info", "5"),
    ("bin", "prep", "x.info", "5", "4", "3"), ("jpg", "prep"), ("jpg", "prep", "x.info", "5", "4"),
    ("png", "prep", "x.info"), ("bin", "prep", "x.info", "5", "0"), ("bin", "prep", "x.info", "-5", "4"),
    ("bin", "prep", "x.info", "5", "4.0"), ("prep", "x.info", "5", "4"),
], ids=" ".join)
def test_usage_errors(info, prep, tmp_path, words):
    out, err = info(*words, status=2)
    assert out == ""
    assert err.startswith("usage: gen_dataset_info.py")
    assert not (tmp_path / "x.info").exists()


@pytest.mark.parametrize("size", [0, BYTES - 1, BYTES + 1, BYTES // 4])
def test_a_bin_of_wrong_size(info, prep, tmp_path, size):
    (prep / "b.bin").write_bytes(bytes(size))
    assert refusal(info, tmp_path, "bin", "prep", "x.info", "5", "4") == (
        f"prep/b.bin: {size} bytes, expected 240 (3 x 4 x 5 float32); rerun img_preprocess.py")


def test_empty_folders(info, tmp_path):
    (tmp_path / "prep").mkdir()
    (tmp_path / "prep/a.png").write_text("x")
    assert refusal(info, tmp_path, "bin", "prep", "x.info", "5", "4") == "prep: contains no .bin file"
    assert refusal(info, tmp_path, "jpg", "prep", "x.info") == "prep: contains no .jfif or .jpe or .jpeg or .jpg file"


def test_no_folder(info, tmp_path):
    message = refusal(info, tmp_path, "bin", "prep", "x.info", "5", "4", status=4)
    assert message == "prep: No such file or directory"


@pytest.mark.parametrize("kind, words", [("bin", ("5", "4")), ("jpg", ())])
def test_white_space(info, tmp_path, kind, words):
    def fill(folder, name):
        return make_bins(folder, name) if kind == "bin" else make_jpegs(folder, {name: (5, 4)})

    fill(tmp_path / "my data", f"a.{kind}")
    assert refusal(info, tmp_path, kind, "my data", "x.info", *words) == (
        "'my data': white space in the path, at which the benchmark splits it; rename the folder")
    fill(tmp_path / "prep", f"a\tb.{kind}")
    assert refusal(info, tmp_path, kind, "prep", "x.info", *words) == (
        f"'prep/a\\tb.{kind}': white space in the name, at which the benchmark splits it; rename the file")


def test_an_absolute_path_with_white_space(info, tmp_path):
    (tmp_path / "my data").mkdir()
    make_bins(tmp_path / "my data/prep", "a.bin")
    message = refusal(info, tmp_path, "bin", tmp_path / "my data/prep", "x.info", "5", "4")
    assert message.startswith(f"'{tmp_path}/my data/prep': white space in the path")


@pytest.mark.parametrize("kind, first, second", [
    ("bin", "a.1.bin", "a.2.bin"), ("jpg", "a.JPEG", "a.jpg"), ("jpg", "a.jpg", "a.x.jpg"),
])
def test_two_names_equal_up_to_the_first_dot(info, tmp_path, kind, first, second):
    if kind == "bin":
        make_bins(tmp_path / "d", first, second)
    else:
        make_jpegs(tmp_path / "d", {first: (5, 4), second: (5, 4)})
    words = ("5", "4") if kind == "bin" else ()
    assert refusal(info, tmp_path, kind, "d", "x.info", *words) == (
        f"d: {first} and {second} have the same name up to the first dot; rename one")


@pytest.mark.parametrize("entries, message", [
    ({"complete": False, **MADE}, "prep: img_preprocess.py did not finish here; rerun it"),
    ({"complete": False, "count": 3, **MADE}, "prep: img_preprocess.py did not finish here; rerun it"),
    ({"complete": True, "count": 4, **MADE}, "prep: 3 .bin files, but img_preprocess.py made 4; rerun it"),
    ({"complete": True, "count": 2, **MADE}, "prep: 3 .bin files, but img_preprocess.py made 2; rerun it"),
    ({}, "prep/manifest.json: not a manifest of img_preprocess.py; use another folder"),
])
def test_the_manifest_is_heeded(info, prep, tmp_path, entries, message):
    manifest(prep, **entries)
    assert refusal(info, tmp_path, "bin", "prep", "x.info", "5", "4") == message


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff\xfe"])
def test_a_damaged_manifest(info, prep, tmp_path, data):
    (prep / "manifest.json").write_bytes(data)
    assert refusal(info, tmp_path, "bin", "prep", "x.info", "5", "4") == (
        "prep/manifest.json: not a manifest of img_preprocess.py; use another folder")


def test_photos_that_cannot_be_read(info, tmp_path):
    make_jpegs(tmp_path / "val", {"a.jpg": (5, 4), "z.jpg": (5, 4)})
    for data in (b"", b"404 Not Found", (tmp_path / "val/a.jpg").read_bytes()[:30]):
        (tmp_path / "val/b.jpg").write_bytes(data)
        message = refusal(info, tmp_path, "jpg", "val", "x.info")
        assert message.startswith("val/b.jpg: not a readable JPEG (")


def test_a_png_with_a_jpegs_name(info, tmp_path):
    """Pillow would read it, but the device's decoder would not."""
    make_jpegs(tmp_path / "val", {"a.jpg": (5, 4)})
    Image.new("RGB", (5, 4)).save(tmp_path / "val/b.jpg", "PNG")
    assert refusal(info, tmp_path, "jpg", "val", "x.info").startswith("val/b.jpg: not a readable JPEG (")


def test_an_info_file_that_cannot_be_written(info, prep, tmp_path):
    (tmp_path / "x.info").mkdir()
    out, err = info("bin", "prep", "x.info", "5", "4", status=4)
    assert (out, err.count("\n"), err.startswith("gen_dataset_info.py: x.info")) == ("", 1, True)
    assert info("bin", "prep", "no/x.info", "5", "4", status=4)[1].startswith("gen_dataset_info.py: no/x.info")


def test_help_reports_the_commands(info):
    out = info("--help")[0]
    assert "gen_dataset_info.py bin DIR OUT.info WIDTH HEIGHT" in out
    assert "gen_dataset_info.py jpg DIR OUT.info" in out

"""run_all.sh --check: what a run needs is there, or named with the cure."""
import importlib.util
import shutil
from pathlib import Path

import check
import options
from common.cli import Failure
from conftest import SUITE, run

import pytest

DATA = SUITE / "test/data/imagenet"


@pytest.fixture
def args(tmp_path):
    """Those of the default job, below tmp_path."""
    args = options.parse([f"--workdir={tmp_path / 'work'}"])
    args.atc_engine, args.images, args.labels = "host", DATA / "val", DATA / "val_label.txt"
    return args


def test_the_default_job_could_start(tmp_path):
    done = run("bash", SUITE / "run_all.sh", "--check", cwd=tmp_path)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "✓ tools", "✓ python", "✓ weights", "✓ data set", "✓ paths", "✓ work directory", "✓ disk", "✓ CPU"]
    assert not list(tmp_path.iterdir())


def test_marks_that_the_terminal_cannot_show_are_words(tmp_path):
    done = run("bash", SUITE / "run_all.sh", "--check", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 8
    assert "\\u" not in done.stdout
    done = run("bash", SUITE / "run_all.sh", "--check", "--weights=no", "--datasets_path=no", cwd=tmp_path, status=3,
               env={"PYTHONIOENCODING": "ascii"})
    assert "FAIL weights: no: no such file" in done.stdout


def test_nothing_is_there(tmp_path):
    done = run("bash", SUITE / "run_all.sh", "--check", "--weights=/no/such/dir/w.pth", "--datasets_path=no",
               cwd=tmp_path, status=3)
    assert done.stdout.splitlines()[2:4] == [
        "✗ weights: /no/such/dir/w.pth: no such file; README section 1 links the published weights",
        "✗ data set: no: contains neither imagenet/val with imagenet/val_label.txt, nor val with val_label.txt or "
        "class folders (README section 4)"]
    assert done.stderr == ""


def test_published_weights_that_are_damaged(args, tmp_path):
    args.weights = tmp_path / "xception-c0a72b38.pth.tar"
    args.weights.write_bytes(b"\x80\x02.")
    args.weights, path = str(args.weights), args.weights
    with pytest.raises(Failure, match="md5 is [0-9a-f]{32}, the published file's is 203a36dce3e49d45e5d742efbad5ba65"):
        check.check_weights(args)
    args.weights = str(path.rename(tmp_path / "mine.pth"))
    assert check.check_weights(args).startswith(f"{args.weights}, md5 ")


def test_packages_that_are_missing_are_those_of_this_run(args, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(options, "find_spec", lambda name: None if name in ("torch", "torchvision", "openvino")
                        else find(name))
    with pytest.raises(Failure, match="^openvino, torch, torchvision missing"):
        check.check_python(args)
    args.weights = str(tmp_path / "x.onnx")
    with pytest.raises(Failure, match="^openvino missing"):
        check.check_python(args)
    args.atc_engine = "cann"
    assert "numpy" in check.check_python(args)


def test_images_and_labels_that_do_not_belong_together(args, tmp_path):
    rows = args.labels.read_text().splitlines()
    args.labels = tmp_path / "val_label.txt"
    args.labels.write_text("\n".join(rows[1:]))
    with pytest.raises(Failure, match=f"1 of 45 images have no label: .*{rows[0].split('.')[0]}"):
        check.check_data_set(args)
    args.labels.write_text("\n".join([*rows, "more.JPEG 1"]))
    with pytest.raises(Failure, match="1 of 46 labels have no image: more"):
        check.check_data_set(args)
    args.limit = "40"  # leaves out images, and so labels
    with pytest.raises(Failure, match="1 of 40 images have no label"):
        args.labels.write_text("\n".join(rows[1:]))
        check.check_data_set(args)
    args.labels.write_text("\n".join([*rows, "more.JPEG 1"]))
    assert check.check_data_set(args) == "40 images, each with its label"


def test_labels_are_read_as_the_run_reads_them(args, tmp_path):
    args.labels = DATA / "val"  # contains no class folders
    with pytest.raises(Failure, match="val: contains no class folders"):
        check.check_data_set(args)
    rows = [line.split() for line in (DATA / "val_label.txt").read_text().splitlines()]
    args.labels = tmp_path / "labels.csv"
    args.labels.write_text("".join(f"{name},n{int(label):08}\n" for name, label in rows))
    with pytest.raises(Failure, match="labels.csv:1: n[0-9]{8}: a synset; pass its class id with --synsets"):
        check.check_data_set(args)
    args.synsets = tmp_path / "synsets.txt"
    args.synsets.write_text("".join(f"n{number:08}\n" for number in range(1000)))
    assert check.check_data_set(args) == "45 images, each with its label"


def test_unreadable_images_are_left_out_if_the_run_leaves_them_out(args, tmp_path):
    args.images = tmp_path / "val"
    shutil.copytree(DATA / "val", args.images)
    image = next(args.images.iterdir())
    image.unlink()
    image.symlink_to("nothing.JPEG")
    with pytest.raises(Failure, match="^1 images cannot be used: .*No such file or directory; fix them"):
        check.check_data_set(args)
    args.on_error = "skip"
    assert check.check_data_set(args).startswith("44 images, each with its label; 1 images cannot be used: ")


@pytest.mark.parametrize(("aipp", "needed"), [(False, "55.0"), (True, "14.8")])
def test_disk(aipp, needed, args, monkeypatch):
    args.aipp = aipp
    monkeypatch.setattr(check, "find_images", lambda args: (range(50_000), []))
    monkeypatch.setattr(check, "free_space", lambda folder: 10**12)
    assert check.check_disk(args).startswith(f"{needed} GB needed in {args.workdir}, ")
    args.study = "yes"
    assert check.check_disk(args).startswith({"55.0": "218.9", "14.8": "58.0"}[needed] + " GB needed")
    args.study = ""
    monkeypatch.setattr(check, "free_space", lambda folder: 1_000_000)
    with pytest.raises(Failure, match="0.0 GB free; free space, or pass another --workdir"):
        check.check_disk(args)
    bins = Path(args.workdir, "prep_dataset")
    bins.mkdir(parents=True)
    with open(bins / "x.bin", "wb") as file:
        file.truncate(60 * 10**9)  # what is there already need not fit again
    assert check.check_disk(args).endswith("60.0 GB there already")


def test_the_version_of_cann_stands_in_its_folder(args, tmp_path, monkeypatch):
    """As both layouts have it: below the architecture's folder, and beside it."""
    for place in ("5.0.2/x86_64-linux", "6.0.1"):
        toolkit = tmp_path / place.split("/")[0]
        (toolkit / "atc/bin").mkdir(parents=True)
        (toolkit / "atc/bin/atc").write_text("")
        (toolkit / "atc/bin/atc").chmod(0o755)
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "ascend_toolkit_install.info").write_text(
            f"package_name=Ascend-cann-toolkit\nversion={toolkit.name}\narch=x86_64\n")
        monkeypatch.setenv("PATH", str(toolkit / "atc/bin"))
        monkeypatch.setattr(check.engines, "choose", lambda *_: "benchmark")
        assert check.check_cann(args) == f"{toolkit.name}, benchmark"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="^atc is not on PATH"):
        check.check_cann(args)

"""check.py: what a run needs is there, or named with the cure."""
import importlib.util
import shutil
import sys
from types import SimpleNamespace

import check
from common.cli import Failure
from conftest import SUITE, run

import pytest

DATA = SUITE / "test/data/imagenet"


@pytest.fixture
def args(tmp_path):
    """Those of the default job, below tmp_path."""
    return SimpleNamespace(weights=None, images=DATA / "val", labels=DATA / "val_label.txt", workdir=tmp_path / "work",
                           batch_sizes="1,16", aipp=False, engine="host", synsets=None, study=False, on_error="fail",
                           limit=0, sample=0, seed=0, tool="", device_ids=[], soc_version="")


def test_the_default_job_could_start(tmp_path):
    done = run(sys.executable, SUITE / "tools/check.py", "--weights=", f"--images={DATA / 'val'}",
               f"--labels={DATA / 'val_label.txt'}", cwd=tmp_path)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "✓ python", "✓ weights", "✓ data set", "✓ folder", "✓ disk", "✓ CPU"]
    assert not list(tmp_path.iterdir())


def test_nothing_is_there(tmp_path):
    done = run(sys.executable, SUITE / "tools/check.py", "--weights=no.pth", cwd=tmp_path, status=3)
    assert done.stdout.splitlines()[1:4] == [
        "✗ weights: no.pth: no such file; README 1 tells where the published weights come from",
        "✗ data set: not found, see above", "✓ folder: work can be written"]


def test_published_weights_that_are_damaged(args, tmp_path):
    args.weights = tmp_path / "xception-c0a72b38.pth.tar"
    args.weights.write_bytes(b"PK, cut short")
    with pytest.raises(Failure, match="md5 is [0-9a-f]{32}, the published file's is 203a36dce3e49d45e5d742efbad5ba65"):
        check.check_weights(args)
    args.weights = args.weights.rename(tmp_path / "mine.pth")
    assert check.check_weights(args).startswith(f"{args.weights}, md5 ")


def test_packages_that_are_missing_are_those_of_this_run(args, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "torchvision", "openvino")
                        else find(name))
    with pytest.raises(Failure, match="^openvino, torch, torchvision missing"):
        check.check_python(args)
    args.weights = tmp_path / "x.onnx"
    with pytest.raises(Failure, match="^openvino missing"):
        check.check_python(args)
    args.engine = "cann"
    assert "numpy" in check.check_python(args)


def test_images_and_labels_that_do_not_belong_together(args, tmp_path):
    rows = args.labels.read_text().splitlines()
    args.labels = tmp_path / "val_label.txt"
    args.labels.write_text("\n".join(rows[1:]))
    with pytest.raises(Failure, match=f"1 of 45 images have no label in .*: {rows[0].split('.')[0]}"):
        check.check_data_set(args)
    args.labels.write_text("\n".join([*rows, "more.JPEG 1"]))
    with pytest.raises(Failure, match="1 of 46 labels have no image in .*: more"):
        check.check_data_set(args)
    args.limit = 40  # a quick look leaves out images, and so labels
    with pytest.raises(Failure, match="1 of 40 images have no label"):
        args.labels.write_text("\n".join(rows[1:]))
        check.check_data_set(args)
    args.labels.write_text("\n".join([*rows, "more.JPEG 1"]))
    assert check.check_data_set(args) == "40 images, each with its label"


def test_labels_are_read_as_the_run_reads_them(args, tmp_path):
    args.labels = DATA / "val"  # no class folders in it
    with pytest.raises(Failure, match="val: no class folders in it"):
        check.check_data_set(args)
    rows = [line.split() for line in (DATA / "val_label.txt").read_text().splitlines()]
    args.labels = tmp_path / "labels.csv"
    args.labels.write_text("".join(f"{name},n{int(label):08}\n" for name, label in rows))
    with pytest.raises(Failure, match="labels.csv:1: n[0-9]{8}: give --synsets"):
        check.check_data_set(args)
    args.synsets = tmp_path / "synsets.txt"
    args.synsets.write_text("".join(f"n{number:08}\n" for number in range(1000)))
    assert check.check_data_set(args) == "45 images, each with its label"


def test_bad_images_are_left_out_if_the_run_leaves_them_out(args, tmp_path):
    args.images = tmp_path / "val"
    shutil.copytree(DATA / "val", args.images)
    image = next(args.images.iterdir())
    image.unlink()
    image.symlink_to("nothing.JPEG")
    with pytest.raises(Failure, match="^1 images cannot be taken: .*No such file or directory .--on-error skip"):
        check.check_data_set(args)
    args.on_error = "skip"
    assert check.check_data_set(args).startswith("44 images, each with its label; 1 images cannot be taken: ")


@pytest.mark.parametrize(("aipp", "needed"), [(False, "55.0"), (True, "14.8")])
def test_disk(aipp, needed, args, monkeypatch):
    args.aipp = aipp
    monkeypatch.setattr(check, "find_images", lambda args: (range(50_000), []))
    monkeypatch.setattr(check, "free_space", lambda folder: 10**12)
    assert check.check_disk(args).startswith(f"{needed} GB needed in {args.workdir}, ")
    args.study = True
    assert check.check_disk(args).startswith({"55.0": "221.0", "14.8": "60.1"}[needed] + " GB needed")
    args.study = False
    monkeypatch.setattr(check, "free_space", lambda folder: 1_000_000)
    with pytest.raises(Failure, match="0.0 GB free: make room, or name another --workdir"):
        check.check_disk(args)
    (args.workdir / "prep_dataset").mkdir(parents=True)
    with open(args.workdir / "prep_dataset/x.bin", "wb") as file:
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
        monkeypatch.setattr(check.infer, "choose_engine", lambda *_: "ais_bench")
        assert check.check_cann(args) == f"{toolkit.name}, ais_bench"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="^atc is not on PATH"):
        check.check_cann(args)

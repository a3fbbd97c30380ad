"""check.py: what a run needs is there, or named with the cure."""
import importlib.util
import sys
from types import SimpleNamespace

import pytest

import check
from common import Failure
from conftest import SUITE, run

DATA = SUITE / "test/data/imagenet"


@pytest.fixture
def args(tmp_path):
    """Those of the default job, below tmp_path."""
    return SimpleNamespace(weights=None, images=DATA / "val", labels=DATA / "val_label.txt", workdir=tmp_path / "work",
                           batch_sizes="1,16", aipp=False, engine="host")


def test_the_default_job_could_start(tmp_path):
    done = run(sys.executable, SUITE / "check.py", "--weights=", f"--images={DATA / 'val'}",
               f"--labels={DATA / 'val_label.txt'}", cwd=tmp_path)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "✓ python", "✓ weights", "✓ data set", "✓ disk", "✓ CPU"]
    assert not list(tmp_path.iterdir())


def test_nothing_is_there(tmp_path):
    done = run(sys.executable, SUITE / "check.py", "--weights=no.pth", cwd=tmp_path, status=3)
    assert done.stdout.splitlines()[1:4] == [
        "✗ weights: no.pth: no such file; README 1 tells where the published weights come from",
        "✗ data set: not found, see above", "✗ disk: not known without the data set"]


def test_published_weights_that_are_damaged(args, tmp_path):
    args.weights = tmp_path / "xception-c0a72b38.pth.tar"
    args.weights.write_bytes(b"cut short")
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
    args.labels = DATA / "val"
    assert check.check_data_set(args) == f"45 images; labels.py is to make their labels from {args.labels}"


@pytest.mark.parametrize(("aipp", "needed"), [(False, "55.0"), (True, "14.8")])
def test_disk(aipp, needed, args, monkeypatch):
    args.aipp = aipp
    monkeypatch.setattr(check, "count_images", lambda args: dict.fromkeys(range(50_000)))
    assert check.check_disk(args).startswith(f"{needed} GB needed in {args.workdir}, ")
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

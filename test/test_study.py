"""run_all.sh --study and study.py: what is recipe and what is arithmetic, counted image by image."""
import csv
import json
import re
import sys

from common.model import PUBLISHED_MD5
from conftest import SUITE, run
from imagenet_acc_eval import write_details
from test_faults import make_tiny

import numpy as np
import pytest

REPORT = SUITE / "tools/study.py", "report", "study"
IMAGES = 2000
DEVICES = {"f32": "f32", "fp16": "fp16, emulated", "bf16": "bf16"}


def make_study(folder, lost, images=IMAGES, bf16="bf16"):
    """Details of all twelve runs; lost[recipe, precision] = (images that are wrong now, images that are right now)."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, images)
    right = random.random(images) < 0.8
    names = [f"img_{i:05}" for i in range(images)]
    for resize in (333, 342):
        for interpolation in ("bilinear", "bicubic"):
            for precision in DEVICES:
                worse, better = lost.get((resize, interpolation, precision), (0, 0))
                now = right.copy()
                now[np.flatnonzero(right)[:worse]] = False
                now[np.flatnonzero(~right)[:better]] = True
                ranks = np.where(now, 1, 2)
                first, second = np.where(now, labels, (labels + 1) % 10), np.where(now, (labels + 1) % 10, labels)
                top = np.stack([first, second, *((labels + k) % 10 for k in (2, 3, 4))], axis=1)
                chances = np.tile([0.6, 0.2, 0.1, 0.05, 0.05], (images, 1))
                own = np.where(now, 0.6, 0.2)[:, np.newaxis]
                place = folder / f"{resize}_{interpolation}"
                (place / "result").mkdir(parents=True, exist_ok=True)
                write_details(place / f"details_{precision}.csv", names, labels.tolist(), (ranks, top, chances, own))
                computed = bf16 if precision == "bf16" else DEVICES[precision]
                (place / f"result/dump_{precision}.json").write_text(json.dumps(
                    {"device": f"CPU stand-in, not an NPU: OpenVINO 1, {computed}, a CPU"}))
    return folder, 100 * right.mean()


def onnx_of(folder, weights):
    """A file that names its weights as an ONNX's metadata_props do."""
    (folder / "x.onnx").write_text(f"\x12weights_md5\x12{weights}")
    return folder / "x.onnx"


LOST = {(342, "bilinear", "f32"): (30, 20), (333, "bilinear", "fp16"): (3, 1), (342, "bilinear", "fp16"): (32, 20),
        (333, "bicubic", "f32"): (0, 7), (333, "bilinear", "bf16"): (40, 10)}


def test_each_cause_is_reported_with_its_interval(tmp_path):
    from scipy.stats import binomtest  # not at the top: every pytest process reads every file

    _, base = make_study(tmp_path / "study", LOST)
    out = run(sys.executable, *REPORT, f"--onnx={onnx_of(tmp_path, PUBLISHED_MD5)}", cwd=tmp_path).stdout
    rows = [re.findall(r"[\d.]+|\([+-][\d.]+\)|bilinear|bicubic", line) for line in out.splitlines()[2:6]]
    assert [row[:2] for row in rows] == [["333", "bilinear"], ["333", "bicubic"], ["342", "bilinear"],
                                         ["342", "bicubic"]]
    assert rows[0][2:] == [f"{base:.3f}", f"{base - 0.1:.3f}", "(-0.100)", f"{base - 1.5:.3f}", "(-1.500)"]
    assert rows[2][2:6] == [f"{base - 0.5:.3f}", "(-0.500)", f"{base - 0.6:.3f}", "(-0.600)"]
    for cause, (worse, better) in {
            "342 bilinear instead of 333 bilinear, in f32": (30, 20), "fp16 instead of f32, 333 bilinear": (3, 1),
            "333 bicubic instead of 333 bilinear, in f32": (0, 7), "bf16 instead of f32, 333 bilinear": (40, 10),
            "342 bilinear and fp16, as the ModelZoo port": (32, 20)}.items():
        points, p = 100 * (better - worse) / IMAGES, binomtest(worse, worse + better).pvalue
        found = re.search(rf"^{re.escape(cause)}: ([+-][\d.]+) points \(([+-][\d.]+) to ([+-][\d.]+)\), p = (\S+) \(Mc",
                          out, re.MULTILINE)
        assert found[1] == f"{points:+.3f}"
        assert float(found[2]) < points < float(found[3])
        assert found[4] == f"{p:.2g}"
    assert "recipe and fp16 together explain 0.600 here" in out
    assert "the recipe alone 0.500, fp16 alone 0.100" in out
    assert "inconclusive: 2000 images are too few" in out
    assert "does not compute in" not in out


def test_enough_images_are_conclusive(tmp_path):
    make_study(tmp_path / "study", {}, images=5000)
    out = run(sys.executable, *REPORT, f"--onnx={onnx_of(tmp_path, PUBLISHED_MD5)}", cwd=tmp_path).stdout
    assert "together explain" in out
    assert "too few" not in out


def test_demo_weights_explain_nothing(tmp_path):
    make_study(tmp_path / "study", LOST)
    out = run(sys.executable, *REPORT, f"--onnx={onnx_of(tmp_path, 'demo weights')}", cwd=tmp_path).stdout
    assert "ImageNet, not 2000 photos and demo weights" in out
    assert "together explain" not in out


@pytest.mark.parametrize("weights", [None, "0" * 32])
def test_other_weights_do_not_explain_the_published_drop(weights, tmp_path):
    make_study(tmp_path / "study", LOST)
    words = [f"--onnx={onnx_of(tmp_path, weights)}"] if weights else []
    out = run(sys.executable, *REPORT, *words, cwd=tmp_path).stdout
    assert "The published drop of 0.542 points is not explained" in out
    assert "together explain" not in out


def test_a_precision_that_the_cpu_does_not_have_is_reported(tmp_path):
    make_study(tmp_path / "study", LOST, bf16="f32")
    out = run(sys.executable, *REPORT, cwd=tmp_path).stdout
    assert "this CPU cannot compute in bf16; that column was computed in f32" in out
    with open(tmp_path / "study/study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["precision"] for row in rows[:3]] == ["f32", "fp16", "bf16 (computed in f32)"]


def test_the_csv(tmp_path):
    _, base = make_study(tmp_path / "study", LOST)
    run(sys.executable, *REPORT, cwd=tmp_path)
    with open(tmp_path / "study/study.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    first = rows[0]
    assert (first["resize"], first["top1"], first["top2"], first["difference"], first["p"]) == (
        "333", f"{base:.3f}", "100.000", "0.000", "1")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda study: (study / "342_bicubic/details_fp16.csv").unlink(),
     "study/342_bicubic/details_fp16.csv: missing; rerun run_all.sh"),
    (lambda study: (study / "342_bicubic/result/dump_fp16.json").write_text("{}"),
     "study/342_bicubic/result/dump_fp16.json: missing or damaged; rerun run_all.sh --study"),
    (lambda study: make_study(study / "other", {}, 100) and (study / "other/333_bilinear/details_bf16.csv").rename(
        study / "342_bilinear/details_bf16.csv"),
     "study/342_bilinear/details_bf16.csv: has other images or labels than study/333_bilinear/details_f32.csv; rerun "
     "run_all.sh --study"),
])
def test_mismatched_inputs_are_refused(damage, message, tmp_path):
    make_study(tmp_path / "study", LOST)
    damage(tmp_path / "study")
    assert run(sys.executable, *REPORT, cwd=tmp_path, status=3).stderr == f"study.py: {message}\n"
    assert not (tmp_path / "study/study.csv").exists()


# ---- run_all.sh --study

def test_the_study_of_a_sample_of_the_demo(tmp_path):
    """Eight runs of a tiny network on two photos; each recipe's tensors are made once, each precision's om once.

    Run again, nothing is made.
    """
    labels = (SUITE / "test/data/imagenet/val_label.txt").read_text().splitlines()
    make_tiny(tmp_path / "tiny.onnx")
    command = ("bash", SUITE / "run_all.sh", "--study", "--weights=tiny.onnx",
               f"--datasets_path={SUITE}/test/data", "--workdir", tmp_path / "work", "--sample=2", "--batch_sizes=1")
    done = run(*command, cwd=tmp_path, quick=True)
    titles = re.findall(r"^== (.*)$", done.stderr, re.MULTILINE)
    assert sum("images to tensors" in title for title in titles) == 4
    assert sum("ONNX to om" in title for title in titles) == 2
    assert sum("Offline inference" in title for title in titles) == 8
    assert done.stdout.count("2 dumps in result/dump_") == 8
    study = tmp_path / "work/sample2/study"
    for recipe in ("333_bilinear", "333_bicubic", "342_bilinear", "342_bicubic"):
        manifest = json.loads((study / recipe / "prep_dataset/manifest.json").read_text())["recipe"]
        assert f"{manifest['resize']}_{manifest['interpolation']}" == recipe
        for precision, name in (("f32", "f32"), ("fp16", "fp16, emulated")):
            device = json.loads((study / recipe / f"result/dump_{precision}.json").read_text())["device"]
            assert f", {name}, " in device
    assert "top-1, % (points from 333 bilinear in f32)" in done.stdout
    assert "points is not explained" in done.stdout
    assert len(labels) == 45
    dumps = {path: path.stat().st_mtime_ns for path in study.rglob("*_1.txt")}
    assert len(dumps) == 8 * 2
    again = run(*command, cwd=tmp_path, quick=True)
    assert again.stdout.count("(0 made, 2 kept)") == 4 + 8
    assert dumps == {path: path.stat().st_mtime_ns for path in study.rglob("*_1.txt")}
    assert again.stdout[again.stdout.index("top-1, %"):] == done.stdout[done.stdout.index("top-1, %"):]

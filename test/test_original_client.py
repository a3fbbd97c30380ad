"""The calls of the ModelZoo port's own scripts (conversion, evaluation, parsing), in their order, on this suite.

Ascend/ModelZoo-PyTorch at 05360171, ACL_PyTorch/contrib/cv/classfication/xception/test: pth2om.sh, eval_acc_perf.sh and
parse.py. Written anew; what counts is that the same words, file names and order end well.
"""
import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import SUITE, few_photos, old_environment, old_pythons, quick_python
from test_run_all_cann import BENCHMARK, FAKES, PHOTOS, make_onnx, make_suite

import pytest

CONVERSION = """
set -e
[ -z "$CHECKPOINT" ] || python3.7 xception_pth2onnx.py "$CHECKPOINT" xception.onnx
source env.sh
for batch in 1 16; do
  atc --framework=5 --model=xception.onnx --output=xception_bs$batch --input_format=NCHW \
    --input_shape="image:$batch,3,299,299" --log=debug --soc_version=Ascend310
  test -f xception_bs$batch.om
done
"""
EVALUATION = """
set -e
python3.7 img_preprocess.py "$DATA/imagenet/val" ./prep_dataset
python3.7 gen_dataset_info.py bin ./prep_dataset ./xception.info 299 299
source env.sh
device=0
for batch in 1 16; do
  ./benchmark.$(uname -m) -model_type=vision -device_id=$device -batch_size=$batch -om_path=xception_bs$batch.om \
    -input_text_path=./xception.info -input_width=299 -input_height=299 -output_binary=False -useDvpp=False
  python3.7 imagenet_acc_eval.py result/dumpOutput_device$device/ "$DATA/imagenet/val_label.txt" ./ result_bs$batch.json
  device=1
done
"""


@pytest.fixture
def place(tmp_path):
    """A folder with the suite's scripts and bin/python3.7: this Python, or a test's own."""
    place = make_suite(tmp_path / "xception")
    (tmp_path / "bin").mkdir()
    return place


def go(place, script, python, *path, **variables):
    link = place.parent / "bin/python3.7"
    if not link.exists():
        link.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        link.chmod(0o755)
    search = [str(place.parent / "bin"), *map(str, path), os.path.dirname(python), "/usr/bin", "/bin"]
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, check=False,
                          env={"PATH": os.pathsep.join(search), "HOME": str(place), "LC_ALL": "C.UTF-8",
                               "ASCEND_INSTALL_PATH": "/nowhere", "DATA": str(PHOTOS.parent), **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def parse(path: Path) -> float:
    """Return what the port's parse.py takes from a result: top1, or images/s of four chips from the eighth figure."""
    text = path.read_text()
    if path.suffix == ".json":
        top1, *_, top5 = [entry["value"] for entry in json.loads(text)["value"] if "Top" in entry["key"]]
        assert top5 == "100.0%"
        return float(top1.rstrip("%"))
    eighth = [figure.strip() for figure in re.findall(r":(.*?),", text.replace("\n", ",") + ",")][7]
    return 4 * float(eighth.replace("samples/s", ""))


def check(place, top1, rates, images=45):
    assert len(list(place.glob("prep_dataset/*.bin"))) == images
    for batch, device, rate in zip((1, 16), (0, 1), rates):  # batch 1 alone, if there is one rate
        assert len(list(place.glob(f"result/dumpOutput_device{device}/*_1.txt"))) == images
        assert parse(place / f"result_bs{batch}.json") == top1
        assert parse(place / f"result/perf_vision_batchsize_{batch}_device_{device}.txt") == rate or rate is None


@pytest.mark.parametrize("how", ["linked", "copied"])
def test_with_the_stand_ins(how, place, default_job):
    stand_in = place / "host" / BENCHMARK
    (place / BENCHMARK).symlink_to(stand_in) if how == "linked" else shutil.copy(stand_in, place / BENCHMARK)
    shutil.copy(default_job.work / "xception.onnx", place)  # which the same command made
    checkpoint, batches = default_job.work / "demo.pth.tar", "1 16" if how == "linked" else "1"
    python = quick_python() / "python3"
    done = go(place, CONVERSION.replace("in 1 16", f"in {batches}"), python, CHECKPOINT=str(checkpoint))
    assert "xception.onnx: up to date with the weights (md5 " in done.stdout
    data = few_photos(place.parent / "few")
    go(place, EVALUATION.replace("in 1 16", f"in {batches}"), python, DATA=str(data.parent))
    stems = {path.name.split(".")[0] for path in (data / "val").iterdir()}
    with open(default_job.work / "details_bs1.csv", newline="") as file:
        right = [row["rank"] == "1" for row in csv.DictReader(file) if row["image"] in stems]
    check(place, round(100 * sum(right) / len(stems), 2), [None] * len(batches.split()), len(stems))


@pytest.mark.parametrize("python", ["this", *sorted(old_pythons())[:1]])  # the others: test_old_python.py
def test_with_the_fake_cann(python, place):
    """Which an NPU host's own Python drives; the ONNX comes from elsewhere."""
    chosen = sys.executable if python == "this" else str(old_environment(python) / "python3")
    make_onnx(place / "xception.onnx")
    tools = place.parent / "tools"
    tools.mkdir()
    for name, target in ((BENCHMARK, place), ("atc", tools)):
        (target / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKES / name}" "$@"\n')
        (target / name).chmod(0o755)
    variables = {"FAKE_CANN_LABELS": str(PHOTOS / "val_label.txt"), "FAKE_CANN_TOP1": "0.8"}
    go(place, CONVERSION, chosen, tools, CHECKPOINT="")
    go(place, EVALUATION, chosen, tools, **variables)
    check(place, 80.0, (4 * 158.623, 4 * 198.865))


def test_a_stand_in_copied_elsewhere_says_to_link_it(tmp_path):
    for name in ("atc", f"benchmark.{platform.machine()}"):
        shutil.copy(SUITE / "host" / name, tmp_path)
        done = subprocess.run([tmp_path / name], capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": ""})
        assert done.returncode == 4
        assert done.stderr == f"{tmp_path / name}: copied from its suite, which it cannot find; make a link (ln -s) " \
            "instead\n"

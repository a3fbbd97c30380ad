"""The default job end to end, and what makes it fail."""
import csv
import hashlib
import json
import re
from types import SimpleNamespace

import pytorch_reference
from conftest import SUITE, copy_of_the_suite, copy_of_work, few_photos, run
from test_precision import in_pytorch

import numpy as np
import pytest

DATA = SUITE / "test/data/imagenet"


def top1(work, batch=1) -> str:
    rows = json.loads((work / f"result_bs{batch}.json").read_text())["value"]
    return {row["key"]: row["value"] for row in rows}["Top1 accuracy"]


def test_every_step_ran_and_the_tables_say_what_they_are(default_job):
    titles = re.findall(r"^== (\d[^\n]*)$", default_job.stderr, re.MULTILINE)
    assert titles == [
        "1 Model: demo weights", "3 Conversion: PyTorch to ONNX", "3 Conversion: ONNX to om, batch 1",
        "3 Conversion: ONNX to om, batch 16", "4 Data set: labels", "4 Data set: images to tensors",
        "4 Data set: info file",
        "5 Offline inference, batch 1", "5 Offline inference, batch 16",
        "6 Accuracy: PyTorch reference", "6 Accuracy, batch 1", "6 Accuracy, batch 16",
        "7 Summary",
    ]
    tables = default_job.stdout[default_job.stdout.index("== Accuracy"):]
    assert "PASSED: top-1 equals the reference, top-5 equals the reference" in tables
    assert "Demo weights, fitted to these photos; they cannot classify ImageNet." in tables
    assert tables.count("Device: CPU stand-in, not an NPU: OpenVINO") == 2
    rows = re.findall(r"^ +(1|16) +([\d.]+) +- +([\d.]+)(?:  best)?$", tables, re.MULTILINE)
    assert [batch for batch, _, _ in rows] == ["1", "16"]
    assert all(float(interface) >= float(e2e) > 0 for _, interface, e2e in rows)
    assert "78.892" not in default_job.stdout  # ImageNet's reference is not the demo's
    assert re.fullmatch(r".*/work/report.html: 45 images, [\d,]+ bytes", default_job.stdout.splitlines()[-1])


def test_the_files_are_what_the_contract_says(default_job):
    work = default_job.work
    images = sorted(path.name for path in (DATA / "val").iterdir())
    stems = [name.split(".")[0] for name in images]
    assert (work / "xception.info").read_text() == \
        "".join(f"{i} ./prep_dataset/{stem}.bin 299 299\n" for i, stem in enumerate(stems))
    assert {path.stat().st_size for path in (work / "prep_dataset").glob("*.bin")} == {1_072_812}
    for batch in (1, 16):
        dumps = sorted(path.name for path in (work / f"result/dumpOutput_bs{batch}").iterdir())
        assert dumps == [f"{stem}_1.txt" for stem in stems]
    assert (work / "result_bs1.json").read_bytes() == (work / "result_bs16.json").read_bytes()
    assert not list(work.rglob("*.part"))


def test_the_report_says_what_its_figures_are(default_job):
    """Demo weights and a CPU, at its head; names of classes, and the photos."""
    page = (default_job.work / "report.html").read_text()
    head = page.split("<header>")[1].split("</header>")[0]
    assert "instead of an NPU" in head and "Demo weights, fitted to these photos" in head
    assert "top-1 88.89 %, top-5 100.00 % of 45 images" in head
    assert "lesser panda" in page
    assert page.count("data:image/jpeg;base64,") == 24


def test_nothing_is_written_into_the_home_directory(default_job):
    assert list(default_job.home.iterdir()) == []


def test_what_ran_is_on_record(default_job):
    work = default_job.work
    record = json.loads((work / "run.json").read_text())
    assert record["commands"] == re.findall(r"^\$ ((?!atc |benchmark).*)$", default_job.stderr, re.MULTILINE)
    for name, file in (("weights", "demo.pth.tar"), ("onnx", "xception.onnx")):
        assert record[name]["sha256"] == hashlib.sha256((work / file).read_bytes()).hexdigest()
    assert record["om"]["16"] == {"precision": "f32",
                                  "sha256": hashlib.sha256((work / "xception_bs16.om").read_bytes()).hexdigest()}
    assert record["data_set"]["count"] == 45
    assert record["recipe"]["resize"] == 333
    assert record["inference"]["1"][0]["commands"][0].startswith("benchmark.")
    assert record["accuracy"]["1"]["Top1 accuracy"] == top1(work)
    assert {"python", "numpy", "Pillow", "torch", "openvino"} <= record["versions"].keys()


def test_an_om_of_another_onnx_is_not_put_on_record(default_job, tmp_path):
    work = tmp_path / "work"
    copy_of_work(default_job.work, work)
    (work / "other.onnx").write_bytes(b"another network")
    result = run("python3", SUITE / "tools/summary.py", "run", "--weights=demo.pth.tar", "--onnx=other.onnx",
                 "--batch_sizes=1,16", "--soc_version=Ascend310", "--reference=1,1", cwd=work, status=3)
    assert result.stderr == "summary.py: xception_bs1.om: compiled from another ONNX file; recompile it\n"


def test_fp16_is_what_an_emulation_in_pytorch_gives(default_job, tmp_path):
    """On every 15th photo: logits within 1e-3, same likeliest class; and another result than float32's."""
    import torch

    work, photos = default_job.work, sorted((DATA / "val").iterdir())[::15]
    (tmp_path / "prep_dataset").symlink_to(work / "prep_dataset")
    (tmp_path / "x.info").write_text("".join(
        f"{i} ./prep_dataset/{photo.name.split('.')[0]}.bin 299 299\n" for i, photo in enumerate(photos)))
    logits = {}
    for mode in ("force_fp16", "must_keep_origin_dtype"):
        compiled = run(SUITE / "host/atc", "--framework=5", f"--model={work}/xception.onnx", f"--output={mode}",
                       "--input_shape=image:1,3,299,299", "--soc_version=Ascend310", f"--precision_mode={mode}",
                       cwd=tmp_path).stdout
        assert ("fp16, emulated, for the CPU" in compiled) == (mode == "force_fp16")
        printed = run(SUITE / "host/benchmark", "-batch_size=1", f"-om_path={mode}.om", "-output_binary",
                      "-input_text_path=./x.info", cwd=tmp_path).stdout
        assert (", fp16, emulated, " in printed) == (mode == "force_fp16")
        dumps = sorted((tmp_path / "result/dumpOutput_device0").iterdir())
        logits[mode] = np.stack([np.fromfile(path, "<f4") for path in dumps])
    state = torch.load(work / "demo.pth.tar", weights_only=True)["state_dict"]
    found, expected = logits["force_fp16"], in_pytorch(state, photos)
    np.testing.assert_array_equal(found, found.astype("f2").astype("f4"))
    apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    from_float32 = np.linalg.norm(found - logits["must_keep_origin_dtype"], axis=1) / np.linalg.norm(expected, axis=1)

    def off(values):
        return float(np.median(np.linalg.norm(values - expected, axis=1) / np.linalg.norm(expected, axis=1)))

    # float32, and float32 whose output alone is rounded, are farther off: it is the layers that count
    float32 = logits["must_keep_origin_dtype"]
    assert off(found) < 0.75 * off(float32.astype("f2").astype("f4")) < off(float32)
    print(f"fp16 of OpenVINO and of PyTorch: {apart.max():.1e} apart at most; from float32: {from_float32.max():.1e}")
    assert apart.max() < 1e-3
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    assert np.median(from_float32) > 0


def mutate(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, f"{file} no longer has {old!r} once: adapt this test"
    file.write_text(text.replace(old, new))


def test_a_mutation_makes_the_job_fail(default_job, tmp_path):
    """Red and blue swapped: the gate compares with plain PyTorch on the same photos, which it does not reach."""
    copy = copy_of_the_suite(tmp_path, default_job.work)
    (copy / ".venv").unlink()  # env.sh would put its python3 first
    mutate(copy / "img_preprocess.py", "crop.transpose(2, 0, 1)", "crop[:, :, ::-1].transpose(2, 0, 1)")
    result = run("bash", "run_all.sh", "--batch_sizes=1", "--limit=8", cwd=copy, status=1, quick=True)
    assert "demo.pth.tar: up to date with the photos" in result.stdout
    assert "xception.onnx: up to date with the weights" in result.stdout
    assert "xception_bs1.om: up to date" in result.stdout
    assert "FAILED: top-1 is" in result.stdout
    assert float(top1(copy / "work/limit8").rstrip("%")) <= 50 < float(top1(default_job.work).rstrip("%"))


@pytest.mark.parametrize(("name", "old", "new"), [
    ("img_preprocess.py", " - np.float32(model.MEAN)) / np.float32(model.STD)", ")"),
    ("imagenet_acc_eval.py", "(path, labels[image] + ", "(path, labels[image] + 1 + "),
], ids=["missing normalization", "labels off by one"])
def test_a_mutated_step_fails_the_gate(name, old, new, default_job, tmp_path):
    copy, photos = copy_of_the_suite(tmp_path / "suite", default_job.work), few_photos(tmp_path / "few")
    mutate(copy / name, old, new)
    for command in (("img_preprocess.py", photos / "val", "./prep"),
                    ("gen_dataset_info.py", "bin", "./prep", "./x.info", "299", "299"),
                    ("tools/infer.py", "work/xception_bs1.om", "result/dumps", "--info=./x.info")):
        run("python3", copy / command[0], *command[1:], cwd=copy)
    scored = run("python3", copy / "imagenet_acc_eval.py", "result/dumps", photos / "val_label.txt", ".", "result.json",
                 "--reference=75,75", cwd=copy, status=1)
    assert "FAILED: top-1 is" in scored.stdout


def test_labels_of_another_network_are_reported(default_job, tmp_path):
    photos = few_photos(tmp_path)
    rows = [line.split() for line in (photos / "val_label.txt").read_text().splitlines()]
    (photos / "val_label.txt").write_text("".join(f"{name} {int(label) + 1}\n" for name, label in rows[:4]))
    result = run("python3", SUITE / "tools/pytorch_reference.py", default_job.work / "demo.pth.tar", photos / "val",
                 photos / "val_label.txt", cwd=tmp_path, status=3)
    assert "do not belong together" in result.stderr
    assert result.stdout == ""


def test_the_reference_has_the_runs_interpolation_and_leaves_out_its_unreadable_images(default_job, tmp_path):
    assert "--resize=333 --interpolation=bilinear --of ./prep_dataset --record=reference.json\n" in default_job.stderr
    photos = few_photos(tmp_path, 4, 5)  # nine, one of which is recognized with bilinear interpolation alone
    (tmp_path / "bins").mkdir()
    for photo in (photos / "val").iterdir():
        (tmp_path / f"bins/{photo.stem}.bin").touch()
    (photos / "val/zebra_1.JPEG").write_bytes(b"not an image")
    with open(photos / "val_label.txt", "a") as labels:
        labels.write("zebra_1.JPEG 340\n")
    command = ["python3", SUITE / "tools/pytorch_reference.py", default_job.work / "demo.pth.tar", photos / "val",
               photos / "val_label.txt", "--interpolation=bicubic", "--of", tmp_path / "bins", "--record=r.json"]
    bicubic = run(*command, cwd=tmp_path)
    assert "plain PyTorch on the same 9 images" in bicubic.stderr
    with open(default_job.work / "details_bs1.csv", newline="") as file:
        ranks = [row["rank"] for row in csv.DictReader(file) if (tmp_path / f"bins/{row['image']}.bin").exists()]
    assert len(ranks) == 9
    assert float(bicubic.stdout.split(",")[0]) < 100 * ranks.count("1") / 9
    again = run(*command, cwd=tmp_path)
    assert again.stdout == bicubic.stdout
    assert again.stderr == f"plain PyTorch on the same 9 images: {again.stdout.strip()}, measured before (r.json)\n"


@pytest.mark.parametrize("change", ["resize", "state_dict", "checkpoint", "label", "name", "size", "time"])
def test_a_reference_is_measured_again_if_anything_has_changed(change, tmp_path):
    def digest(changed=None):
        (tmp_path / "w.pth").write_text(f"{changed == 'checkpoint'}")
        args = SimpleNamespace(resize=333 + (changed == "resize"), interpolation="bilinear",
                               state_dict="ema" if changed == "state_dict" else None, checkpoint=tmp_path / "w.pth")
        return pytorch_reference.digest(args, {"b" if changed == "name" else "a": 1 + (changed == "label")},
                                        [(tmp_path / "a.JPEG", 9 + (changed == "size"), 7 + (changed == "time"))])
    assert digest() == digest() != digest(change)
    (tmp_path / "r.json").write_text(json.dumps({"reference": "70.5,90", "made_from": digest()}))
    assert pytorch_reference.recorded(tmp_path / "r.json", digest()) == "70.5,90"
    assert pytorch_reference.recorded(tmp_path / "r.json", digest(change)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"reference": "x", "made_from": "m"}',
                                  '{"reference": "70,60", "made_from": "m"}', '{"reference": 1, "made_from": "m"}'])
def test_a_damaged_record_of_the_reference_is_none(text, tmp_path):
    (tmp_path / "r.json").write_text(text)
    assert pytorch_reference.recorded(tmp_path / "r.json", "m") is None

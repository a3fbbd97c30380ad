"""What lies in a folder that the suite writes to: nothing in it runs, and nothing that is another's is touched."""
import json
import os
import resource
import shutil
import struct
import subprocess
import sys

from conftest import CLASSES, SIDE, SUITE, run, small_model
from test_run_all_cann import inputs, run_all  # noqa: F401 (a fixture)

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image


@pytest.fixture
def start(inputs, tmp_path):  # noqa: F811
    """Run run_all.sh in tmp_path/work with the fake CANN."""
    def call(*words, **changes):
        return run_all(inputs, tmp_path, "--weights", inputs.onnx, "--datasets_path", inputs.data, *words, **changes)
    return call


# ---- run_all.sh

def test_the_name_of_a_share_is_not_a_command(start, tmp_path):
    (tmp_path / "work/result/dumpShares_bs1").mkdir(parents=True)
    (tmp_path / "work/result/dumpShares_bs1/share0ofworld[$(touch PWNED)0].json").touch()
    done = start("--score", "--batch_sizes=1")
    assert done.status == 3
    assert "contains no share; run the ranks first" in done.err
    assert not list(tmp_path.rglob("PWNED"))


def test_no_module_is_taken_from_the_work_directory(start, tmp_path):
    (tmp_path / "work").mkdir()
    for name in ("common", "json", "hashlib", "importlib", "numpy"):
        (tmp_path / f"work/{name}.py").write_text("open('/proc/self/fd/2', 'w').write('PWNED')\n")
    done = start("--batch_sizes=1")
    assert done.status == 0, done.err
    assert "PWNED" not in done.err


@pytest.mark.parametrize("name", [".lock", ".model.lock", "commands.txt"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_own_files_are_written(name, kind, start, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "precious").write_text("precious")
    place = tmp_path / "work" / name
    if kind == "link":
        place.symlink_to("../precious")
    elif kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    done = start("--batch_sizes=1")
    assert done.status == 4
    assert f"run_all.sh: {tmp_path}/work/{name}: not a regular file; remove it" in done.err
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(("variables", "message"), [
    ({"WORLD_SIZE": "abc"}, "RANK=, WORLD_SIZE=abc, LOCAL_RANK=0: not numbers"),
    ({"WORLD_SIZE": "2", "RANK": "x[$(touch PWNED)]"}, "not numbers; start the ranks with torchrun"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "ranks count from 0"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but torchrun did not start this process"),
    ({"SLURM_NTASKS": "4"}, "SLURM_NTASKS=4, but srun did not start this process"),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"},
     "SLURM_NTASKS=4, but srun did not start this process; use srun, or unset SLURM_NTASKS to run in one process"),
])
def test_ranks_that_nobody_started_are_refused(variables, message, start, tmp_path):
    """A batch script has Slurm's variables without srun: one process would do its share and leave out the others."""
    done = start(**variables)
    assert (done.status, done.calls) == (2, [])
    assert message in done.err.splitlines()[-1]
    assert not (tmp_path / "work").exists()
    assert not list(tmp_path.rglob("PWNED"))


def test_seed_and_sample_in_any_order(start, tmp_path):
    assert start("--seed=1", "--sample=5", "--batch_sizes=1").status in (0, 1)
    assert (tmp_path / "work/sample5_seed1").is_dir()


def test_a_reference_of_the_user(start, tmp_path):
    done = start("--reference=80.5,99", "--batch_sizes=1")
    assert "reference  80.500 %" in done.out
    assert json.loads((tmp_path / "work/run.json").read_text())["reference"] == "80.5,99"


def test_a_cdpath_does_not_lead_astray(tmp_path):
    (tmp_path / "suite").symlink_to(SUITE)
    done = subprocess.run(["bash", "suite/run_all.sh", "--version"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "CDPATH": ".:/"}, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- folders and files that are others'

def om_of_the_real_atc(folder):
    (folder / "m.om").write_bytes(b"IMOD" + bytes(500))
    (folder / "t").mkdir()
    (folder / "t/x.bin").write_bytes(b"tensor")
    (folder / "m.info").write_text("0 ./t/x.bin 1 1\n")


@pytest.mark.parametrize("out", ["photos", "t", "result", ".."])
def test_the_dumps_go_to_no_folder_of_others(out, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    om_of_the_real_atc(folder)
    for name in ("photos", "result"):
        (folder / name).mkdir()
        (folder / name / "thesis.txt").write_text("years")
    done = run(sys.executable, SUITE / "tools/infer.py", "m.om", out, "--info=m.info", "--engine=host", cwd=folder,
               status=2 if out == ".." else 4)
    assert "not the name of a folder" in done.stderr or "so it was not made here; use a separate" in done.stderr
    assert (folder / "photos/thesis.txt").read_text() == (folder / "result/thesis.txt").read_text() == "years"
    assert (folder / "t/x.bin").read_bytes() == b"tensor"


def test_names_that_would_share_a_dump_are_refused(tmp_path):
    om_of_the_real_atc(tmp_path)
    (tmp_path / "m.info").write_text("0 ./t/x.bin 1 1\n1 ./u/x.bin 1 1\n")
    done = run(sys.executable, SUITE / "tools/infer.py", "m.om", "out", "--info=m.info", "--engine=host", cwd=tmp_path,
               status=3)
    assert done.stderr == "infer.py: m.info: 1 duplicate names, which would share a dump: x; rename the images\n"


def test_the_manifest_of_another_program_is_none(tmp_path):
    for name in ("img", "model"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (400, 400)).save(tmp_path / "img/a.png")
    (tmp_path / "model/manifest.json").write_text('{"name": "my app"}')
    (tmp_path / "model/pytorch_model.bin").write_text("weights")
    done = run(sys.executable, SUITE / "img_preprocess.py", "img", "model", cwd=tmp_path, status=3)
    assert "holds 1 .bin files but no manifest.json of this script, so they were not made here" in done.stderr
    assert (tmp_path / "model/pytorch_model.bin").read_text() == "weights"
    assert (tmp_path / "model/manifest.json").read_text() == '{"name": "my app"}'


@pytest.mark.parametrize("kind", ["pipe", "device", "stdout"])
def test_an_output_that_is_not_a_file_is_left_as_it_is(kind, tmp_path):
    (tmp_path / "l.txt").write_text("a.JPEG 1\n")
    out = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to("/dev/null" if kind == "device" else "/proc/self/fd/1")
    # with a timeout run() starts a process by itself, whose stdout is a pipe
    done = run(sys.executable, SUITE / "tools/labels.py", "l.txt", "out", cwd=tmp_path, status=4, timeout=60)
    assert done.stderr == "labels.py: 'out': not a regular file, nor the name of a new one\n"
    assert out.is_symlink() or out.is_fifo()


@pytest.mark.parametrize("out", [".", "/", ""])
def test_an_output_without_a_name(out, tmp_path):
    (tmp_path / "l.txt").write_text("a.JPEG 1\n")
    done = run(sys.executable, SUITE / "tools/labels.py", "l.txt", out, cwd=tmp_path, status=4)
    assert "nor the name of a new one" in done.stderr


def test_the_result_does_not_replace_the_labels(tmp_path):
    (tmp_path / "l.txt").write_text("a.JPEG 1\n")
    (tmp_path / "D").mkdir()
    (tmp_path / "D/a_1.txt").write_text("1 2 3\n")
    done = run(sys.executable, SUITE / "imagenet_acc_eval.py", "D", "l.txt", ".", "l.txt", cwd=tmp_path, status=2)
    assert "l.txt: would replace the labels" in done.stderr
    assert (tmp_path / "l.txt").read_text() == "a.JPEG 1\n"


# ---- inputs that take long, or much

@pytest.mark.parametrize("word", ["--reference=1e9999999999,100", "--reference=1,1e0099999999",
                                  "--max-drop=1e-99999999"])
def test_numbers_that_would_be_worked_out_for_hours(word, tmp_path):
    done = run(sys.executable, SUITE / "imagenet_acc_eval.py", "D", "l.txt", ".", "r.json", "--reference=1,2", word,
               cwd=tmp_path, status=2, timeout=20)
    assert "invalid" in done.stderr


def test_tile_cannot_evade_the_pixel_limit(tmp_path):
    (tmp_path / "img").mkdir()
    tags = {256: 400, 257: 400, 258: 8, 259: 8, 262: 1, 277: 1, 322: 24_000, 323: 24_000, 324: 200, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "img/a.tif").write_bytes(
        struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + bytes(200))
    assert Image.open(tmp_path / "img/a.tif").size == (400, 400)
    done = run(sys.executable, SUITE / "img_preprocess.py", "img", "bins", cwd=tmp_path, status=3)
    assert "a tile of 24000x24000 is over the limit" in done.stderr


def test_a_perf_file_of_many_beginnings(tmp_path):
    dumps = tmp_path / "result/dumpOutput_device0"
    dumps.mkdir(parents=True)
    (dumps / "a_1.txt").write_text("1 2 3\n")
    (tmp_path / "l.txt").write_text("a.JPEG 1\n")
    (tmp_path / "result/perf_vision_batchsize_1_device_0.txt").write_text("[e2e] " * 200_000)
    run(sys.executable, SUITE / "imagenet_acc_eval.py", dumps, "l.txt", ".", "r.json", cwd=tmp_path, timeout=20)


def test_results_that_are_no_numbers_do_not_agree(tmp_path):
    (tmp_path / "D").mkdir()
    np.arange(7, dtype="<f4").tofile(tmp_path / "D/a_1.bin")
    (tmp_path / "l.txt").write_text("a.JPEG 6\n")
    words = (sys.executable, SUITE / "imagenet_acc_eval.py", "D", "l.txt", ".", "r.json", "--classes=7")
    run(*words, cwd=tmp_path)
    shutil.copy(tmp_path / "r.json", tmp_path / "other.json")
    text = (tmp_path / "other.json").read_text()
    (tmp_path / "other.json").write_text(text.replace("100.0%", "nan%", 2).replace("nan%", "100.0%", 1))
    done = run(*words, "--same-as=other.json", cwd=tmp_path, status=3)
    assert done.stderr == "imagenet_acc_eval.py: other.json: not a result.json\n"


# ---- how a script ends

@pytest.mark.parametrize("script", ["imagenet_acc_eval.py", "img_preprocess.py", "tools/report.py",
                                    "tools/precision.py", "tools/study.py", "host/benchmark"])
def test_a_package_that_is_missing_is_reported_in_a_line(script, tmp_path):
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')\n")
    done = run(sys.executable, SUITE / script, "x", cwd=tmp_path, status=4, env={"PYTHONPATH": str(tmp_path)})
    assert done.stderr == f"{os.path.basename(script)}: No module named 'numpy': see requirements.txt\n"


@pytest.mark.parametrize(("ends", "status", "source"), [
    (">&-", 0, "l.txt"), ("2>&-", 0, "l.txt"), ("2>&-", 4, "none.txt"), ("2>/dev/full", 4, "none.txt"),
    (">&- 2>&-", 4, "none.txt"),
])
def test_a_stream_that_is_closed_changes_no_status(ends, status, source, tmp_path):
    (tmp_path / "l.txt").write_text("a.JPEG 1\n")
    done = subprocess.run(["bash", "-c", f'"$@" {ends}', "-", sys.executable, SUITE / "tools/labels.py", source,
                           "out.txt"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.txt").exists() == (status == 0)
    if ends == "2>&-" and status:
        assert done.stdout == ""


def test_npu_smi_that_hangs_or_mumbles(tmp_path, monkeypatch):
    import chips
    from common.cli import Failure

    (tmp_path / "npu-smi").write_text("#!/bin/sh\nprintf 'caf\\351 |\\n'\n")
    (tmp_path / "npu-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Failure, match="npu-smi info prints a table of unknown form|no"):
        chips.usable(chips.find())
    (tmp_path / "npu-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(chips, "PATIENCE", 0.5)
    with pytest.raises(Failure, match="npu-smi info printed nothing for 0.5 s") as failure:
        chips.find()
    assert failure.value.status == 4


def test_computed_shape_cannot_exhaust_memory(tmp_path):
    """OpenVINO does so while it reads the file: 3.6 GB of ones, of which one is taken."""
    model = small_model()
    model.graph.node[-1].output[0] = "product"
    for name, values in (("many", [450_000_000]), ("zero", [0]), ("one", [1]), ("classes", [CLASSES])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, "i8"), name))
    model.graph.node.extend([
        helper.make_node("ConstantOfShape", ["many"], ["ones"], value=numpy_helper.from_array(np.array([1], "i8"))),
        helper.make_node("Slice", ["ones", "zero", "one"], ["first"]),
        helper.make_node("Concat", ["first", "classes"], ["shape"], axis=0),
        helper.make_node("Reshape", ["product", "shape"], ["class"])])
    onnx.save(model, tmp_path / "m.onnx")
    limited = ["bash", "-c", 'ulimit -v 14000000; exec "$@"', "-"]  # kB, should the limit not hold
    done = subprocess.run([*limited, sys.executable, SUITE / "host/atc", "--framework=5", "--model=m.onnx",
                           "--output=m", f"--input_shape=image:1,3,{SIDE},{SIDE}", "--soc_version=Ascend310"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 255
    assert "E19999: Inner error: OpenVINO cannot compile [m.onnx]" in done.stdout + done.stderr
    assert not (tmp_path / "m.om").exists()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 6_000_000  # kB


def test_the_onnx_does_not_replace_the_checkpoint(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK")
    done = run(sys.executable, SUITE / "xception_pth2onnx.py", "x.pth", "x.pth", cwd=tmp_path, status=2)
    assert "x.pth: would replace the checkpoint" in done.stderr
    assert (tmp_path / "x.pth").read_bytes() == b"PK"


def test_a_csv_that_is_invalid(tmp_path):
    (tmp_path / "l.csv").write_text('image,label\na.JPEG,"1\nb.JPEG,2\n')
    done = run(sys.executable, SUITE / "tools/labels.py", "l.csv", "out.txt", cwd=tmp_path, status=3)
    assert done.stderr.startswith("labels.py: l.csv:") and "unexpected" not in done.stderr


def test_byte_order_mark_is_not_part_of_a_name(tmp_path):
    (tmp_path / "D").mkdir()
    (tmp_path / "D/a_1.txt").write_text("1 2 3\n")
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa.JPEG 2\n")
    done = run(sys.executable, SUITE / "imagenet_acc_eval.py", "D", "l.txt", ".", "r.json", cwd=tmp_path)
    assert done.stdout.startswith("top-1  100.00 % (1 / 1)")

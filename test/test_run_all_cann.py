"""run_all.sh on an NPU host: the real script, driven against the fake atc and benchmark of fake_cann/.

A tiny ONNX file and 20 of the demo photos keep a run at a few seconds. One run is shared; tests that go on from
it take a copy of its work directory. What a host with an NPU may lack (torch, openvino) is kept out of reach.
"""
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import options
from common.cli import Failure
from conftest import quick_python

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

SUITE = Path(__file__).resolve().parent.parent
FAKES = SUITE / "test/fake_cann"
PHOTOS = SUITE / "test/data/imagenet"
BENCHMARK = f"benchmark.{platform.machine()}"
IMAGES = 20
TOP1 = "0.8"  # share of the images that the fake benchmark gets right: 16, above the published 78.892 %
LIBRARIES = ("numpy", "PIL.Image", "tqdm", "cv2", "onnx")  # of the scripts and of the fakes
NOT_ON_AN_NPU_HOST = ("torch", "torchvision", "openvino", "matplotlib")

TITLES = [
    "work directory", "3 Conversion: ONNX to om, batch 1", "3 Conversion: ONNX to om, batch 16",
    "4 Data set: labels", "4 Data set: images to tensors", "4 Data set: info file", "5 Offline inference, batch 1",
    "5 Offline inference, batch 16", "6 Accuracy, batch 1", "6 Accuracy, batch 16",
    "7 Summary",
]


def atc_call(batch, model, soc_version="Ascend310"):
    return ["atc", "--framework=5", f"--model={model}", f"--output=xception_bs{batch}", "--input_format=NCHW",
            f"--input_shape=image:{batch},3,299,299", "--log=error", f"--soc_version={soc_version}"]


def benchmark_call(batch, device=0):
    return [BENCHMARK, "-model_type=vision", f"-device_id={device}", f"-batch_size={batch}",
            f"-om_path=xception_bs{batch}.om", "-input_text_path=./xception.info", "-input_width=299",
            "-input_height=299", "-output_binary=False", "-useDvpp=False"]


# ---- a data set, a network, a run

def make_onnx(path: Path, bias=0.0, note="") -> Path:
    """image (-1, 3, 299, 299) -> GlobalAveragePool, Flatten, Gemm -> class (-1, 1000)."""
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["image"], ["pooled"], name="GlobalAveragePool_0"),
         helper.make_node("Flatten", ["pooled"], ["flat"], name="Flatten_1"),
         helper.make_node("Gemm", ["flat", "weight", "bias"], ["class"], name="Gemm_2", transB=1)],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [-1, 3, 299, 299])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, [-1, 1000])],
        [helper.make_tensor("weight", TensorProto.FLOAT, (1000, 3), [0.0] * 3000),
         helper.make_tensor("bias", TensorProto.FLOAT, (1000,), [bias] * 1000)],
        doc_string=note,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)]), str(path))
    return path


def make_data_set(folder: Path) -> Path:
    """val/ with links to photos, and their val_label.txt."""
    (folder / "val").mkdir(parents=True)
    lines = (PHOTOS / "val_label.txt").read_text().splitlines()[::2][:IMAGES]
    for line in lines:
        (folder / "val" / line.split()[0]).symlink_to(PHOTOS / "val" / line.split()[0])
    (folder / "val_label.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_suite(folder: Path) -> Path:
    """The checkout by links, but without a .venv, or a benchmark binary, that may lie in the real one."""
    folder.mkdir()
    for name in ("run_all.sh", "env.sh", "requirements.txt", "common", "host", "tools", "test",
                 *(p.name for p in SUITE.glob("*.py"))):
        (folder / name).symlink_to(SUITE / name)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """suite, tiny.onnx, the data set D (as D/imagenet), and a folder of modules that fail to import."""
    folder = tmp_path_factory.mktemp("inputs")
    make_data_set(folder / "D/imagenet")
    (folder / "modules").mkdir()
    for name in NOT_ON_AN_NPU_HOST:
        (folder / f"modules/{name}.py").write_text(f"raise ImportError('{name}: not on an NPU host')\n")
    return SimpleNamespace(suite=make_suite(folder / "suite"), onnx=make_onnx(folder / "tiny.onnx"), data=folder / "D",
                           labels=folder / "D/imagenet/val_label.txt", modules=folder / "modules", folder=folder)


def environment(inputs, folder, tools=FAKES, **changes):
    """What a process gets: the fake CANN first on PATH, and no other CANN, home or setting of this machine."""
    path = [str(tools), str(quick_python(LIBRARIES)), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
    return {"PATH": os.pathsep.join(path), "HOME": str(folder), "ASCEND_INSTALL_PATH": str(folder / "no_cann"),
            "PYTHONPATH": str(inputs.modules), "PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_INDEX": "1",
            "FAKE_CANN_LOG": str(folder / "calls.jsonl"), "FAKE_CANN_LABELS": str(inputs.labels),
            "FAKE_CANN_TOP1": TOP1, "FAKE_CANN_TENSORS": str(folder), **changes}


def run_all(inputs, folder, *arguments, suite=None, tools=FAKES, **changes):
    """Run run_all.sh in `folder`; return status, out, err, and the calls of atc and benchmark that it made."""
    log = folder / "calls.jsonl"
    log.write_text("")
    done = subprocess.run(["bash", (suite or inputs.suite) / "run_all.sh", *map(str, arguments)], cwd=folder,
                          env=environment(inputs, folder, tools, **changes), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr,
                           calls=[[call["tool"], *call["argv"]] for call in calls],
                           folders={call["cwd"] for call in calls})


@pytest.fixture
def run(inputs, tmp_path):
    """Run run_all.sh on the shared inputs, with tmp_path/work, and what a test adds; the last option given wins."""
    def call(*arguments, **changes):
        shared = ("--weights", inputs.onnx, "--datasets_path", inputs.data)
        return run_all(inputs, tmp_path, *shared, *arguments, **changes)
    return call


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """The shared run, with nothing but what is mandatory; its work directory must not be written to."""
    folder = tmp_path_factory.mktemp("finished")
    done = run_all(inputs, folder, "--weights", inputs.onnx, "--datasets_path", inputs.data)
    assert done.status == 0, done.err
    done.work = folder / "work"
    return done


@pytest.fixture
def work(finished, tmp_path):
    """A copy of the shared work directory, where `run` goes on."""
    def copy(source, target):  # bins are never written in place, and are nearly all of the size
        return os.link(source, target) if source.endswith(".bin") else shutil.copy2(source, target)
    return shutil.copytree(finished.work, tmp_path / "work", copy_function=copy)


def lines(text):
    """The lines of `text`, with single blanks."""
    return [" ".join(line.split()) for line in text.splitlines()]


def tables(done):
    """Return the output from the first table on, or None."""
    return done.out[done.out.index("\n== Accuracy"):] if "\n== Accuracy" in done.out else None


def rows(done):
    """The throughput table as lists of words, without its header."""
    _, header, body = done.out.partition("x4 = per card           e2e\n")
    assert header
    return [line.split() for line in body.splitlines()]


def banners(done):
    """{title: command} in the order printed; a step that was not needed has none."""
    return dict(re.findall(r"^== (.*)\n\$ (.*)$", done.err, re.MULTILINE))


def content(folder):
    """{path: bytes} of a folder, but for the record of the commands, which names the folder, and for the locks."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("run.json", "commands.txt") and not path.name.endswith(".lock")}


def failed_step(done):
    """The step that the last line on stderr names; the run must have ended there, without a verdict."""
    assert done.status != 0
    assert tables(done) is None
    match = re.match(r'run_all\.sh: step "([^"]*)"', done.err.splitlines()[-1])
    assert match, done.err
    return match[1]


# ---- a whole run

def test_atc_and_benchmark_get_the_documented_command_lines(inputs, finished):
    assert finished.calls == [atc_call(1, inputs.onnx), atc_call(16, inputs.onnx),
                              benchmark_call(1), benchmark_call(16)]
    assert finished.folders == {str(finished.work)}


def test_verdict_and_tables(finished):
    printed = lines(tables(finished))
    assert printed[:4] == ["", "== Accuracy, batch 1", "Device: Ascend310, device 0 (benchmark)", printed[3]]
    assert printed[3].startswith("top-1 80.00 % (16 / 20) reference 78.892 %")
    assert any(line.startswith("top-5 100.00 % (20 / 20) reference 94.292 %") for line in printed)
    assert any(line.startswith("PASSED: top-1 is 1.108 points above the reference") for line in printed)
    start = printed.index("== Throughput, images/s")
    assert printed[start + 1:] == ["Device: Ascend310, device 0 (benchmark)",
                                   "batch Interface throughputRate x4 = per card e2e",
                                   "1 158.623 634.492 108.021", "16 198.865 795.46 127.923 best"]


def test_no_report_without_its_packages(finished):
    """It is not a failure, but it is reported."""
    assert finished.err.splitlines()[-2:] == [
        "report.py: matplotlib: not on an NPU host: see requirements.txt",
        "run_all.sh: report.html was not written (see above); the results are complete"]
    assert not (finished.work / "report.html").exists()


def test_the_report_comes_last(inputs, run, work, tmp_path):
    """With the tables' figures and the benchmark's stage times; it replaces an earlier report."""
    modules = shutil.copytree(inputs.modules, tmp_path / "modules")
    (modules / "matplotlib.py").unlink()
    (work / "report.html").write_text("earlier")
    done = run(PYTHONPATH=str(modules))
    assert done.status == 0, done.err
    page = (work / "report.html").read_text()
    assert done.out.splitlines()[-1] == f"{work}/report.html: 20 images, {len(page.encode()):,} bytes"
    assert "torchvision, which has the names of ImageNet's classes, is missing" in done.err
    for text in ("top-1 80.00 %, top-5 100.00 % of 20 images", "Ascend310, device 0 (benchmark)", "16 / 20",
                 "158.623", "634.492", "198.865", "795.46", "PASSED: top-1 is 1.108 points above the reference",
                 "atc&#39;s default, force_fp16", "Time of each stage by batch size", ">9.01<", ">7.58<"):
        assert text in page, text
    assert done.calls == []
    assert "warning" not in page.split("<header>")[1].split("</header>")[0]  # neither host nor demo


def test_both_batch_sizes_are_scored(finished):
    assert finished.out.split("\n== Accuracy")[0].count("PASSED") == 2
    assert "agrees with result_bs1.json: largest difference 0.00 points" in finished.out
    results = [(finished.work / f"result_bs{batch}.json").read_bytes() for batch in (1, 16)]
    assert results[0] == results[1]
    values = {row["key"]: row["value"] for row in json.loads(results[0])["value"]}
    assert values == {"Number of images": "20", "Number of classes": "1000", "Top1 accuracy": "80.0%",
                      **{f"Top{k} accuracy": "100.0%" for k in range(2, 6)}}


def test_each_batch_size_keeps_its_dumps(inputs, finished):
    dumps = [content(finished.work / f"result/dumpOutput_bs{batch}") for batch in (1, 16)]
    assert dumps[0] == dumps[1]
    assert list(dumps[0]) == sorted(path.stem + "_1.txt" for path in (inputs.data / "imagenet/val").iterdir())
    assert not (finished.work / "result/dumpOutput_device0").exists()


def test_no_half_written_file_is_left(finished):
    assert [name for name in content(finished.work) if name.endswith(".part")] == []


def test_every_step_has_its_banner(inputs, finished):
    commands = banners(finished)
    assert list(commands) == TITLES
    for batch in (1, 16):
        for command in (atc_call(batch, inputs.onnx), benchmark_call(batch)):
            assert shlex.join(command) in [line[2:] for line in finished.err.splitlines()]
        assert {"--reference=published", "--max-drop=1.0"} < {*shlex.split(commands[f"6 Accuracy, batch {batch}"])}


def test_banners_can_be_run_by_hand(inputs, finished, work, tmp_path):
    expected = content(work)
    commands = banners(finished)
    shutil.rmtree(work / "prep_dataset")
    for name in ("xception.info", "xception_bs16.om", "result_bs16.json", "result/dumpOutput_bs16"):
        path = work / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for title in [title for title in TITLES[1:] if not title.endswith("batch 1")]:
        done = subprocess.run(["bash", "-c", commands[title]], cwd=work, env=environment(inputs, tmp_path),
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert content(work) == expected


# ---- other options

def test_no_per_card_figure_for_other_chips(inputs, run, work):
    done = run("--soc_version", "Ascend310P3")
    assert done.status == 0
    assert done.calls == [*(atc_call(batch, inputs.onnx, "Ascend310P3") for batch in (1, 16)),
                          benchmark_call(1), benchmark_call(16)]
    assert lines(done.out).count("Device: Ascend310P3, device 0 (benchmark)") == 2
    assert rows(done) == [["1", "158.623", "-", "108.021"], ["16", "198.865", "-", "127.923", "best"]]


def test_a_further_batch_size(inputs, run, work):
    done = run("--batch_sizes", "1,4")
    assert done.status == 0
    assert done.calls == [atc_call(4, inputs.onnx), benchmark_call(4)]
    assert [row[:3] for row in rows(done)] == [["1", "158.623", "634.492"], ["4", "182.215", "728.86"]]


def test_the_sweep_times_five_batch_sizes_in_both_modes(inputs, run, work):
    done = run("--sweep")
    assert done.status == 0, done.err
    pure = [[BENCHMARK, "-round=20", f"-om_path=xception_bs{batch}.om", "-device_id=0", f"-batch_size={batch}"]
            for batch in (1, 4, 8, 16, 32)]
    assert [call for call in done.calls if "-round=20" in call] == pure
    _, _, body = done.out.partition("e2e  pure inference\n")
    table = [line.split() for line in body.splitlines()]
    assert [row[:3] for row in table[:5]] == [
        ["1", "158.623", "634.492"], ["4", "182.215", "728.86"], ["8", "203.357", "813.428"],
        ["16", "198.865", "795.46"], ["32", "164.302", "657.208"]]
    assert [row[-1] == "best" for row in table[:5]] == [False, False, True, False, False]
    assert table[5:] == [["also", "in", "throughput.csv"]]
    written = (work / "throughput.csv").read_text().splitlines()
    assert written[0] == "batch_size,devices,interface,per_card,e2e,pure"
    assert [row.split(",")[2] for row in written[1:]] == ["158.623", "182.215", "203.357", "198.865", "164.302"]


def test_four_chips_score_as_one(inputs, finished, run, work):
    done = run("--batch_sizes=1", "--device_ids=0,1,2,3", "--workdir=other")
    assert done.status == 0, done.err
    assert sorted(call[2] for call in done.calls if call[0] == BENCHMARK) == [f"-device_id={i}" for i in range(4)]
    assert "Device: Ascend310, device 0,1,2,3 (benchmark)" in done.out
    assert "together 634.492" in done.out
    assert rows(done)[0][:3] == ["1", "634.492", "-"]  # measured, so not multiplied
    other = work.parent / "other"
    assert content(other / "result/dumpOutput_bs1") == content(finished.work / "result/dumpOutput_bs1")
    assert (other / "result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()


@pytest.mark.parametrize(("table", "chip", "device", "message"), [
    ("310P3", "Ascend310P3", 0, ""),
    ("910", "Ascend910A", 0, ""),
    ("310P3-unhealthy", "Ascend310P3", 1, "device 0 (Ascend310P3) left out: its health is Alarm"),
    ("310P3-process", "Ascend310P3", 0, "warning: device 0 is busy (AICore 0 %, 1 processes)"),
])
def test_chip_and_device_are_what_npu_smi_says(table, chip, device, message, inputs, run, work):
    done = run("--batch_sizes=1", FAKE_CANN_NPU_SMI=table)
    assert done.status == 0, done.err
    assert done.calls == [atc_call(1, inputs.onnx, chip), benchmark_call(1, device)]
    assert f"Device: {chip}, device {device} (benchmark)" in done.out
    assert rows(done)[0][2] == "-"  # four chips are on the card of an Ascend310 alone
    assert message in done.err
    assert ("warning: device" in done.err) == message.startswith("warning")
    assert ("left out" in done.err) == ("left out" in message)


def test_options_override_npu_smi_and_a_busy_chip_is_reported_before_it_is_timed(inputs, run, work):
    done = run("--batch_sizes=1", "--soc_version=Ascend310P3", "--device_ids=1", FAKE_CANN_NPU_SMI="310-busy")
    assert done.status == 0, done.err
    assert done.calls[0] == atc_call(1, inputs.onnx, "Ascend310P3")
    warning = "warning: device 1 is busy (AICore 35 %, 0 processes)"
    assert done.err.index(warning) < done.err.index(f"$ {BENCHMARK} -model_type=vision -device_id=1")


def test_a_host_without_npu_smi(inputs, run, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("atc", BENCHMARK):
        (tools / name).symlink_to(FAKES / name)
    done = run("--batch_sizes=1", tools=tools, FAKE_CANN_NPU_SMI="none")
    assert done.status == 0, done.err
    assert done.calls == [atc_call(1, inputs.onnx, "Ascend310"), benchmark_call(1)]


def test_npu_smi_that_fails_is_reported_before_anything_is_made(inputs, run, tmp_path):
    done = run(FAKE_CANN_NPU_SMI="none")
    assert (done.status, done.calls) == (4, [])
    assert "npu-smi info failed (exit status 1): dcmi module initialize failed" in done.err
    assert done.err.splitlines()[-1].endswith("; pass --soc_version and --device_ids")
    assert not (tmp_path / "work").exists()
    named = run("--batch_sizes=1", "--soc_version=Ascend310", "--device_ids=2", FAKE_CANN_NPU_SMI="none")
    assert named.status == 0, named.err
    assert "warning: npu-smi info failed (exit status 1): dcmi module initialize failed" in named.err
    assert "; cannot check that the chip is idle" in named.err
    assert named.calls == [atc_call(1, inputs.onnx), benchmark_call(1, device=2)]


def test_failing_chip_is_named_and_only_its_share_is_rerun(finished, run, tmp_path):
    chips = ("--batch_sizes=1", "--device_ids=0,1,2,3")
    done = run(*chips, FAKE_CANN_FAIL="init-exit1", FAKE_CANN_FAIL_DEVICE="2")
    assert done.status == 4
    assert failed_step(done) == "5 Offline inference, batch 1"
    assert [line for line in done.err.splitlines() if line.startswith("infer.py: device")] == [
        "infer.py: device 2: benchmark ended with status 1; benchmark printed: [ERROR] Inference init failed."]
    assert len(list((tmp_path / "work/result/dumpOutput_bs1").glob("*.txt"))) == 15
    again = run(*chips)
    assert again.status == 0, again.err
    assert "20 dumps in result/dumpOutput_bs1 (5 made, 15 kept)" in again.out
    assert [call[0] for call in again.calls] == [BENCHMARK] * 4  # the om is kept
    assert (tmp_path / "work/result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()


def test_a_device_that_is_not_there(run, tmp_path):
    done = run("--batch_sizes=1", "--device_ids=0,1", FAKE_CANN_DEVICES="0")
    assert (done.status, failed_step(done)) == (4, "5 Offline inference, batch 1")
    # the benchmark ends with status 0 when it finds no such device
    assert "infer.py: device 1: 10 of 10 tensors have no complete dump (./prep_dataset/" in done.err
    assert "infer.py: device 0" not in done.err


def ais_environment(inputs, **more):
    """For run(): the fake ais_bench importable, and no benchmark binary to prefer to it."""
    return {"PYTHONPATH": os.pathsep.join([str(FAKES / "python"), str(inputs.modules)]), **more}


def ais_call(batch, device=0):
    return ["ais_bench", f"--model=xception_bs{batch}.om", f"--batchsize={batch}", f"--device={device}",
            "--input=input", "--output=output", "--outfmt=TXT"]


@pytest.fixture
def no_binary(tmp_path):
    """A folder of tools as in CANN 5.1 and later: atc, but no benchmark binary."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/atc").symlink_to(FAKES / "atc")
    return tmp_path / "tools"


def test_cann_without_atc(run, tmp_path):
    """Only its runtime, for instance: reported before anything starts."""
    cann = tmp_path / "cann/ascend-toolkit"
    cann.mkdir(parents=True)
    (cann / "set_env.sh").write_text("")
    done = run(tools=tmp_path / "none", ASCEND_INSTALL_PATH=str(tmp_path / "cann"))
    assert (done.status, done.out) == (4, "")
    assert done.err.splitlines() == [
        f"env.sh: CANN from {cann}/set_env.sh, but that puts no atc on PATH",
        "run_all.sh: atc: not found, although CANN is installed; install its toolkit, or set ASCEND_INSTALL_PATH to "
        "another (README section 2)"]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("release", ["2022-06", "fork"])  # all: test_ais_bench.py
def test_ais_bench_without_a_binary(release, inputs, finished, run, no_binary, work):
    done = run("--workdir=other", "--soc_version=Ascend310P3", tools=no_binary,
               **ais_environment(inputs, FAKE_CANN_AIS=release))
    assert done.status == 0, done.err
    assert done.calls[2:] == [ais_call(1), ais_call(16)]
    other = work.parent / "other"
    for batch in (1, 16):
        dumps = content(other / f"result/dumpOutput_bs{batch}")
        expected = content(finished.work / f"result/dumpOutput_bs{batch}")
        assert {name.replace("_0.txt", "_1.txt"): data for name, data in dumps.items()} == expected
    assert (other / "result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()
    assert "Device: Ascend310P3, device 0 (ais_bench)" in done.out
    assert [[float(row[1]), row[2]] for row in rows(done)] == [[pytest.approx(799), "-"], [pytest.approx(1507), "-"]]
    # the tables look the same whichever tool ran
    assert [re.sub(r"[\d.]+|-", "#", line) for line in tables(done).splitlines()[3:9]] == \
        [re.sub(r"[\d.]+|-", "#", line) for line in tables(finished).splitlines()[3:9]]
    again = run("--workdir=other", "--soc_version=Ascend310P3", tools=no_binary, **ais_environment(inputs))
    assert (again.status, again.calls) == (0, [])


@pytest.mark.parametrize("engine", ["benchmark", "ais_bench"])
def test_dumps_in_binary_score_as_those_in_text(engine, inputs, finished, run, work):
    done = run("--dumps=bin", f"--engine={engine}", **ais_environment(inputs))
    assert done.status == 0, done.err
    assert [next(word for word in call if word.startswith(("-output_binary", "--outfmt"))) for call in done.calls] == \
        ["-output_binary=True" if engine == "benchmark" else "--outfmt=BIN"] * 2
    for batch in (1, 16):
        dumps = content(work / f"result/dumpOutput_bs{batch}")
        assert {len(data) for data in dumps.values()} == {4000}
        texts = content(finished.work / f"result/dumpOutput_bs{batch}")
        assert {name.split("_")[0]: [float(value) for value in text.split()] for name, text in texts.items()} == \
            {name.split("_")[0]: pytest.approx(np.frombuffer(data, "<f4"), abs=5e-7) for name, data in dumps.items()}
        for name in (f"result_bs{batch}.json", f"details_bs{batch}.csv"):
            assert (work / name).read_bytes() == (finished.work / name).read_bytes()
    again = run("--dumps=bin", f"--engine={engine}", **ais_environment(inputs))
    assert (again.status, again.calls) == (0, [])


def test_engine_forces_ais_bench_and_a_change_of_tool_reruns(inputs, run, work):
    done = run("--engine=ais_bench", "--batch_sizes=1", "--device_ids=0,2", **ais_environment(inputs))
    assert done.status == 0, done.err
    assert sorted(done.calls) == sorted([ais_call(1), ais_call(1, 2)])
    assert len(list((work / "result/dumpOutput_bs1").glob("*_0.txt"))) == IMAGES
    assert not list((work / "result/dumpOutput_bs1").glob("*_1.txt"))


def test_ais_bench_fails(inputs, finished, run, no_binary, tmp_path):
    bad = run("--batch_sizes=1", tools=no_binary, **ais_environment(inputs, FAKE_CANN_FAIL="ais-missing"))
    assert failed_step(bad) == "5 Offline inference, batch 1"
    assert "infer.py: device 0: 2 of 20 tensors have no complete dump" in bad.err
    good = run("--batch_sizes=1", tools=no_binary, **ais_environment(inputs))
    assert good.status == 0, good.err
    assert (tmp_path / "work/result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()


@pytest.mark.parametrize(("fault", "message"), [
    ("ais-error", "ais_bench ended with status 1"),
    ("ais-no-throughput", "ais_bench printed no throughput (see result/ais_bench_bs1_device0.log)"),
])
def test_each_fault_of_ais_bench_ends_the_step(fault, message, inputs, work, no_binary, tmp_path):
    interrupted(work)
    done = run_step(inputs, work, tmp_path, *INFER, status=4, tools=no_binary,
                    **ais_environment(inputs, FAKE_CANN_FAIL=fault))
    assert f"infer.py: device 0: {message}" in done.stderr


def test_a_batch_size_that_is_not_the_oms_is_refused_before_it_is_timed(inputs, work, tmp_path):
    bad = run_step(inputs, work, tmp_path, *INFER[:-2], "--batch_size=16", "--device_ids=0", status=2)
    assert bad.stderr == "infer.py: xception_bs1.om: compiled for a batch of 1, not 16; pass --batch_size 1\n"
    interrupted(work)
    assert "-batch_size=1 " in run_step(inputs, work, tmp_path, *INFER[:-2], "--device_ids=0").stderr  # the default


@pytest.mark.parametrize("mode", [("result/out", "--info=./xception.info"), ("result/pure", "--round=5")])
def test_ais_bench_that_ran_another_batch_size_has_no_rate(mode, inputs, work, no_binary, tmp_path):
    """Of an om that was compiled by hand: ais_bench computes the rate from its --batchsize."""
    (work / "xception_bs16.om.json").unlink()
    bad = run_step(inputs, work, tmp_path, "infer.py", "xception_bs16.om", *mode, "--batch_size=1", status=4,
                   tools=no_binary, **ais_environment(inputs))
    assert "device 0: ais_bench ran 16 tensors at a time instead of 1, so its rate is wrong" in bad.stderr
    assert not list(work.glob("result/out/*"))
    run_step(inputs, work, tmp_path, "infer.py", "xception_bs16.om", *mode, "--batch_size=16", tools=no_binary,
             **ais_environment(inputs))


@pytest.mark.parametrize("change", ["om", "tensors"])
def test_float_tensors_of_an_om_with_aipp_and_the_reverse_are_refused_before_they_run(change, inputs, work, tmp_path):
    if change == "om":
        run_step(inputs, work, tmp_path, "compile_om.py", inputs.onnx, "xception_bs1", "--batch_size=1",
                 "--soc_version=Ascend310", "--aipp")
    else:
        manifest = json.loads((work / "prep_dataset/manifest.json").read_text())
        manifest["recipe"]["dtype"] = "uint8"
        (work / "prep_dataset/manifest.json").write_text(json.dumps(manifest))
    bad = run_step(inputs, work, tmp_path, *INFER, status=3)
    has, takes, by = ("float32", "uint8, HWC", "by") if change == "om" else ("uint8", "float32, CHW", "without")
    assert f"prep_dataset: holds {has} tensors, CHW, but xception_bs1.om takes {takes}, {by} AIPP; rerun" in bad.stderr


def test_aipp_makes_uint8_tensors_and_another_om(inputs, run, work):
    done = run("--aipp", "--batch_sizes=1")
    assert done.status == 0, done.err
    assert done.calls == [[*atc_call(1, inputs.onnx), f"--insert_op_conf={SUITE}/tools/xception_aipp.cfg"],
                          benchmark_call(1)]
    assert {path.stat().st_size for path in (work / "prep_dataset").glob("*.bin")} == {268_203}
    back = run("--batch_sizes=1")
    assert back.status == 0
    assert back.calls == [atc_call(1, inputs.onnx), benchmark_call(1)]
    assert {path.stat().st_size for path in (work / "prep_dataset").glob("*.bin")} == {1_072_812}


def test_unreadable_images_end_the_run_or_are_left_out(inputs, run, tmp_path):
    data = make_data_set(tmp_path / "D")
    bad = sorted((data / "val").iterdir())[3]
    bad.unlink()
    bad.write_text("404 Not Found")
    done = run("--datasets_path", data, "--batch_sizes=1")
    assert (done.status, failed_step(done)) == (3, "4 Data set: images to tensors")
    assert f"{bad}: text ('404 Not Found'...); download or copy it again" in done.err
    done = run("--datasets_path", data, "--batch_sizes=1", "--on-error", "skip")
    assert done.status == 0
    assert (tmp_path / "work/prep_dataset/skipped.txt").read_text().startswith(f"{bad}\ttext (")
    assert re.search(r"^top-1 +\d\d\.\d\d % \(1\d / 19\)", tables(done), re.MULTILINE)
    assert "partial run: 1 of 20 labels have no dump and are not counted" in tables(done)


def test_quick_look_has_a_separate_folder(inputs, finished, run, work):
    """The tensors and dumps of the whole set, made before, stay as they are; the om is used as it is."""
    before = content(work)
    done = run("--sample", "5", "--seed", "7", "--batch_sizes=1")
    assert done.status in (0, 1)
    assert done.calls == [benchmark_call(1)]
    assert done.folders == {str(work / "sample5_seed7")}
    assert "Some of the images only: --sample=5 --seed=7" in tables(done)
    assert re.search(r"^top-1 .* / 5\) ", tables(done), re.MULTILINE)
    names = {path.stem for path in (work / "sample5_seed7/prep_dataset").glob("*.bin")}
    assert len(names) == 5
    after = content(work)
    assert {name: after[name] for name in before} == before
    again = run("--sample=5", "--seed=7", "--batch_sizes=1")
    assert "5 tensors in prep_dataset (0 made, 5 kept)" in again.out
    assert run("--limit", "3", "--batch_sizes=1").folders == {str(work / "limit3")}
    assert sorted(path.stem for path in (work / "limit3/prep_dataset").glob("*.bin")) == sorted(
        path.stem for path in (work / "prep_dataset").glob("*.bin"))[:3]


def test_labels_from_class_folders_or_a_csv_give_the_same_scores(inputs, finished, tmp_path, run):
    rows = [line.split() for line in inputs.labels.read_text().splitlines()]
    for name, label in rows:
        (tmp_path / f"D/val/{label}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"D/val/{label}" / name).symlink_to(PHOTOS / "val" / name)
    (tmp_path / "labels.csv").write_text("image,class\n" + "".join(f"{name},{label}\n" for name, label in rows))
    done = run("--batch_sizes=1", "--datasets_path", tmp_path / "D", "--labels", tmp_path / "labels.csv")
    assert done.status == 0, done.err
    assert (tmp_path / "work/val_label.txt").read_text() == "".join(f"{n} {k}\n" for n, k in sorted(rows))
    assert (tmp_path / "work/result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()
    done = run("--batch_sizes=1", "--datasets_path", tmp_path / "D")
    assert (done.status, failed_step(done)) == (3, "4 Data set: labels")  # numbers whose order by name is another
    (tmp_path / "D/val_label.txt").symlink_to(inputs.labels)
    assert run("--batch_sizes=1", "--datasets_path", tmp_path / "D").status == 0


def test_quiet_leaves_out_commands_and_progress(finished, run, work):
    done = run("--quiet")
    assert done.status == 0
    assert "$ " not in done.err
    assert tables(done) == tables(finished)


def test_check_reports_what_is_there_and_starts_nothing(inputs, run, tmp_path):
    done = run("--check", "--aipp", FAKE_CANN_NPU_SMI="310")
    assert done.status == 0, done.out + done.err
    assert done.calls == []  # neither atc nor benchmark
    lines = done.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "✓ tools", "✓ python", "✓ weights", "✓ data set", "✓ paths", "✓ work directory", "✓ disk", "✓ CANN",
        "✓ chips", "✓ CPU"]
    assert lines[0] == f"✓ tools: CANN is on PATH already ({FAKES}/atc)"
    assert lines[3] == f"✓ data set: {IMAGES} images, each with its label"
    assert re.match(r"✓ disk: 0\.3 GB needed in .*/work, [0-9.]+ GB free$", lines[6])
    assert lines[7] == "✓ CANN: unknown version, benchmark"
    assert lines[8].startswith("✓ chips: device 0: Ascend310, health OK")
    assert not (tmp_path / "work").exists()


def test_check_names_all_that_is_missing_at_once(inputs, run, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "atc").symlink_to(FAKES / "atc")
    done = run("--check", "--weights", "no.pth", "--datasets_path", "no", tools=tools)
    assert done.status == 3
    assert [line.partition(":")[0] for line in done.out.splitlines()] == [
        "✗ tools", "✓ python", "✗ weights", "✗ data set", "✓ paths", "✓ work directory", "✗ disk", "✗ CANN",
        "✓ chips", "✓ CPU"]
    assert f"✗ tools: {BENCHMARK} or ais_bench: not found" in done.out
    assert "npu-smi not found; the run assumes Ascend310, device 0" in done.out


def test_an_engine_that_is_not_there_is_reported_at_once(run, tmp_path):
    done = run("--engine=ais_bench")
    assert (done.status, done.calls) == (4, [])
    assert "ais_bench: not found" in done.err
    assert not (tmp_path / "work").exists()


def test_gate_not_met(run, work):
    shutil.rmtree(work / "result")
    done = run(FAKE_CANN_TOP1="0.5")
    assert done.status == 1
    printed = lines(tables(done))
    assert printed[3].startswith("top-1 50.00 % (10 / 20) reference 78.892 %")
    assert any(line.startswith("FAILED: top-1 is 28.892 points below the reference") for line in printed)
    assert rows(done) == [["1", "158.623", "634.492", "108.021"], ["16", "198.865", "795.46", "127.923", "best"]]


def test_batch_sizes_that_disagree(run, work):
    shutil.rmtree(work / "result/dumpOutput_bs16")
    done = run(FAKE_CANN_TOP1="1")
    assert done.status == 1
    assert done.out.count("PASSED") == 3 and "FAILED" not in done.out
    assert "DISAGREES with result_bs1.json: largest difference 20.00 points" in done.out
    assert len(rows(done)) == 2


def test_data_set_without_imagenet_folder_and_values_after_equal_signs(inputs, finished, tmp_path):
    data = make_data_set(tmp_path / "set=1")
    done = run_all(inputs, tmp_path, f"--datasets_path={data}", f"--weights={inputs.onnx}", "--batch_sizes=1",
                   "--workdir=here", "--resize=299", "--soc_version=Ascend710")
    assert done.status == 0, done.err
    assert done.calls == [atc_call(1, inputs.onnx, "Ascend710"), benchmark_call(1)]
    assert (tmp_path / "here/result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()
    assert json.loads((tmp_path / "here/prep_dataset/manifest.json").read_text())["recipe"]["resize"] == 299
    assert not (tmp_path / "work").exists()


def test_old_spellings_in_the_perf_file(run, work):
    shutil.rmtree(work / "result")
    done = run("--batch_sizes=1", FAKE_CANN_FAIL="old-tags")
    assert done.status == 0
    assert "[inference] " in (work / "result/perf_vision_batchsize_1_device_0.txt").read_text()
    assert rows(done) == [["1", "158.623", "634.492", "108.021"]]


# ---- the same command again

def test_same_command_again_redoes_nothing(finished, run, work):
    expected = content(work)
    done = run("--batch_sizes=1,16", "--workdir=work", "--resize=333", "--soc_version=Ascend310")
    assert (done.status, done.calls) == (0, [])
    assert "20 tensors in prep_dataset (0 made, 20 kept)" in done.out
    assert tables(done) == tables(finished)
    assert content(work) == expected
    before, after = (json.loads((folder / "run.json").read_text()) for folder in (finished.work, work))
    before["commands"][0] = f"cd {work}"
    assert after == before


def test_only_what_depends_on_a_change_is_redone(inputs, tmp_path):
    model, data = make_onnx(tmp_path / "own.onnx"), make_data_set(tmp_path / "own")

    def go():
        done = run_all(inputs, tmp_path, "--weights=own.onnx", "--datasets_path=own", "--batch_sizes=1")
        bins = re.search(r"\((\d+) made, (\d+) kept\)", done.out)
        return done.status, done.calls, bins and bins.groups(), lines(tables(done) or "")[3:4]

    status, calls, bins, top1 = go()
    assert (status, calls, bins) == (0, [atc_call(1, model), benchmark_call(1)], ("20", "0"))
    make_onnx(model, bias=1.0)
    assert go() == (0, [atc_call(1, model), benchmark_call(1)], ("0", "20"), top1)
    first, second = sorted((data / "val").iterdir())[:2]
    os.utime(shutil.copy(second, data / "new"), (1, 1))
    (data / "new").replace(first)
    assert go() == (0, [benchmark_call(1)], ("1", "19"), top1)
    labels = data / "val_label.txt"
    labels.write_text(re.sub(rf"{second.name} \d+", f"{second.name} 0", labels.read_text()))  # 16 right before, now 15
    status, calls, bins, top1 = go()
    assert (status, calls, bins) == (1, [], ("0", "20"))
    assert top1[0].startswith("top-1 75.00 % (15 / 20)")


def test_another_resize_remakes_bins_and_dumps(run, work):
    before = content(work / "prep_dataset")
    done = run("--batch_sizes=1", "--resize", "342")
    assert done.status == 0
    assert done.calls == [benchmark_call(1)]
    after = content(work / "prep_dataset")
    assert list(after) == list(before)
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize("damage", [Path.unlink, lambda om: om.write_bytes(om.read_bytes()[:300]),
                                    lambda om: om.write_bytes(om.read_bytes()[::-1])], ids=["gone", "cut", "other"])
def test_an_om_that_is_not_as_it_was_is_recompiled(inputs, work, tmp_path, damage):
    expected = content(work)
    damage(work / "xception_bs16.om")
    printed = [run_step(inputs, work, tmp_path, "compile_om.py", inputs.onnx, "xception_bs16", "--batch_size=16",
                        "--soc_version=Ascend310").stdout for _ in range(2)]
    assert ["up to date" in text for text in printed] == [False, True]
    assert content(work) == expected


def test_only_changed_dumps_are_rerun(run, work):
    """test_infer.py has the other ways in which a dump may differ."""
    expected = content(work / "result/dumpOutput_bs16")
    next((work / "result/dumpOutput_bs16").iterdir()).unlink()
    done = run("--batch_sizes=16")
    assert done.status == 0, done.err
    assert content(work / "result/dumpOutput_bs16") == expected
    assert f"(1 made, {len(expected) - 1} kept)" in done.out
    assert len(done.calls) == 1


# ---- atc and benchmark fail

@pytest.mark.parametrize("fault, status", [("no-om", 4), ("exit255", 255), ("truncated-om", 4)])
def test_atc_fails(inputs, finished, run, tmp_path, fault, status):
    bad = run("--batch_sizes=1", FAKE_CANN_FAIL=fault)
    assert failed_step(bad) == "3 Conversion: ONNX to om, batch 1"
    assert (bad.status, bad.calls) == (status, [atc_call(1, inputs.onnx)])
    good = run("--batch_sizes=1")
    assert (good.status, good.calls) == (0, [atc_call(1, inputs.onnx), benchmark_call(1)])
    assert (tmp_path / "work/result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()


def test_old_om_is_not_used_if_atc_writes_none(inputs, run, work):
    bad = run("--batch_sizes=1", "--soc_version=Ascend310P3", FAKE_CANN_FAIL="no-om")
    assert failed_step(bad) == "3 Conversion: ONNX to om, batch 1"
    assert not (work / "xception_bs1.om").exists()
    good = run("--batch_sizes=1")
    assert (good.status, good.calls) == (0, [atc_call(1, inputs.onnx)])


def test_benchmark_fails(run, work):
    """On top of the dumps and the perf file of an earlier run that was interrupted."""
    expected = content(work)
    interrupted(work)
    bad = run("--batch_sizes=1", FAKE_CANN_FAIL="missing-dumps")
    assert failed_step(bad) == "5 Offline inference, batch 1"
    assert bad.calls == [benchmark_call(1)]
    good = run("--batch_sizes=1")
    assert good.status == 0
    assert [call[0] for call in good.calls] == [BENCHMARK]
    assert dumps_in(expected).items() <= content(work).items()
    assert content(work)["result_bs1.json"] == expected["result_bs1.json"]


def interrupted(work):
    """Make the work directory as a run leaves it that was killed between the benchmark's end and the record."""
    (work / "result/dumpOutput_bs1.json").unlink()
    (work / "result/dumpOutput_bs1").rename(work / "result/dumpOutput_device0")


def dumps_in(files: dict) -> dict:
    return {name: data for name, data in files.items() if "dumpOutput_bs1/" in name and name.endswith(".txt")}


def run_step(inputs, work, folder, script, *arguments, status=0, **changes):
    """Run one of tools/ in the work directory, as run_all.sh does."""
    done = subprocess.run([sys.executable, SUITE / "tools" / script, *map(str, arguments)], cwd=work,
                          env=environment(inputs, folder, **changes), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


INFER = ("infer.py", "./xception_bs1.om", "result/dumpOutput_bs1", "--info=./xception.info", "--batch_size=1",
         "--device_ids=0")


@pytest.mark.parametrize("fault", ["init-exit0", "init-exit1", "size-mismatch", "no-perf", "nan", "short-dump"])
def test_each_fault_of_the_benchmark_ends_the_step(inputs, work, tmp_path, fault):
    """As above, with the step's command alone."""
    expected = dumps_in(content(work))
    interrupted(work)
    run_step(inputs, work, tmp_path, *INFER, status=4, FAKE_CANN_FAIL=fault)
    run_step(inputs, work, tmp_path, *INFER)
    assert dumps_in(content(work)) == expected


def test_stale_dumps_that_the_benchmark_leaves_are_never_scored(run, work):
    expected = content(work / "result/dumpOutput_bs1")
    shutil.rmtree(work / "result")
    assert run("--batch_sizes=1", FAKE_CANN_FAIL="stale-dumps").status == 0
    assert content(work / "result/dumpOutput_bs1") == expected


def test_scoring_resumes_once_the_labels_are_fixed(finished, inputs, run, work, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/val").symlink_to(inputs.data / "imagenet/val")
    labels, rest = tmp_path / "own/val_label.txt", inputs.labels.read_text()
    labels.write_text(rest.partition("\n")[2])
    bad = run("--datasets_path=own")
    assert failed_step(bad) == "4 Data set: labels"
    assert (bad.status, bad.calls) == (3, [])
    labels.write_text(rest)
    good = run("--datasets_path=own")
    assert (good.status, good.calls) == (0, [])
    assert tables(good) == tables(finished)


def test_benchmark_missing(inputs, run, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "atc").symlink_to(FAKES / "atc")
    done = run(tools=tools)
    assert (done.status, done.out, done.calls) == (4, "", [])
    assert done.err.splitlines()[-1].startswith(f"run_all.sh: {BENCHMARK} or ais_bench: not found; ")
    assert not (tmp_path / "work").exists()

    suite = make_suite(tmp_path / "suite")  # the remedy that the message names
    (suite / BENCHMARK).symlink_to(FAKES / BENCHMARK)
    done = run("--batch_sizes=1", tools=tools, suite=suite)
    assert (done.status, done.calls) == (0, [atc_call(1, inputs.onnx), benchmark_call(1)])


# ---- paths that CANN does not take

def test_work_directory_with_blanks(finished, run, tmp_path):
    """Nothing that atc and benchmark are given leads through it, as long as the weights lie elsewhere."""
    work = tmp_path / "my own  work"
    done = run("--batch_sizes=1", "--workdir", work)
    assert (done.status, done.folders) == (0, {str(work)})
    assert (work / "result_bs1.json").read_bytes() == (finished.work / "result_bs1.json").read_bytes()
    there = subprocess.run(["bash", "-c", banners(done)["work directory"] + " && pwd"], cwd="/", capture_output=True,
                           text=True, check=True)
    assert there.stdout == f"{work}\n"


@pytest.mark.parametrize("name", ["my work", "c++", "a(1)", "x@y"])
def test_paths_that_atc_refuses_are_refused_before_anything_runs(name, run, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    model = make_onnx(folder / "own.onnx")
    for more, exit_status in (((), 2), (("--check",), 3)):
        done = run("--weights", model, "--workdir", tmp_path / "work", *more)
        assert (done.status, done.calls) == (exit_status, [])
        message = f": {model}: atc takes only letters, digits and . _ - / in a path; move the file"
        assert (f"✗ paths{message}" in done.out.splitlines()) if more else done.err.endswith(f"run_all.sh{message}\n")
    assert not (tmp_path / "work").exists()


def test_a_checkpoint_is_not_exported_into_a_path_that_atc_refuses(inputs, run, tmp_path):
    checkpoint = tmp_path / "w.pth"
    checkpoint.write_bytes(b"PK")
    done = run("--weights", checkpoint, "--workdir", tmp_path / "my work")
    assert (done.status, done.calls) == (2, [])
    assert done.err.splitlines()[-1] == (f"run_all.sh: {tmp_path}/my work/xception.onnx: atc takes only letters, "
                                         "digits and . _ - / in a path; pass another --workdir")
    assert not (tmp_path / "my work").exists()


def test_a_checkout_that_atc_refuses_is_refused_with_aipp(monkeypatch):
    """Whose config is in the checkout."""
    monkeypatch.setattr(options, "ROOT", Path("/home/me/my suite"))
    args = SimpleNamespace(weights="/w/x.onnx", workdir="/w/work", aipp="yes")
    with pytest.raises(Failure, match="^/home/me/my suite: atc takes only .*; move this checkout$"):
        options.check_paths(args)
    args.aipp = ""
    options.check_paths(args)


def test_work_directory_with_a_plus_sign(run, tmp_path):
    """The om would be compiled, and then fail to load."""
    done = run("--workdir", tmp_path / "c++")
    assert (done.status, done.calls) == (2, [])
    assert done.err.splitlines()[-1].startswith(f"run_all.sh: {tmp_path}/c++: an om does not load from a path with +")


def test_bf16_is_refused_with_cann_before_anything_runs(run, tmp_path):
    done = run("--precision=bf16")
    assert (done.status, done.calls) == (2, [])
    assert done.err.splitlines()[-1].startswith("run_all.sh: --precision bf16 is a preview of the CPU stand-ins")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("option", "flag", "recorded"), [
    ("--precision=f32", "--precision_mode=must_keep_origin_dtype", "f32 (must_keep_origin_dtype)"),
    ("--precision=fp16", "--precision_mode=force_fp16", "fp16 (force_fp16)")])
def test_the_precision_is_handed_to_atc_and_put_on_record(option, flag, recorded, inputs, finished, run, work):
    def record(folder):
        return json.loads((folder / "run.json").read_text())["om"]["1"]["precision"]

    done = run("--batch_sizes=1", option)
    assert done.status == 0, done.err
    assert done.calls[0] == [*atc_call(1, inputs.onnx), flag]  # another om
    assert record(work) == recorded
    assert record(finished.work) == "atc's default, force_fp16"


# ---- usage

@pytest.mark.parametrize("arguments, status, message", [
    (["--bogus", "1"], 2, "unrecognized arguments: --bogus 1 (see --help)"),
    (["--bogus=1"], 2, "unrecognized arguments: --bogus=1"),
    (["xception.onnx"], 2, "unrecognized arguments: xception.onnx"),
    (["--weights"], 2, "argument --weights: expected one argument"),
    (["--weights="], 2, "argument --weights: '' is not a name"),
    (["--datasets_path", ""], 2, "argument --datasets_path: '' is not a name"),
    (["--weights", "{onnx}"], 2, "--weights needs --datasets_path"),
    (["--datasets_path", "{data}"], 2, "--datasets_path needs --weights"),
    (["--weights", "no.onnx", "--datasets_path", "{data}"], 3, "no.onnx: no such file"),
    (["--weights", "{data}", "--datasets_path", "{data}"], 3, "{data}: no such file"),
    (["--weights", "{onnx}", "--datasets_path", "{data}/imagenet/val"], 3,
     "{data}/imagenet/val: contains neither imagenet/val"),
    (["--weights", "{onnx}", "--datasets_path", "no"], 3, "no: contains neither imagenet/val"),
    (["--limit", "x"], 2, "argument --limit: 'x' is not a number above 0"),
    (["--limit", "1" * 300], 2, "argument --limit: '111"),
    (["--limit", "5", "--sample", "5"], 2, "argument --sample: not allowed with argument --limit"),
    (["--seed", "1"], 2, "--seed needs --sample"),
    (["--weights", "{onnx}", "--datasets_path", "{data}", "--labels", "no"], 3, "no: no such file; correct --labels"),
    (["--weights", "{onnx}", "--datasets_path", "{data}", "--synsets", "/no"], 3,
     "/no: no such file; correct --synsets"),
    (["--weights", "{onnx}", "--datasets_path", "{data}", "--reference=measure"], 2,
     "--reference measure needs a checkpoint"),
    (["--weights", "{onnx}", "--datasets_path", "{data}", "--state_dict=ema"], 2, "--state_dict needs a checkpoint"),
    (["--on-error", "ignore"], 2, "argument --on-error: invalid choice: 'ignore'"),
    (["--engine=nonsense"], 2, "argument --engine: invalid choice: 'nonsense'"),
    (["--interpolation=cubic"], 2, "argument --interpolation: invalid choice: 'cubic'"),
    (["--precision=int4"], 2, "argument --precision: invalid choice: 'int4'"),
    *((["--precision=int8", option], 2, "--precision int8 runs in one process, without --study, --score and --aipp")
      for option in ("--study", "--score", "--aipp")),
    (["--resize=200"], 2, "argument --resize: '200' is not 299 or more"),
    (["--device_ids=0,x"], 2, "argument --device_ids: '0,x' is not a list such as 0,1"),
    (["--reference=good"], 2, "argument --reference: 'good' is not TOP1,TOP5, published or measure"),
    (["--study", "--sweep"], 2, "--study runs in one process, without --sweep, --dumps and --score"),
    (["--study", "--score"], 2, "--study runs in one process"),
    (["--score", "--limit=1"], 2, "--limit is for one process"),
    *((["--batch_sizes", text], 2, f"argument --batch_sizes: {text!r} is not a list") for text in
      ("0", "1,,16", "1,", "1 16", "x", "016")),
])
def test_usage_errors(inputs, tmp_path, arguments, status, message):
    arguments = [word.format(onnx=inputs.onnx, data=inputs.data) for word in arguments]
    done = run_all(inputs, tmp_path, "--workdir", "new", *arguments)
    assert (done.status, done.out, done.calls) == (status, "", [])
    assert done.err.splitlines()[-1].startswith("run_all.sh: " + message.format(data=inputs.data))
    assert len([line for line in done.err.splitlines() if not line.startswith("env.sh: ")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls.jsonl"]


def test_labels_missing_from_the_data_set(inputs, tmp_path):
    data = make_data_set(tmp_path / "data")
    for change in (lambda path: path.write_text(""), Path.unlink):
        change(data / "val_label.txt")
        done = run_all(inputs, tmp_path, "--weights", inputs.onnx, "--datasets_path=data")
        assert (done.status, done.out, done.calls) == (3, "", [])
        assert done.err.splitlines()[-1].startswith("run_all.sh: data: contains neither imagenet/val")
        assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(inputs, tmp_path, option):
    done = run_all(inputs, tmp_path, option)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("usage: bash run_all.sh [--weights FILE --datasets_path DIR] [OPTION...]")
    for word in ("--weights FILE", "--datasets_path DIR", "--batch_sizes LIST", "--workdir DIR", "--resize N",
                 "--soc_version CHIP", "--debug", "--quiet", "--version"):
        assert re.search(rf"^  {word} ", done.out, re.MULTILINE)
    assert "--study" not in done.out and "--score" not in done.out  # they are in docs/
    assert not (tmp_path / "work").exists()


def test_onnx_of_demo_weights_is_refused_at_once(run, tmp_path):
    """Its accuracy can only be compared with the checkpoint's: refused before hours of inference."""
    model = make_onnx(tmp_path / "demo.onnx", note="demo weights: fitted to a few photos")
    done = run("--weights", model)
    assert (done.status, done.calls) == (2, [])
    assert done.err.splitlines()[-1].startswith(f"run_all.sh: {model}: holds demo weights; ")


# ---- int8

def amct_call(model, images):
    return ["amct_onnx", "calibration", "--model", str(model), "--save_path", "./xception", "--input_shape",
            f"image:{images},3,299,299", "--data_dir", "./calibration_bin", "--data_types", "float32"]


def test_int8_is_quantized_compiled_and_shown_beside_f32_and_fp16(inputs, run, tmp_path):
    done = run("--precision=int8", "--batch_sizes=1,16")
    assert done.status == 0, done.err
    deploy = "xception_deploy_model.onnx"
    assert [call for call in done.calls if call[0] != BENCHMARK] == [
        amct_call(inputs.onnx, 16), atc_call(1, deploy), atc_call(16, deploy),
        *([*atc_call(1, inputs.onnx)[:3], f"--output=xception_bs1_{name}", *atc_call(1, inputs.onnx)[4:],
           f"--precision_mode={mode}"] for name, mode in (("f32", "must_keep_origin_dtype"), ("fp16", "force_fp16")))]
    assert [call[4] for call in done.calls if call[0] == BENCHMARK] == [
        f"-om_path=xception_bs{name}.om" for name in ("1", "16", "1_f32", "1_fp16")]
    tool = f"amct_onnx ({FAKES}/amct_onnx)"
    assert f"xception_deploy_model.onnx: int8, by {tool}, calibrated with 16 images\n" in done.out
    table = done.out[done.out.index("\n== Precision, batch 1"):].splitlines()
    assert table[2] == f"int8: quantized by {tool}, calibrated with 16 images, of which 16 are among those scored"
    assert [line.split()[:2] for line in table[4:7]] == [["f32", "80.00"], ["fp16", "80.00"], ["int8", "80.00"]]
    assert all(line.endswith("0  +0.000 (-12.599 to +12.599), p = 1") for line in table[5:7]), table
    record = json.loads((tmp_path / "work/run.json").read_text())
    assert {batch: om["precision"] for batch, om in record["om"].items()} == {"1": "int8", "16": "int8"}
    assert [row["computed"] for row in record["precisions"]] == [
        "f32 (must_keep_origin_dtype)", "fp16 (force_fp16)", "int8"]
    again = run("--precision=int8", "--batch_sizes=1,16", PYTHONPATH="")  # with matplotlib
    page = (tmp_path / "work/report.html").read_text()
    assert "<h2>Precision</h2>" in page
    assert table[2].partition(": ")[2] in page
    assert (again.status, again.calls) == (0, [])
    assert tables(again).startswith(tables(done))


def test_int8_of_some_images_calibrates_with_all_of_them(inputs, run, tmp_path):
    done = run("--precision=int8", "--batch_sizes=1", "--limit=3")
    assert done.status in (0, 1), done.err
    assert amct_call(inputs.onnx, 3) in done.calls
    work = tmp_path / "work/limit3"
    assert len((work / "calibration_bin.txt").read_text().splitlines()) == 3
    assert run("--precision=int8", "--batch_sizes=1", "--limit=3").calls == []
    plain = run("--batch_sizes=1", "--limit=3")  # takes the folder's int8 om for none of its own
    assert plain.status in (0, 1), plain.err
    assert [call[0] for call in plain.calls] == ["atc", BENCHMARK]
    assert "== Precision" not in plain.out
    assert "precisions" not in json.loads((work / "run.json").read_text())


def test_a_chip_without_float32_compares_int8_with_fp16(run, tmp_path):
    done = run("--precision=int8", "--batch_sizes=1", FAKE_CANN_FAIL="no-f32")
    assert done.status == 0, done.err
    assert "f32: left out, as atc does not compile it (see above)" in done.err
    table = done.out[done.out.index("\n== Precision, batch 1"):].splitlines()
    assert "top-1 against fp16" in table[3]
    assert [line.split()[0] for line in table[4:6]] == ["fp16", "int8"]


def test_a_failed_quantization_ends_the_run(run, tmp_path):
    done = run("--precision=int8", "--batch_sizes=1", FAKE_CANN_FAIL="amct-exit1")
    assert done.status == 1
    assert "amct_onnx: FAKE_CANN_FAIL=amct-exit1" in done.err.splitlines()
    assert failed_step(done) == "3 Conversion: int8"
    assert not list((tmp_path / "work").glob("*deploy*"))
    assert [call[0] for call in done.calls] == ["amct_onnx"]


@pytest.fixture
def quantize(inputs, tmp_path):
    """Call quantize.py by hand, with tensors of two photos; return (status, out, last line of err)."""
    names = sorted(path.name for path in (inputs.data / "imagenet/val").iterdir())[:2]
    (tmp_path / "two").mkdir()
    for name in names:
        (tmp_path / "two" / name).symlink_to(inputs.data / "imagenet/val" / name)

    def call(resize=333, **changes):
        for words in ([f"{SUITE}/img_preprocess.py", "two", "prep", f"--resize={resize}"],
                      [f"{SUITE}/tools/quantize.py", inputs.onnx, "net", "prep"]):
            done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment(inputs, tmp_path, **changes),
                                  capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr.splitlines()[-1]
    return call


@pytest.mark.parametrize(("fault", "message", "status"), [
    ("amct-no-model", "amct_onnx reported success but did not write it", 4),
    ("amct-cut", "not an ONNX file, or damaged (", 3),
    ("amct-float", "amct_onnx reported success, but it is not the network with int8 layers", 4)])
def test_what_amct_onnx_leaves_is_looked_at(fault, message, status, quantize, tmp_path):
    found, _, line = quantize(FAKE_CANN_FAIL=fault)
    assert found == status
    assert line.startswith(f"quantize.py: net_deploy_model.onnx: {message}")
    assert not list(tmp_path.glob("*deploy*"))


def test_a_network_is_quantized_again_if_the_calibration_data_are_others(quantize, tmp_path):
    assert "calibrated with 2 images\n" in quantize()[1]
    assert quantize()[1].endswith("calibrated with 2 images: up to date\n")
    made = json.loads((tmp_path / "net_deploy_model.onnx.json").read_text())
    assert len(made["images"]) == 2
    assert quantize(resize=342)[1].endswith("calibrated with 2 images\n")
    (tmp_path / "net_deploy_model.onnx").write_bytes(b"x")
    assert quantize(resize=342)[1].endswith("calibrated with 2 images\n")


def test_without_canns_amct_onnx_the_stand_in_and_its_packages_are_needed(inputs, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("atc", BENCHMARK):
        (tools / name).symlink_to(FAKES / name)
    (tmp_path / "wheels").mkdir()
    words = ("--weights", inputs.onnx, "--datasets_path", inputs.data, "--check", "--precision=int8")
    done = run_all(inputs, tmp_path, *words, tools=tools, PYTHONPATH="")
    assert "✓ int8: the CPU stand-in host/amct_onnx; CANN's amct_onnx is not on PATH" in done.out.splitlines()
    assert f"✓ int8: amct_onnx ({FAKES}/amct_onnx)" in run_all(inputs, tmp_path, *words).out.splitlines()

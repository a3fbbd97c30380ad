"""Damage done to real runs: kills at random moments, interrupts, full and read-only disks, two runs at a time.

A run is the host engine's, with a tiny network of the real input size and the demo's photos. --kills N sets how
many runs of run_all.sh are killed (default 2; N / 8 of each stage, but for the export at least 1): `bash test/run.sh
test/test_faults.py --kills 40` is the full test. Each kill takes every process of the run at once. Full disks are
small tmpfs, for which test/run.sh gives the tests a separate mount namespace.
"""
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import img_preprocess
from common.files import hash_of
from conftest import SUITE, launch, quick_python, script_of

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

DATA = SUITE / "test/data/imagenet"
PHOTOS = 45
BENCHMARK = f"benchmark.{os.uname().machine}"
LIBRARIES = ("numpy", "PIL.Image", "tqdm", "cv2", "onnx", "openvino")
ENVIRONMENT = {"PATH": os.pathsep.join([str(SUITE / "host"), str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
               "LC_ALL": "C.UTF-8", "ASCEND_INSTALL_PATH": "/nonexistent"}


# ---- runs and their processes

def start(command, cwd, **options) -> subprocess.Popen:
    """Start a command as the leader of a session, by which all that it starts can be found."""
    return subprocess.Popen([os.fspath(word) for word in command], cwd=cwd, env={**ENVIRONMENT, "HOME": str(cwd)},
                            stdin=subprocess.DEVNULL, start_new_session=True, text=True, **options)


def finish(command, cwd, status=0, quick=True) -> SimpleNamespace:
    """Run a command to its end; quick: one of bash starts its Python scripts quickly."""
    words = [os.fspath(word) for word in command]
    environment = {**ENVIRONMENT, "HOME": str(cwd)}
    if quick and words[0] == "bash":
        environment["PATH"] = f"{quick_python(LIBRARIES)}:{environment['PATH']}"
    done = launch(script_of(words), cwd, environment) if script_of(words) else subprocess.run(
        words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    message = f"{command}\nexit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == status, message
    assert "Traceback" not in done.stderr, done.stderr
    return SimpleNamespace(out=done.stdout, err=done.stderr)


def alive(session: int) -> list:
    """The processes of a session that run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()  # state, parent, group, session
            if fields[3] == str(session) and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def kill_all(process):
    """SIGKILL for the whole session, until nothing of it is left."""
    while alive(process.pid):
        for pid in alive(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.wait()


def content(folder, *patterns) -> dict:
    """{path: sha256 of the file}."""
    return {str(path.relative_to(folder)): hash_of(path) for pattern in patterns for path in folder.glob(pattern)}


# ---- what is run

def make_tiny(path: Path):
    """image (-1, 3, 299, 299) -> mean of each channel -> 1000 classes, by random weights."""
    weight = np.random.default_rng(0).standard_normal((3, 1000)).astype("f4")
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["image"], ["pooled"], name="pool"),
         helper.make_node("Flatten", ["pooled"], ["flat"]), helper.make_node("Gemm", ["flat", "weight"], ["class"])],
        "tiny", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [-1, 3, 299, 299])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, [-1, 1000])],
        [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)


def atc(model="tiny.onnx", stem="tiny_bs1", batch=1):
    return [SUITE / "host/atc", "--framework=5", f"--model={model}", f"--output={stem}", "--input_format=NCHW",
            f"--input_shape=image:{batch},3,299,299", "--log=error", "--soc_version=Ascend310"]


PREPROCESS = [sys.executable, SUITE / "img_preprocess.py", DATA / "val", "./prep_dataset"]
STAGES = {  # name: (command, what it writes)
    "xception_pth2onnx": ([sys.executable, SUITE / "xception_pth2onnx.py", "reference.pth", "reference.onnx"],
                          ["reference.onnx"]),
    "atc": (atc(stem="again"), ["again.om"]),
    "img_preprocess": (PREPROCESS, ["prep_dataset/*.bin"]),
    "gen_dataset_info": ([sys.executable, SUITE / "gen_dataset_info.py", "bin", "./many", "./again.info", "299", "299"],
                         ["again.info"]),
    "benchmark": ([SUITE / "host" / BENCHMARK, "-model_type=vision", "-device_id=0",
                   "-batch_size=1", "-om_path=tiny_bs1.om", "-input_text_path=./full.info"],
                  ["result/dumpOutput_device0/*"]),
    "infer": ([sys.executable, SUITE / "tools/infer.py", "tiny_bs1.om", "result/out", "--info=./full.info",
               "--device_ids=0,1"], ["result/out/*"]),
    "imagenet_acc_eval": ([sys.executable, SUITE / "imagenet_acc_eval.py", "dumps", "labels.txt", ".", "result.json"],
                          ["result.json"]),
}


# What is interrupted still works for a while after the sign that it has begun: {stage: (command, what it writes, the
# sign: a file, or so many seconds after its handlers are there)}
LONG = {
    **{stage: (*STAGES[stage], 0.0) for stage in STAGES},
    "xception_pth2onnx": (*STAGES["xception_pth2onnx"], 1.0),
    "img_preprocess": ([*PREPROCESS[:2], "./photos", "./prep_dataset"], *STAGES["img_preprocess"][1:],
                       "prep_dataset/*.bin"),
    "benchmark": ([*STAGES["benchmark"][0][:-1], "-input_text_path=./long.info"], *STAGES["benchmark"][1:],
                  "result/dumpOutput_device0/*.txt"),
    "infer": ([*STAGES["infer"][0][:-2], "--info=./long.info", "--device_ids=0,1"], *STAGES["infer"][1:],
              "result/dumpOutput_device0/*.txt"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, work):
    """All that the stages read; `full` holds every bin, `many` and `dumps` enough to be interrupted at."""
    folder = tmp_path_factory.mktemp("inputs")
    os.link(work / "reference.pth", folder / "reference.pth")
    make_tiny(folder / "tiny.onnx")
    (folder / "modules").mkdir()
    (folder / "modules/matplotlib.py").write_text("raise ImportError('not for these tests')\n")
    finish(atc(), folder)
    finish([*PREPROCESS[:-1], "./full"], folder)
    finish([sys.executable, SUITE / "gen_dataset_info.py", "bin", "./full", "./full.info", "299", "299"], folder)
    (folder / "photos").mkdir()
    for number in range(300):
        (folder / f"photos/n{number}.JPEG").symlink_to(sorted((DATA / "val").iterdir())[number % PHOTOS])
    (folder / "long").mkdir()
    bins = sorted((folder / "full").glob("*.bin"))
    for number in range(2000):
        (folder / f"long/n{number}.bin").symlink_to(bins[number % PHOTOS])
    (folder / "long.info").write_text("".join(f"{number} ./long/n{number}.bin 299 299\n" for number in range(2000)))
    (folder / "dumps").mkdir()
    text = "".join(f"{value:f} " for value in range(1000)) + "\n"
    for number in range(3000):
        (folder / f"dumps/n{number}_1.txt").write_text(text)
    (folder / "many").mkdir()
    first = min((folder / "full").glob("*.bin"))
    for number in range(20_000):
        (folder / f"many/n{number}.bin").symlink_to(first)
    (folder / "labels.txt").write_text("".join(f"n{number}.JPEG 999\n" for number in range(3000)))
    return folder


def place(inputs, folder) -> Path:
    """A fresh folder in which every stage can be run."""
    folder.mkdir()
    for entry in inputs.iterdir():
        (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """Of a stage, run without trouble: (seconds, what it wrote)."""
    known = {}

    def call(stage, table=STAGES):
        command, patterns = table[stage][:2]
        key = " ".join(map(str, command))  # most are the same in both tables
        if key not in known:
            folder = place(inputs, tmp_path_factory.mktemp(stage) / "place")
            began = time.monotonic()
            finish(command, folder)
            known[key] = time.monotonic() - began, content(folder, *patterns)
        return known[key]
    return call


RUN_ALL = ["bash", "-c", 'PYTHONPATH=$PWD/modules exec bash "$0" "$@"',  # without report.html, which nothing looks at
           SUITE / "run_all.sh", "--weights", "tiny.onnx", "--datasets_path", DATA, "--batch_sizes=1,4"]
WRITTEN = ("prep_dataset/*.bin", "result/dumpOutput_bs*/*", "result_bs*.json", "xception.info")


@pytest.fixture(scope="module")
def whole_run(inputs, tmp_path_factory):
    """run_all.sh without trouble: (seconds, what it wrote). The tiny network knows nothing: the gate is not met."""
    folder = place(inputs, tmp_path_factory.mktemp("whole") / "place")
    began = time.monotonic()
    finish(RUN_ALL, folder, status=1, quick=False)  # as those that will be killed
    seconds = time.monotonic() - began
    written = content(folder / "work", *WRITTEN)
    assert len(written) == PHOTOS * 3 + 3
    return seconds, written


# ---- kills

def pytest_generate_tests(metafunc):
    """A test for each kill."""
    kills = metafunc.config.getoption("--kills")
    if "number" in metafunc.fixturenames and "stage" in metafunc.fixturenames:
        metafunc.parametrize(("stage", "number"), [  # an export takes long: in the full test only
            (stage, n) for stage in STAGES for n in range(kills // 8 or stage != "xception_pth2onnx")])
    elif "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(kills))

def test_killed_stage_resumes_to_identical_output(
        stage, number, inputs, undisturbed, tmp_path):
    command, patterns = STAGES[stage]
    seconds, expected = undisturbed(stage)
    folder = place(inputs, tmp_path / "place")
    process = start(command, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.Random(f"{stage} {number}").random() * seconds)
    kill_all(process)
    left = {name: data for name, data in content(folder, *patterns).items() if not name.endswith(".part")}
    assert left.items() <= expected.items()
    done = finish(command, folder)
    assert content(folder, *patterns) == expected
    if stage == "img_preprocess":
        assert f"({PHOTOS - len(left)} made, {len(left)} kept)" in done.out


def test_killed_run_resumes_to_identical_output(number, inputs, whole_run, tmp_path):
    seconds, expected = whole_run
    folder = place(inputs, tmp_path / "place")
    process = start(RUN_ALL, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.Random(number).random() * seconds)
    kill_all(process)
    left = content(folder / "work", *WRITTEN)
    left = {name: data for name, data in left.items() if not name.endswith(".part")}
    assert left.items() <= expected.items()
    compiled = [path.name for path in folder.glob("work/*.om.json")]
    waiting = [path.name for path in folder.glob("work/result/dumpOutput_device0/*_1.txt")]
    done = finish(RUN_ALL, folder, status=1)
    assert content(folder / "work", *WRITTEN) == expected
    kept = sum(name.startswith("prep_dataset/") for name in left)
    assert f"({PHOTOS - kept} made, {kept} kept)" in done.out
    for batch in (1, 4):
        if f"xception_bs{batch}.om.json" in compiled:
            assert f"xception_bs{batch}.om: up to date\n" in done.out
    kept = [sum(name.startswith(f"result/dumpOutput_bs{batch}/") for name in left) for batch in (1, 4)]
    kept[bool(kept[0])] += len(waiting)  # the device's folder is of the batch size that was running
    counts = re.findall(r"dumps in result/dumpOutput_bs\d \((\d+) made, (\d+) kept\)", done.out)
    assert counts == [(str(PHOTOS - count), str(count)) for count in kept]


def test_run_all_sh_killed_alone_takes_its_steps_along(inputs, whole_run, tmp_path):
    folder = place(inputs, tmp_path / "place")
    process = start(RUN_ALL, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(folder.glob("work/result/dumpOutput_device0/*.txt")))
    process.kill()
    process.wait()
    wait_for(lambda: not alive(process.pid))
    finish(RUN_ALL, folder, status=1)
    assert content(folder / "work", *WRITTEN) == whole_run[1]


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# ---- interrupts

def interrupt(process, sent):
    """Send a signal to the first process alone, as `kill` does; it and all that it started must end."""
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    wait_for(lambda: not alive(process.pid))
    assert process.returncode == 128 + sent, err
    assert "Traceback" not in err
    return out, err


def catches(process) -> bool:
    """Whether a process has a handler for SIGTERM, which Python has not by itself: then it is past its imports."""
    folder = Path(f"/proc/{process.pid}")
    if os.fsencode(process.args[-1]) not in (folder / "cmdline").read_bytes():
        return False  # still a copy of this one, with its handlers
    caught = re.search(r"^SigCgt:\t(\w+)$", (folder / "status").read_text(), re.MULTILINE)
    return bool(int(caught.group(1), 16) >> (signal.SIGTERM - 1) & 1)


# Each stage with one of the signals, each signal at one of the moments: what handles them is the same everywhere
@pytest.mark.parametrize(("stage", "sent"), list(zip(STAGES, itertools.cycle([signal.SIGINT, signal.SIGTERM]))))
def test_interrupted_stage_stops_early_and_cleans_up(stage, sent, inputs, undisturbed, tmp_path):
    command, patterns, sign = LONG[stage]
    expected = undisturbed(stage, LONG)[1]
    folder = place(inputs, tmp_path / "place")
    process = start(command, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: catches(process))
    if isinstance(sign, float):
        time.sleep(sign)
    else:
        wait_for(lambda: list(folder.glob(sign)))
    interrupt(process, sent)
    assert not list(folder.glob("*.part"))
    assert not list(folder.glob("*/*.part"))
    assert content(folder, *patterns).items() < expected.items()  # less than all: it did not go on to its end
    finish(command, folder)
    assert content(folder, *patterns) == expected


@pytest.mark.parametrize(("moment", "sent"), [
    ("prep_dataset/*.bin", signal.SIGINT), ("*.om.json", signal.SIGHUP),
    ("result/dumpOutput_device0/*.txt", signal.SIGTERM),
])
def test_interrupted_run_stops_early_and_resumes(moment, sent, inputs, whole_run, tmp_path):
    folder = place(inputs, tmp_path / "place")
    process = start(RUN_ALL, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: list((folder / "work").glob(moment)))
    _, err = interrupt(process, sent)
    assert err.splitlines()[-1] == "run_all.sh: interrupted; run the same command again to resume"
    assert content(folder / "work", *WRITTEN).items() < whole_run[1].items()
    finish(RUN_ALL, folder, status=1)
    assert content(folder / "work", *WRITTEN) == whole_run[1]


def test_a_tool_that_ignores_an_interrupt_is_killed(inputs, tmp_path):
    """CANN's atc is a shell script that starts others; none of them may live on."""
    folder = place(inputs, tmp_path / "place")
    (folder / "bin").mkdir()
    (folder / "bin/atc").write_text("#!/bin/bash\ntrap '' INT TERM\ntouch started\nsleep 600 & sleep 600\n")
    (folder / "bin/atc").chmod(0o755)
    (folder / BENCHMARK).symlink_to(SUITE / "test/fake_cann" / BENCHMARK)
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    process = start(["env", f"PATH={path}", *RUN_ALL], folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for((folder / "work/started").exists)
    interrupt(process, signal.SIGTERM)


# ---- full disks, read-only disks, files that cannot be read

@pytest.fixture
def small_disk(tmp_path):
    """Make a tmpfs of so many bytes as a folder: small_disk(size, options) -> path; again: another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size, more=""):
        options = f"size={size}{more}{',remount' if mounted else ''}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        mounted.append(folder)
        return folder
    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def files_of(folder) -> list:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def last_line(done) -> str:
    return (done.err or done.out).splitlines()[-1]


FULL = r"(\./)?{}: the disk is full \(needs [0-9,]+ bytes, [0-9,]+ are free\); free space and rerun"


@pytest.mark.parametrize(("stage", "target", "room"), [
    ("atc", "again.om", 8192), ("gen_dataset_info", "again.info", 0),
    ("benchmark", r"result/dumpOutput_device0/\w+_1.txt", 64 << 10), ("imagenet_acc_eval", "result.json", 0),
])
def test_a_full_disk_is_one_line_and_a_run_with_room_succeeds(stage, target, room, inputs, small_disk, undisturbed):
    folder = place(inputs, small_disk(1 << 30) / "place")
    command, patterns = STAGES[stage]
    free = os.statvfs(folder)
    with open(folder.parent / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room)
    done = finish(command, folder, status=255 if stage == "atc" else 4)
    assert re.search(FULL.format(target) + "$", last_line(done)), last_line(done)
    assert not [name for name in files_of(folder) if name.endswith(".part")]
    assert content(folder, *patterns).items() <= undisturbed(stage)[1].items()
    (folder.parent / "filler").unlink()
    finish(command, folder)
    assert content(folder, *patterns) == undisturbed(stage)[1]


def test_preprocessing_refuses_at_once_what_cannot_fit(inputs, small_disk, undisturbed):
    folder = place(inputs, small_disk(40 << 20) / "place")
    done = finish(PREPROCESS, folder, status=4)
    assert re.fullmatch(r"img_preprocess.py: prep_dataset: 45 tensors need 48,2\d\d,\d\d\d bytes, but only "
                        r"41,9\d\d,\d\d\d are free on its disk; free space, or use another folder \("
                        r"--aipp needs a quarter\)", last_line(done))
    assert not list(folder.glob("prep_dataset/*.bin*"))
    small_disk(60 << 20)
    finish(PREPROCESS, folder)
    assert content(folder, "prep_dataset/*.bin") == undisturbed("img_preprocess")[1]


def test_a_disk_that_fills_up_during_preprocessing(inputs, small_disk, undisturbed):
    """The bytes fit, but not so many files, which cannot be checked beforehand."""
    folder = place(inputs, small_disk(100 << 20, ",nr_inodes=40") / "place")
    done = finish(PREPROCESS, folder, status=4)
    assert re.fullmatch("img_preprocess.py: " + FULL.format(r"prep_dataset/\w+\.bin").replace(r"\./", ""),
                        last_line(done))
    left = content(folder, "prep_dataset/*.bin*")
    assert 0 < len(left) < PHOTOS
    assert left.items() <= undisturbed("img_preprocess")[1].items()
    small_disk(100 << 20, ",nr_inodes=400")
    assert f"({PHOTOS - len(left)} made, {len(left)} kept)" in finish(PREPROCESS, folder).out
    assert content(folder, "prep_dataset/*.bin") == undisturbed("img_preprocess")[1]


@pytest.mark.parametrize(("room", "message"), [
    (0, r"run_all\.sh: .*/work/\.lock: cannot be written \(No space left on device\)"),
    (48_700_000, r"the disk is full|the disk of result is full"),
])
def test_run_all_sh_on_a_full_disk(room, message, inputs, small_disk, whole_run):
    folder = place(inputs, small_disk(1 << 30) / "place")
    free = os.statvfs(folder)
    with open(folder.parent / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room)
    done = finish(RUN_ALL, folder, status=4)
    assert re.search(message, done.err), done.err
    assert done.err.splitlines()[-1].startswith("run_all.sh: ")
    (folder.parent / "filler").unlink()
    finish(RUN_ALL, folder, status=1)
    assert content(folder / "work", *WRITTEN) == whole_run[1]


def test_infer_on_a_full_disk(inputs, small_disk, undisturbed):
    """The tool names the dump that it could not write; infer.py states the cure."""
    folder = place(inputs, small_disk(300 << 10) / "place")
    done = finish(STAGES["infer"][0], folder, status=4)
    assert re.search(r"_1.txt: the disk is full|\.log: the disk is full", done.err), done.err
    assert last_line(done) in (  # the first that fails is the tool, or the log of what it said
        "infer.py: inference failed on device 0, 1 (see above); finished dumps are kept, rerun to resume; the disk of "
        "result is full, free space first",
        *(f"infer.py: result/host_bs1_device{device}.log: the disk is full (0 are free); free space and rerun"
          for device in (0, 1)))
    kept = len(content(folder, "result/out/*_1.txt", "result/dumpOutput_device*/*_1.txt"))
    small_disk(10 << 20)
    assert f"({PHOTOS - kept} made, {kept} kept)" in finish(STAGES["infer"][0], folder).out
    assert content(folder, "result/out/*") == undisturbed("infer")[1]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "xception_pth2onnx"])
def test_a_read_only_disk_is_named(stage, inputs, small_disk):
    folder = place(inputs, small_disk(1 << 20) / "place")
    small_disk(1 << 20, ",ro")
    done = finish(STAGES[stage][0], folder, status=255 if stage == "atc" else 4)
    assert re.search(r"[\w./]+(\] failed)?: Read-only file system\.?$", last_line(done)), last_line(done)
    assert len((done.err or done.out).splitlines()) <= 3


def test_run_all_sh_on_a_read_only_disk(inputs, small_disk):
    folder = place(inputs, small_disk(1 << 20) / "place")
    (folder / "work").mkdir()
    small_disk(1 << 20, ",ro")
    done = finish(RUN_ALL, folder, status=4)
    assert last_line(done) == (f"run_all.sh: {folder}/work: no write permission, or a read-only disk; pass another "
                               "--workdir")
    done = finish([*RUN_ALL, "--workdir=other"], folder, status=4)
    assert last_line(done) == (f"run_all.sh: {folder}/other: cannot be made (Read-only file system); pass another "
                               "--workdir")


def as_a_user(command) -> list:
    """The command without root's right to pass over permissions."""
    drop = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", *command]


def test_image_without_permission_is_unreadable_and_the_others_are_done(tmp_path):
    (tmp_path / "src").mkdir()
    for path in sorted((DATA / "val").iterdir())[:3]:
        shutil.copy(path, tmp_path / "src")
    locked = sorted((tmp_path / "src").iterdir())[1]
    locked.chmod(0)
    command = as_a_user([sys.executable, SUITE / "img_preprocess.py", "src", "dst"])
    done = finish(command, tmp_path, status=3)
    assert done.err.splitlines()[0].startswith(f"src/{locked.name}: [Errno 13] Permission denied")
    assert len(list((tmp_path / "dst").glob("*.bin"))) == 2


@pytest.mark.parametrize(("stage", "locked", "status"), [
    ("xception_pth2onnx", "reference.pth", 4), ("gen_dataset_info", "many", 4), ("infer", "full.info", 4),
    ("imagenet_acc_eval", "labels.txt", 4), ("benchmark", "tiny_bs1.om", 4), ("atc", "tiny.onnx", 255),
])
def test_an_input_without_permission_is_named(stage, locked, status, inputs, tmp_path):
    folder = place(inputs, tmp_path / "place")
    (folder / locked).unlink()
    (folder / locked).mkdir() if locked == "many" else shutil.copy(inputs / locked, folder)
    (folder / locked).chmod(0)
    done = finish(as_a_user(STAGES[stage][0]), folder, status=status)
    assert locked in last_line(done)
    assert re.search("Permission denied|cannot be read|no permission", last_line(done))


def test_image_deleted_between_listing_and_reading_is_unreadable(tmp_path, monkeypatch, capsys):
    (tmp_path / "src").mkdir()
    for path in sorted((DATA / "val").iterdir())[:3]:
        shutil.copy(path, tmp_path / "src")
    gone = sorted((tmp_path / "src").iterdir())[1]
    find_images = img_preprocess.find_images

    def find_and_delete(src):
        found = find_images(src)
        gone.unlink()
        return found
    monkeypatch.setattr(img_preprocess, "find_images", find_and_delete)
    monkeypatch.setattr(sys, "argv", ["img_preprocess.py", str(tmp_path / "src"), str(tmp_path / "dst")])
    with pytest.raises(img_preprocess.Failure, match="1 of 3 images are unreadable"):
        img_preprocess.main()
    assert f"{gone}: [Errno 2] No such file or directory" in capsys.readouterr().err
    assert len(list((tmp_path / "dst").glob("*.bin"))) == 2


# ---- two runs at a time

IN_USE = r"in use by pid {} on {} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait until it ends"


def in_use(process) -> str:
    return IN_USE.format(process.pid, re.escape(os.uname().nodename))


def test_two_runs_in_one_work_directory(inputs, whole_run, tmp_path):
    folder = place(inputs, tmp_path / "place")
    first = start(RUN_ALL, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (folder / "work/.lock").exists() and (folder / "work/.lock").read_text())
    first.send_signal(signal.SIGSTOP)  # it would end too soon
    second = finish(RUN_ALL, folder, status=4)
    first.send_signal(signal.SIGCONT)
    assert re.fullmatch(f"run_all.sh: {folder}/work: {in_use(first)}", last_line(second)), second.err
    first.wait()
    assert content(folder / "work", *WRITTEN) == whole_run[1]


@pytest.mark.parametrize(("stage", "lock", "what"), [
    ("img_preprocess", "prep_dataset/.lock", "prep_dataset"), ("infer", "result/device0.lock", "device 0 of {}/result"),
])
def test_two_of_one_stage_in_one_folder(stage, lock, what, inputs, undisturbed, tmp_path):
    folder = place(inputs, tmp_path / "place")
    command, patterns = STAGES[stage]
    first = start(command, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (folder / lock).exists() and (folder / lock).read_text())
    first.send_signal(signal.SIGSTOP)  # it would end too soon
    second = finish(command, folder, status=4)
    first.send_signal(signal.SIGCONT)
    assert re.fullmatch(rf"{stage}.py: {what.format(folder)}: {in_use(first)}", last_line(second)), second.err
    assert first.wait() == 0
    assert content(folder, *patterns) == undisturbed(stage)[1]


def test_infer_on_other_chips_at_the_same_time_is_fine(inputs, tmp_path):
    folder = place(inputs, tmp_path / "place")
    commands = [[sys.executable, SUITE / "tools/infer.py", "tiny_bs1.om", f"result/out{device}", "--info=./full.info",
                 f"--device_ids={device}"] for device in (0, 1)]
    processes = [start(command, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(content(folder, "result/out0/*")) == PHOTOS
    assert content(folder / "result/out0", "*") == content(folder / "result/out1", "*")


def test_a_log_that_cannot_be_written_ends_the_tool_too(inputs, tmp_path):
    """Else the tool would wait for ever for its output to be read."""
    folder = place(inputs, tmp_path / "place")
    (folder / "result").mkdir()
    (folder / "result/host_bs1_device0.log").symlink_to("/dev/full")
    done = finish(STAGES["infer"][0], folder, status=4)
    assert "host_bs1_device0.log: the disk is full" in last_line(done)

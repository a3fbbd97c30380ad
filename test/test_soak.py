"""A long run does not grow: preprocess, host benchmark (a tiny network) and scoring over many images.

500 images in CI; `bash test/run.sh test/test_soak.py -s --soak 20000` is the full soak, recorded in SOAK.md. While a
stage runs, memory and open files of each of its processes are looked at every 20 ms.
"""
import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import SUITE
from test_faults import DATA, ENVIRONMENT, alive, atc, finish, make_tiny

import pytest

MAY_GROW = 1.10  # from the first half of a stage to the second
NOISE = 32 << 20  # bytes: caches that fill, and what an allocator keeps; 250 tensors kept would be 268 MB
FILES_NOISE = 4  # as many threads may have one open at a time


def watch(command, cwd) -> dict:
    """Run a command to its end; {process id: [(seconds, bytes resident, open files), ...]}."""
    process = subprocess.Popen([os.fspath(word) for word in command], cwd=cwd, env={**ENVIRONMENT, "HOME": str(cwd)},
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    seen, began = {}, time.monotonic()
    while process.poll() is None:
        for pid in alive(process.pid):
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                files = len(os.listdir(f"/proc/{pid}/fd"))
            except (OSError, IndexError):
                continue  # it has just ended
            seen.setdefault(pid, []).append((time.monotonic() - began, pages * os.sysconf("SC_PAGESIZE"), files))
        time.sleep(0.02)
    assert process.returncode == 0
    return seen


def check_growth(stage, seen):
    """No process that works for half a second or more needs more memory or files towards its end than before."""
    for series in seen.values():
        seconds = series[-1][0] - series[0][0]
        if seconds < 0.5:
            continue
        # half a second is start-up: imports, and the first images; of short runs the first half
        steady = [entry for entry in series if entry[0] - series[0][0] > min(0.5, seconds / 2)]
        halves = steady[:len(steady) // 2], steady[len(steady) // 2:]
        memory, files = ([max(entry[place] for entry in half) for half in halves] for place in (1, 2))
        print(f"{stage}: {seconds:.1f} s, resident {memory[0] >> 20} MB, then {memory[1] >> 20} MB; open files "
              f"{files[0]}, then {files[1]}")
        assert memory[1] <= memory[0] * MAY_GROW + NOISE
        assert files[1] <= files[0] + FILES_NOISE


@pytest.fixture
def count(pytestconfig):
    return pytestconfig.getoption("--soak")


def test_nothing_grows_and_nothing_is_missing(count, tmp_path):
    photos = sorted((DATA / "val").iterdir())
    (tmp_path / "val").mkdir()
    for number in range(count):
        (tmp_path / f"val/n{number:06}.JPEG").symlink_to(photos[number % len(photos)])
    (tmp_path / "labels.txt").write_text("".join(f"n{number:06}.JPEG {number % 1000}\n" for number in range(count)))
    make_tiny(tmp_path / "tiny.onnx")
    finish(atc(), tmp_path)
    stages = {
        "img_preprocess": [sys.executable, SUITE / "img_preprocess.py", "val", "./bins"],
        "gen_dataset_info": [sys.executable, SUITE / "gen_dataset_info.py", "bin", "./bins", "x.info", "299", "299"],
        "host benchmark": [SUITE / f"host/benchmark.{os.uname().machine}", "-model_type=vision", "-device_id=0",
                           "-batch_size=1", "-om_path=tiny_bs1.om", "-input_text_path=./x.info"],
        "imagenet_acc_eval": [sys.executable, SUITE / "imagenet_acc_eval.py", "result/dumpOutput_device0", "labels.txt",
                              ".", "result.json"],
    }
    for stage, command in stages.items():
        check_growth(stage, watch(command, tmp_path))
    expected = {f"n{number:06}" for number in range(count)}
    assert {path.stem for path in (tmp_path / "bins").glob("*.bin")} == expected
    dumps = {path.name for path in (tmp_path / "result/dumpOutput_device0").iterdir()}
    assert dumps == {f"{name}_1.txt" for name in expected}
    assert f'"Number of images", "value": "{count}"' in (tmp_path / "result.json").read_text()
    # the same photo under another name gives the same bytes, to the last image
    for number in range(count - len(photos), count):
        first = f"n{number % len(photos):06}"
        for folder, end in (("bins", ".bin"), ("result/dumpOutput_device0", "_1.txt")):
            pair = [tmp_path / folder / f"{name}{end}" for name in (first, f"n{number:06}")]
            assert pair[0].read_bytes() == pair[1].read_bytes()

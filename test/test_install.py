"""What run_all.sh installs, and what it says where it cannot, or where Python or a package is too old."""
import shutil
import subprocess
import sys

import img_preprocess
from common.cli import Failure
from common.files import read
from conftest import SUITE, run
from test_run_all_cann import FAKES, PHOTOS, make_onnx, make_suite

import pytest

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with the suite, tiny.onnx, and tools/: the fake CANN, and a python3 without packages."""
    folder = tmp_path_factory.mktemp("bare")
    make_suite(folder / "suite")
    make_onnx(folder / "tiny.onnx")
    (folder / "tools").mkdir()
    for name, program in (("atc", f'"{sys.executable}" "{FAKES / "atc"}"'), ("benchmark.x86_64", "false"),
                          ("benchmark.aarch64", "false"), ("python3", f'"{sys.base_prefix}/bin/python3" -S')):
        (folder / "tools" / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (folder / "tools" / name).chmod(0o755)
    return folder


def run_all(bare, *options, status):
    environment = {"PATH": f"{bare}/tools:/usr/bin:/bin", "HOME": str(bare), "ASCEND_INSTALL_PATH": str(bare / "none"),
                   "PIP_NO_INDEX": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", bare / "suite/run_all.sh", "--weights=tiny.onnx", f"--datasets_path={PHOTOS.parent}",
                           *options], cwd=bare, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_an_npu_host_with_an_onnx_gets_what_it_needs_and_without_network_the_command(bare):
    lines = run_all(bare, status=4).stderr.splitlines()
    assert any(line.endswith("some minutes, about 400 MB") for line in lines)
    command = next(line for line in lines if "pip download" in line).split("wheels")[1]
    assert [word.split(">")[0].strip(" '") for word in command.split("' '")] == \
        ["numpy", "Pillow", "opencv-python", "tqdm", "matplotlib", "Jinja2"]
    assert any(f"a machine with Python {PYTHON} and " in line for line in lines)
    assert lines[-1].strip() == f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={bare}/wheels"
    assert (SUITE / "requirements.txt").read_bytes().startswith(read(bare / "work/npu-requirements.txt", 10_000))


def test_check_goes_on_without_numpy(bare):
    shutil.rmtree(bare / "suite/.venv", ignore_errors=True)  # of the test before: it sees this machine's packages
    done = run_all(bare, "--check", "--workdir=checked", status=3)
    marks = {line.split(":")[0][2:]: line[0] for line in done.stdout.splitlines()}
    assert {name for name, mark in marks.items() if mark == "✗"} == {"python"}
    assert {"tools", "weights", "data set", "paths", "work directory", "disk", "CANN", "chips", "CPU"} <= marks.keys()
    (line,) = [line for line in done.stdout.splitlines() if "python: " in line]
    assert line == "✗ python: numpy, Pillow, tqdm missing; run_all.sh installs what it needs into .venv, which takes " \
        "network and 400 MB; without network see docs/troubleshooting.md"


@pytest.mark.parametrize("release", ["1.5.0", "2.4.1+cpu"])
def test_a_torch_that_is_too_old_is_refused_in_one_line(release, tmp_path):
    (tmp_path / f"torch-{release}.dist-info").mkdir()
    (tmp_path / f"torch-{release}.dist-info/METADATA").write_text(f"Name: torch\nVersion: {release}\n")
    (tmp_path / "w.pth").write_bytes(b"x")
    done = run(sys.executable, SUITE / "xception_pth2onnx.py", "w.pth", "o.onnx", cwd=tmp_path, status=4,
               env={"PYTHONPATH": str(tmp_path)})
    assert done.stderr == f"xception_pth2onnx.py: torch {release}: 2.5 or later is needed; export on another " \
        "machine, and copy the .onnx (README section 3)\n"


def test_a_pillow_that_is_too_old_is_not_taken_for_bad_images(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.__version__", "6.2.1")
    monkeypatch.setattr(sys, "argv", ["img_preprocess.py", str(PHOTOS / "val"), str(tmp_path / "bins")])
    with pytest.raises(Failure, match="^Pillow 6.2.1: 7.2 or later is needed") as caught:
        img_preprocess.main()
    assert caught.value.status == 4
    assert not (tmp_path / "bins").exists()


def test_a_python_that_is_too_old_is_said_once(tmp_path):
    (tmp_path / "old.py").write_text("import sys\nsys.version_info = (3, 6, 15)\nsys.argv[0] = 'step.py'\n"
                                     f"sys.path.insert(0, {str(SUITE)!r})\nimport common.cli\n")
    done = subprocess.run([sys.executable, tmp_path / "old.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split(":")[0]) == (4, "step.py")
    assert done.stderr.endswith(": 3.7 or later is needed\n")

"""ais_bench of every generation, by its fake in fake_cann/: names, owners, modules, versions, and many tensors."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import engines
import infer
from conftest import SUITE, run
from test_fake_cann import SAMPLE_BYTES, make_onnx

import pytest

INFER = SUITE / "tools/infer.py"
FAKES = SUITE / "test/fake_cann"
RELEASES = ["2023-06", "2024-06", "2025-12", "fork"]
NAMES = ["1\u00b23", "k\u00e4se", "a,b", "x+y", "(n)", "2_1", "\u65e5\u672c"]  # the first ends the tool's own sorting
WHICH = [sys.executable, INFER, "--which", "--engine=ais_bench"]


@pytest.fixture(scope="module")
def oms(tmp_path_factory):
    """A folder with tiny_bs1.om and tiny_bs4.om of the fake atc."""
    folder = tmp_path_factory.mktemp("oms")
    make_onnx(folder / "tiny.onnx")
    for batch in (1, 4):
        subprocess.run([FAKES / "atc", "--framework=5", "--model=tiny.onnx", f"--output=tiny_bs{batch}",
                        "--input_format=NCHW", f"--input_shape=image:{batch},3,4,5", "--soc_version=Ascend310"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def fill(folder: Path, names, oms: Path) -> Path:
    """Make a work directory: tensors of these names in prep/, m.info, and the oms."""
    (folder / "prep").mkdir(parents=True)
    for i, name in enumerate(names):
        (folder / f"prep/{name}.bin").write_bytes(bytes([i]) * SAMPLE_BYTES)
    (folder / "m.info").write_text("".join(f"{i} ./prep/{name}.bin 4 5\n" for i, name in enumerate(names)))
    for batch in (1, 4):
        shutil.copy(oms / f"tiny_bs{batch}.om", folder)
    return folder


@pytest.fixture
def folder(tmp_path, oms):
    return fill(tmp_path / "w", [f"t{i}" for i in range(10)], oms)


def variables(folder, **more):
    return {"PYTHONPATH": str(FAKES / "python"), "PYTHONDONTWRITEBYTECODE": "1", "FAKE_CANN_TENSORS": str(folder),
            "LC_ALL": "C.UTF-8", **more}


def go(folder, *words, om="tiny_bs1.om", status=0, **more):
    return run(sys.executable, INFER, om, "result/out", "--info=m.info", "--engine=ais_bench", *words, cwd=folder,
               status=status, env=variables(folder, **more))


def dumps(folder) -> dict:
    return {path.name: path.read_text() for path in (folder / "result/out").glob("*.txt")}


def record(folder, name="out") -> dict:
    return json.loads((folder / f"result/{name}.json").read_text())


@pytest.mark.parametrize("release", RELEASES)
def test_any_name_folder_and_permission(release, tmp_path, oms):
    """What newer releases refuse: links, other characters, files and folders open to others."""
    work = fill(tmp_path / "b\u00fc ro,(1)", NAMES, oms)
    os.rename(work / "tiny_bs1.om", work / "real.om")
    (work / "an om+.om").symlink_to("real.om")
    os.chmod(work, 0o777)
    for path in work.rglob("*"):
        os.chmod(path, 0o777 if path.is_dir() else 0o666)
    go(work, om="an om+.om", FAKE_CANN_AIS=release)
    assert sorted(dumps(work)) == sorted(f"{name}_0.txt" for name in NAMES)
    assert len(set(dumps(work).values())) == len(NAMES)
    plain = fill(tmp_path / "plain", NAMES, oms)
    (plain / "m.info").write_text("".join(reversed((plain / "m.info").read_text().splitlines(keepends=True))))
    go(plain, FAKE_CANN_AIS=release)
    assert dumps(plain) == dumps(work)  # each image has its own, whatever their order
    run(sys.executable, INFER, "an om+.om", "result/pure", "--round=5", "--engine=ais_bench", cwd=work,
        env=variables(work, FAKE_CANN_AIS=release))
    assert record(work, "pure")["rates"]["0"]["interface"] == pytest.approx(799)
    assert not list(work.glob("result/*device0"))


def test_a_resumed_run_keeps_what_was_made(folder):
    bad = go(folder, status=4, FAKE_CANN_FAIL="ais-missing")
    assert "device 0: 2 of 10 tensors have no complete dump" in bad.stderr
    assert "10 dumps in result/out (2 made, 8 kept)" in go(folder).stdout
    assert record(folder)["rates"]["0"]["images"] == 2


def test_dumps_of_a_killed_driver_are_taken_over(folder):
    """As if it had died between the tool's end and its own."""
    go(folder)
    whole, rates = dumps(folder), record(folder)
    place = folder / "result/ais_bench_device0"
    (place / "output/2026_01_01-00_00_00").mkdir(parents=True)
    (place / "names").write_text("t9\nt3\n../t4")
    for i, name in enumerate(("t9", "t3", "t4")):
        (folder / f"result/out/{name}_0.txt").rename(place / f"output/2026_01_01-00_00_00/00000{i}_0.txt")
    owner = infer.hashlib.sha256(f"{rates['made_from']} result/out".encode()).hexdigest()
    (folder / "result/dumpOutput_device0.owner").write_text(owner)
    assert "10 dumps in result/out (1 made, 9 kept)" in go(folder).stdout
    assert dumps(folder) == whole


def test_more_tensors_than_a_call_takes(folder, monkeypatch):
    """Are run in several calls, and the rate is that of all images."""
    for name, value in variables(folder, FAKE_CANN_AIS_FILES="3", FAKE_CANN_LOG=str(folder / "calls")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    monkeypatch.setitem(engines.ENGINES, "ais_bench", engines.ENGINES["ais_bench"]._replace(limit=3))
    monkeypatch.setattr(sys, "argv", ["infer.py", "tiny_bs1.om", "result/out", "--info=m.info", "--engine=ais_bench",
                                      "--device_ids=0,2"])
    engines.ais_bench.cache_clear()
    assert infer.main() == 0
    assert len(dumps(folder)) == 10
    assert len((folder / "calls").read_text().splitlines()) == 4  # of 3, 3, 2 and 2
    rates = record(folder)["rates"]
    assert {device: (rate["images"], round(rate["interface"])) for device, rate in rates.items()} == \
        {"0": (5, 799), "2": (5, 799)}
    assert len(record(folder)["commands"]) == 4
    monkeypatch.setitem(engines.ENGINES, "ais_bench", engines.ENGINES["ais_bench"]._replace(limit=10))
    shutil.rmtree(folder / "result")
    assert isinstance(pytest.raises(infer.Failure, infer.main).value, infer.Failure)


def test_another_owner_s_files_and_another_disk_s_are_copied(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"tensor")
    source.chmod(0o664)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(source).st_uid + 1)
    engines.lend(source, tmp_path / "a")
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    engines.lend(source, tmp_path / "b")
    assert os.stat(source).st_mode & 0o777 == 0o664  # not touched
    monkeypatch.undo()
    engines.lend(source, tmp_path / "c")
    assert os.stat(source).st_nlink == 2
    for name in "abc":
        assert (tmp_path / name).read_bytes() == b"tensor"
        assert os.stat(tmp_path / name).st_mode & 0o022 == 0


def test_modules_in_the_work_directory_are_not_imported(folder):
    for name in ("ais_bench", "json", "numpy", "argparse", "aclruntime", "runpy"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the work directory')\n")
        shutil.copy(folder / f"{name}.py", folder / "prep")
    go(folder)
    assert len(dumps(folder)) == 10


@pytest.fixture
def modules(tmp_path):
    """A copy of the fake's modules, to change."""
    return shutil.copytree(FAKES, tmp_path / "fakes", ignore=shutil.ignore_patterns("__pycache__")) / "python"


def test_a_package_of_the_same_name_is_not_taken_for_it(modules, tmp_path):
    shutil.rmtree(modules / "ais_bench/infer")
    done = run(*WHICH, cwd=tmp_path, env=variables(tmp_path, PYTHONPATH=str(modules)), status=4)
    assert "infer.py: ais_bench: not found" in done.stderr


def test_what_keeps_it_from_starting_is_said(modules, tmp_path):
    environment = variables(tmp_path, PYTHONPATH=str(modules))
    (modules / "aclruntime.py").unlink()
    done = run(*WHICH, cwd=tmp_path, env=environment, status=4)
    assert "does not start: ModuleNotFoundError: No module named 'aclruntime'; it needs the aclruntime" in done.stderr
    (modules / "aclruntime.py").touch()
    (modules / "ais_bench/__main__.py").write_text("print('--model --input --output')\n")
    done = run(*WHICH, cwd=tmp_path, env=environment, status=4)
    assert "ais_bench 0.0.2 of" in done.stderr
    assert "a release unknown here, without --batchsize, --device, --outfmt, --loop" in done.stderr


@pytest.mark.parametrize(("version", "line"), [
    ("0.0.2", "✓ CANN: unknown version, ais_bench 0.0.2, aclruntime 0.0.2 (python3)"),
    ("0.0.1", "✗ CANN: aclruntime 0.0.1: too old for ais_bench 0.0.2, which needs 0.0.2"),
])
def test_check_names_its_version(version, line, modules, tmp_path):
    (modules / "aclruntime-0.0.2.dist-info").rename(modules / f"aclruntime-{version}.dist-info")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/atc").symlink_to(FAKES / "atc")
    path = os.pathsep.join([str(tmp_path / "tools"), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    done = subprocess.run(["bash", SUITE / "run_all.sh", "--check"], cwd=tmp_path, capture_output=True, text=True,
                          env=variables(tmp_path, PYTHONPATH=str(modules), PATH=path, HOME=str(tmp_path)), check=False)
    assert line in done.stdout


def test_a_virtual_environment_hides_the_hosts(tmp_path, monkeypatch):
    """It runs with the Python that has it."""
    (tmp_path / "host").mkdir()
    other = tmp_path / "host/python3"
    other.write_text(f"#!/bin/sh\nPYTHONPATH={FAKES / 'python'} exec {sys.executable} \"$@\"\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), str(tmp_path / "host"), "/usr/bin"]))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    engines.ais_bench.cache_clear()
    assert engines.find_ais_bench() == [str(other), "-m", "ais_bench"]


@pytest.mark.parametrize(("line", "done"), [
    (b"Inference array Processing:  67%|######6   | 2/3 [00:00<00:00, 93.51it/s]", 32),
    (b"[INFO][PostProcess] curSampleNum is 12", 12), (b"[INFO] warm up 1 done", None)])
def test_its_progress_counts_batches(line, done):
    assert engines.samples_done(line, 16) == done


def test_the_reason_that_it_gives_is_shown_and_both_streams_are_logged(folder):
    done = go(folder, status=4, FAKE_CANN_FAIL="ais-error")
    assert "device 0: ais_bench ended with status 1; ais_bench printed: RuntimeError: fake fault" in done.stderr
    log = (folder / "result/ais_bench_bs1_device0.log").read_text()
    assert "[INFO] open device 0 success" in log
    assert "Traceback (most recent call last)" in log
    done = go(folder, "--device_ids=0,9", status=4)
    assert "device 9: ais_bench ended with status 1; ais_bench printed: RuntimeError: open device 9" in done.stderr
    assert len(dumps(folder)) == 5
    (folder / "prep/t3.bin").write_bytes(b"short")
    assert "ais_bench printed: [ERROR] input data size:5 not match the model's:240" in \
        go(folder, "--device_ids=1", status=4).stderr

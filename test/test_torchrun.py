"""run_all.sh under torchrun: two nodes of two ranks on loopback, one rank killed half way, against the fake CANN."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

from conftest import SUITE, quick_python
from test_run_all_cann import FAKES, LIBRARIES, PHOTOS, make_data_set, make_onnx, make_suite

import pytest

TORCHRUN = Path(sys.executable).with_name("torchrun")


@pytest.fixture
def place(tmp_path):
    """A folder with suite, tiny.onnx and the data set D; commands run in it."""
    make_suite(tmp_path / "suite")
    make_onnx(tmp_path / "tiny.onnx")
    make_data_set(tmp_path / "D")
    return tmp_path


def environment(place, python=Path(sys.executable).parent, **more):
    path = os.pathsep.join([str(FAKES), str(python), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(place), "FAKE_CANN_LABELS": str(place / "D/val_label.txt"),
            "FAKE_CANN_TOP1": "0.8", "FAKE_CANN_LOG": str(place / "calls.jsonl"), "PIP_NO_INDEX": "1",
            "PYTHONDONTWRITEBYTECODE": "1", **more}


def command(*more):
    return ["bash", "suite/run_all.sh", "--weights=tiny.onnx", "--datasets_path=D", "--batch_sizes=1", *more]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_nodes(place, **more) -> list:
    """Two launchers, each of which starts two ranks."""
    port = free_port()
    return [subprocess.Popen(
        [TORCHRUN, "--nnodes=2", "--nproc-per-node=2", f"--node-rank={node}", "--master-addr=127.0.0.1",
         f"--master-port={port}", "--no-python", *command("--batch_sizes=1,16")],
        cwd=place, env=environment(place, **more), stdin=subprocess.DEVNULL,
        stdout=open(place / f"node{node}.out", "wb"), stderr=subprocess.STDOUT) for node in (0, 1)]


def run(place, *more, **variables):
    """Run one rank, or --score, to its end."""
    return subprocess.run(command(*more), cwd=place, env=environment(place, quick_python(LIBRARIES), **variables),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def wait_for(condition):
    """Poll for at most a minute; what runs has to get there by itself."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("not reached in a minute")


def processes_of_rank(place, rank) -> list:
    """Process ids of one rank's script and of all that it started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if f"RANK={rank}".encode() in variables and f"HOME={place}".encode() in variables:
            found.append(int(folder.name))
    return found


def output_of(place, node) -> str:
    return (place / f"node{node}.out").read_text()


def signal_rank(place, rank, number):
    for process in processes_of_rank(place, rank):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def share(place, rank) -> Path:
    return place / f"work/share{rank}of4"


def test_killed_rank_is_rerun_and_scores_equal_a_single_process(place):
    nodes = start_nodes(place, FAKE_CANN_SLOW="0.3")
    dumps = share(place, 3) / "result/dumpOutput_device1"
    wait_for(lambda: len(list(dumps.glob("*_1.txt"))) >= 2)
    signal_rank(place, 3, signal.SIGSTOP)  # until the others are done: their launchers would end them anywhere
    done = [f"share {rank}/4 is done" for rank in range(3)]
    wait_for(lambda: all(line in output_of(place, 0) + output_of(place, 1) for line in done))
    made = sum(dump.read_text().endswith("\n") for dump in dumps.glob("*_1.txt"))  # one may be half-written
    signal_rank(place, 3, signal.SIGKILL)
    assert nodes[1].wait(60) != 0
    nodes[0].kill()  # it waits for the other node
    nodes[0].wait(60)
    refused = run(place, "--batch_sizes=1,16", "--score")
    assert refused.returncode == 3
    assert "shares" in refused.stderr.splitlines()[-1]

    (place / "calls.jsonl").write_text("")
    again = start_nodes(place, python=quick_python(LIBRARIES))
    assert [node.wait(120) for node in again] == [0, 0], output_of(place, 1)[-3000:]
    output = output_of(place, 1)
    assert made >= 2
    info = (share(place, 3) / "xception.info").read_text().splitlines()
    assert f"{len(info)} dumps in ../result/dumpShares_bs1/share3of4 ({len(info) - made} made, {made} kept)" in output
    # no atc call: whoever came first in the first run had compiled both
    assert "atc" not in {json.loads(line)["tool"] for line in (place / "calls.jsonl").read_text().splitlines()}

    scored = run(place, "--batch_sizes=1,16", "--score")
    assert scored.returncode == 0, scored.stderr
    assert ("batch 1: share0of4 on device 0: 158.623, share1of4 on device 1: 158.623, share2of4 on device 0: 158.623, "
            "share3of4 on device 1: 158.623: together 634.492") in scored.stdout
    single = run(place, "--batch_sizes=1,16", "--workdir=single")
    assert single.returncode == 0, single.stderr
    for name in ("result_bs1.json", "result_bs16.json"):
        assert (place / "work" / name).read_bytes() == (place / "single" / name).read_bytes()
    assert "16 / 20" in scored.stdout
    check_record(place / "work", json.loads((place / "single/run.json").read_text()))


def check_record(work, single):
    """run.json of the four ranks holds what a single process's does, and a record and a listing for each rank."""
    record = json.loads((work / "run.json").read_text())
    for key in ("weights", "recipe", "soc_version", "accuracy", "versions"):
        assert record[key] == single[key]
    assert record["onnx"]["sha256"] == single["onnx"]["sha256"]
    assert record["data_set"]["count"] == single["data_set"]["count"] == 20
    assert len(set(record["data_set"]["listing_sha256"])) == 4
    for batch in ("1", "16"):
        # nodes of two ranks, which run on devices 0 and 1
        assert [list(share["rates"]) for share in record["inference"][batch]] == [["0"], ["1"], ["0"], ["1"]]
        assert sum(share["images"] for share in record["inference"][batch]) == 20
    shares = [command.split()[-1] for command in record["commands"] if "img_preprocess.py" in command]
    assert shares == [f"--share={rank}/4" for rank in range(4)]
    assert sum("imagenet_acc_eval.py" in command for command in record["commands"]) == 2


def test_shares_follow_from_the_names_alone(place):
    """One after the other, by Slurm's variables: which share an image is in is its name's CRC-32 modulo 3."""
    names = sorted(path.stem for path in (place / "D/val").iterdir())
    for rank in range(3):
        done = run(place, SLURM_PROCID=str(rank), SLURM_NTASKS="3", SLURM_LOCALID=str(rank),
                   SLURM_STEP_ID="0")
        assert done.returncode == 0, done.stderr
        bins = sorted(path.stem for path in (place / f"work/share{rank}of3/prep_dataset").glob("*.bin"))
        assert bins == [name for name in names if zlib.crc32(name.encode()) % 3 == rank]
        assert f"-device_id={rank} " in done.stderr
    scored = run(place, "--score")
    assert scored.returncode == 0, scored.stderr
    assert "16 / 20" in scored.stdout


def test_a_missing_or_unfinished_share_is_refused(place):
    assert "contains no share" in run(place, "--score").stderr
    ranks = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert run(place, **ranks, OMPI_COMM_WORLD_RANK="0").returncode == 0
    refused = run(place, "--score")
    assert (refused.returncode, "1 of 2 shares" in refused.stderr) == (3, True)
    assert run(place, **ranks, OMPI_COMM_WORLD_RANK="1", FAKE_CANN_FAIL="missing-dumps").returncode == 4
    refused = run(place, "--score")
    assert (refused.returncode, "did not finish" in refused.stderr) == (3, True)
    assert run(place, **ranks, OMPI_COMM_WORLD_RANK="1").returncode == 0
    assert run(place, "--score").returncode == 0


def test_another_split_leaves_nothing_of_the_old_one(place):
    for size in ("2", "3"):
        for rank in range(int(size)):
            assert run(place, RANK=str(rank), WORLD_SIZE=size, LOCAL_RANK="0").returncode == 0
    manifest = place / "work/share1of3/prep_dataset/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "source": "elsewhere"}))
    mixed = run(place, "--score")
    assert mixed.returncode == 3
    assert "share1of3/prep_dataset: has another source, recipe or JPEG decoder" in mixed.stderr
    assert run(place, RANK="1", WORLD_SIZE="3", LOCAL_RANK="0").returncode == 0
    left = {path.name for path in (place / "work/result/dumpShares_bs1").iterdir() if path.is_dir()}
    assert left == {"share0of3", "share1of3", "share2of3"}
    assert run(place, "--score").returncode == 0


def test_the_photos_are_spread_over_four_shares():
    assert SUITE in PHOTOS.parents
    shares = [zlib.crc32(path.stem.encode()) % 4 for path in (PHOTOS / "val").iterdir()]
    assert set(shares) == {0, 1, 2, 3}

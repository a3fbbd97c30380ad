"""The inference driver: which tool, several chips at once, going on after a failure, and the throughput table."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import engines
import summary
from conftest import SUITE, fake_module, run

import numpy as np
import pytest

INFER = SUITE / "tools/infer.py"
SUMMARY = SUITE / "tools/summary.py"
SAMPLES = 10
BINARY = engines.BINARY

# A benchmark that does what a test asks for: DIE="2:3" kills itself on device 2 after 3 dumps, leaving half of the
# next; TOGETHER=4 waits until four of it have started; SILENT leaves out the perf file; HANG sleeps after a dump;
# RATE=50 is device 0's rate, instead of 100.
TOOL = f"""#!{sys.executable}
import os, pathlib, signal, time
flags = dict(word.lstrip("-").split("=", 1) for word in os.sys.argv[1:])
device, result = flags["device_id"], pathlib.Path("result")
with open("calls", "a") as calls:
    calls.write(" ".join(os.sys.argv[1:]) + "\\n")
pathlib.Path("started" + device).touch()
for _ in range(2000):
    if len(list(pathlib.Path().glob("started*"))) >= int(os.environ.get("TOGETHER", 1)):
        break
    time.sleep(0.01)
else:
    raise SystemExit("not started together")
if "round" in flags:
    stem = pathlib.Path(flags["om_path"]).stem
    (result / f"PureInfer_perf_of_{{stem}}_in_device_{{device}}.txt").write_text(
        "ave_throughputRate = 157.5samples/s, ave_latency = 6.4ms\\n")
    raise SystemExit
dumps = result / f"dumpOutput_device{{device}}"
dumps.mkdir()
dies_on, _, after = os.environ.get("DIE", "").partition(":")
lines = open(flags["input_text_path"]).read().splitlines()
for done, line in enumerate(lines):
    number, path, width, height = line.split()
    assert int(number) == done
    name = pathlib.Path(path).stem
    if dies_on == device and done == int(after):
        (dumps / f"{{name}}_1.txt").write_text("1.0 2")
        os.kill(os.getpid(), signal.SIGKILL)
    (dumps / f"{{name}}_1.txt").write_text(f"1.0 2.0 {{int(name[1:])}}.5 \\n")
    if "HANG" in os.environ:
        time.sleep(600)
if "SILENT" not in os.environ:
    rate = int(os.environ.get("RATE", 100)) + int(device)
    (result / f"perf_vision_batchsize_{{flags['batch_size']}}_device_{{device}}.txt").write_text(
        f"[e2e] throughputRate: 50.5, latency: 1e+06\\n[infer] throughputRate: 9, Interface throughputRate: {{rate}}, "
        "moduleLatency: 1\\n[post] throughputRate: 2, moduleLatency: 8\\n")
"""


@pytest.fixture
def folder(tmp_path):
    """A work directory with an Ascend om, ten tensors in an info file, and TOOL as the benchmark binary."""
    (tmp_path / "m.om").write_bytes(b"IMOD" + bytes(500))
    (tmp_path / "m.info").write_text("".join(f"{i} ./p/t{i}.bin 299 299\n" for i in range(SAMPLES)))
    (tmp_path / BINARY).write_text(TOOL)
    (tmp_path / BINARY).chmod(0o755)
    return tmp_path


def go(folder, *extra, status=0, env=None):
    """Run infer.py; return its process and, of each call of TOOL in this run, the images that it was given."""
    (folder / "calls").write_text("")
    for mark in folder.glob("started*"):
        mark.unlink()
    done = run(sys.executable, INFER, "m.om", "result/out", "--info=./m.info", *extra, cwd=folder,
               status=status, env=env)
    calls = (folder / "calls").read_text().splitlines()
    return SimpleNamespace(out=done.stdout, err=done.stderr, calls=calls)


def dumps(folder) -> dict:
    return {path.name: path.read_text() for path in sorted((folder / "result/out").iterdir())}


EXPECTED = {f"t{i}_1.txt": f"1.0 2.0 {i}.5 \n" for i in range(SAMPLES)}


def record(folder) -> dict:
    return json.loads((folder / "result/out.json").read_text())


def test_one_chip_gets_the_info_file_itself(folder):
    done = go(folder, "--batch_size=4")
    assert done.calls == ["-model_type=vision -device_id=0 -batch_size=4 -om_path=m.om -input_text_path=./m.info "
                          "-input_width=299 -input_height=299 -output_binary=False -useDvpp=False"]
    assert f"$ ./{BINARY} {done.calls[0]}" in done.err.splitlines()
    assert dumps(folder) == EXPECTED
    assert "10 dumps in result/out (10 made, 0 kept)" in done.out
    assert record(folder)["rates"] == {"0": {"interface": 100.0, "images": 10, "stages": {"infer": 1.0, "post": 2.0}}}
    assert record(folder)["e2e"] == 50.5
    assert sorted(path.name for path in (folder / "result").iterdir()) == [
        "benchmark_bs4_device0.log", "device0.lock", "out", "out.json", "out.lock",
        "perf_vision_batchsize_4_device_0.txt"]


def test_four_chips_run_at_the_same_time_on_equal_shares(folder):
    done = go(folder, "--device_ids=0,1,2,3", env={"TOGETHER": "4"})
    assert len(done.calls) == 4
    assert dumps(folder) == EXPECTED
    rates = record(folder)["rates"]
    assert {device: rate["images"] for device, rate in rates.items()} == {"0": 3, "1": 3, "2": 2, "3": 2}
    table = run(sys.executable, SUMMARY, "table", "result/out.json", "--soc_version=Ascend310",
                cwd=folder).stdout
    assert "batch 1: device 0 100, device 1 101, device 2 102, device 3 103: together 406" in table
    assert re.search(r"^ +1 +406 +- +", table, re.MULTILINE)  # four chips measured: nothing to multiply on paper


def test_failing_chip_lets_the_others_finish_and_a_rerun_completes(folder):
    bad = go(folder, "--device_ids=0,1,2", status=4, env={"DIE": "2:1"})
    assert "infer.py: device 2: benchmark ended with status -9" in bad.err
    assert "device 1:" not in bad.err
    assert not record(folder)["complete"]
    assert dumps(folder) == {name: text for name, text in EXPECTED.items() if name not in ("t5_1.txt", "t8_1.txt")}
    again = go(folder, "--device_ids=0,1,2")
    assert "10 dumps in result/out (2 made, 8 kept)" in again.out
    assert len(again.calls) == 2
    assert dumps(folder) == EXPECTED
    assert record(folder)["complete"]
    assert go(folder, "--device_ids=0,1,2").calls == []


def test_a_kill_after_the_last_dump_leaves_a_run_that_a_rerun_completes(folder):
    go(folder)
    killed = {**record(folder), "complete": False, "rates": {}}
    (folder / "result/out.json").write_text(json.dumps(killed))
    again = go(folder)
    assert "10 dumps in result/out (0 made, 10 kept)" in again.out
    assert again.calls == []
    assert record(folder)["complete"]
    table = run(sys.executable, SUMMARY, "table", "result/out.json", "--soc_version=Ascend310", cwd=folder)
    assert "batch 1: partial: the rate does not cover 10 of 10 images, whose process was killed" in table.stdout


def test_a_resumed_batchs_rate_covers_all_pieces_or_is_marked_partial(folder):
    """Device 0: 5 images at 100 images/s, then 2 at 50; device 1: 2 that no rate covers, then 1 at 51."""
    go(folder, "--device_ids=0,1", status=4, env={"DIE": "1:2"})
    go(folder, "--device_ids=0,1", env={"RATE": "50"})
    rates = record(folder)["rates"]
    assert {device: rate["images"] for device, rate in rates.items()} == {"0": 7, "1": 1}
    assert rates["0"]["interface"] == pytest.approx(7 / (5 / 100 + 2 / 50))
    assert rates["1"]["interface"] == 51
    table = run(sys.executable, SUMMARY, "table", "result/out.json", cwd=folder).stdout
    assert "batch 1: partial: the rate does not cover 2 of 10 images, whose process was killed\n" in table


def test_a_killed_single_devices_rate_is_marked_partial(folder):
    go(folder, status=4, env={"DIE": "0:4"})
    go(folder)
    assert record(folder)["rates"]["0"]["images"] == 6
    table = run(sys.executable, SUMMARY, "table", "result/out.json", cwd=folder).stdout
    assert "batch 1: partial: the rate does not cover 4 of 10 images, whose process was killed\n" in table


def test_each_dump_is_read_once_however_many_devices_run(folder, tmp_path_factory):
    """Python's audit hook sees every file that is opened."""
    env = fake_module(tmp_path_factory.mktemp("fake"), "sitecustomize", """
import os, sys
log = os.open("opened", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(lambda event, words: event == "open" and str(words[0]).endswith("_1.txt") and os.write(
    log, f"{words[0]}\\n".encode()))
""")
    go(folder, "--device_ids=0,1")
    for name in list(EXPECTED)[:4]:
        (folder / "result/out" / name).unlink()
    assert "(4 made, 6 kept)" in go(folder, "--device_ids=0,1,2,3", env=env).out
    opened = [path for path in (folder / "opened").read_text().split() if path.startswith("result/out/")]
    assert sorted(opened) == sorted(f"result/out/{name}" for name in list(EXPECTED)[4:])


def test_killed_run_resumes(folder):
    process = subprocess.Popen([sys.executable, INFER, "m.om", "result/out", "--info=./m.info"],
                               cwd=folder, env={**os.environ, "HANG": "1"}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for_the_first_dump(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = go(folder)
    assert "10 dumps in result/out (9 made, 1 kept)" in again.out
    assert dumps(folder) == EXPECTED


def wait_for_the_first_dump(folder):
    """Until it is complete, for at most 30 s; the run under test has to get there by itself."""
    for _ in range(3000):
        if any(path.stat().st_size for path in folder.glob("result/dumpOutput_device0/t0_1.txt")):
            return
        time.sleep(0.01)
    raise AssertionError("not reached in 30 s")


def test_stuck_tool_is_killed_and_its_complete_dumps_kept(folder):
    done = go(folder, "--patience=2", status=4, env={"HANG": ""})
    assert "infer.py: device 0: benchmark killed after 2 s without output" in done.err
    assert len(dumps(folder)) == 1
    assert "(9 made, 1 kept)" in go(folder).out


def test_error_lines_of_the_tool_are_reported(folder):
    """The real binary prints it, drops a batch, and ends with status 0."""
    (folder / BINARY).write_text(f"#!{sys.executable}\nprint('[ERROR][Inference] input data size is wrong!')\n")
    err = go(folder, status=4).err
    assert "10 of 10 tensors have no complete dump (./p/t0.bin, ./p/t1.bin, ./p/t2.bin and 7 more); " in err
    assert "benchmark printed: [ERROR][Inference] input data size is wrong!\n" in err


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_stops_the_tools_too(sent, status, folder):
    process = subprocess.Popen([sys.executable, INFER, "m.om", "result/out", "--info=./m.info"],
                               cwd=folder, env={**os.environ, "HANG": "1"}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    wait_for_the_first_dump(folder)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(sent)
    assert process.wait(timeout=60) == status
    assert not Path(f"/proc/{child}").exists()


def test_dumps_of_another_run_are_never_taken(folder):
    """A device's folder that holds dumps, but was not filled for this om and info file."""
    foreign = folder / "result/dumpOutput_device0"
    foreign.mkdir(parents=True)
    for name in EXPECTED:
        (foreign / name).write_text("9.0 9.0 9.0 \n")
    (folder / "result/dumpOutput_device0.owner").write_text("somebody else")
    assert "(10 made, 0 kept)" in go(folder).out
    assert dumps(folder) == EXPECTED


@pytest.mark.parametrize("change", ["om", "info", "tensors"])
def test_another_model_or_data_set_is_rerun(change, folder):
    go(folder)
    if change == "om":
        (folder / "m.om").write_bytes(b"IMOD" + b"\1" * 500)
    elif change == "info":
        (folder / "m.info").write_text((folder / "m.info").read_text().replace("299 299", "299 300"))
    else:
        (folder / "p").mkdir()
        (folder / "p/manifest.json").write_text("{}")
    assert "(10 made, 0 kept)" in go(folder).out


@pytest.mark.parametrize("text", ["", "1.0 2.0", "1.0 2.0 \n", "1.0 nan 3.5 \n", "1.0 inf 3.5 \n"])
def test_invalid_dump_is_rerun(text, folder):
    go(folder)
    (folder / "result/out/t3_1.txt").write_text(text)
    (folder / "result/out/other.txt").write_text("1.0 2.0 3.5 \n")
    assert "(1 made, 9 kept)" in go(folder).out
    assert dumps(folder) == EXPECTED


@pytest.mark.parametrize("data", [b"", b"123", np.float32([1, np.nan] * 3).tobytes(), bytes(20)])
def test_invalid_binary_dump_is_rerun(data, small):
    atc = ["--framework=5", "--model=m.onnx", "--output=m", "--input_shape=image:1,3,8,8", "--soc_version=Ascend310"]
    run(SUITE / "host/atc", *atc, cwd=small)
    command = [sys.executable, INFER, "m.om", "result/out", "--info=m.info", "--dumps=bin"]
    run(*command, cwd=small)
    good = {path.name: path.read_bytes() for path in (small / "result/out").iterdir()}
    assert {len(dump) for dump in good.values()} == {24}
    (small / "result/out/t3_1.bin").write_bytes(data)
    assert "5 dumps in result/out (1 made, 4 kept)" in run(*command, cwd=small).stdout
    assert {path.name: path.read_bytes() for path in (small / "result/out").iterdir()} == good
    assert "5 dumps in result/out (5 made, 0 kept)" in run(*command[:-1], cwd=small).stdout
    assert {path.suffix for path in (small / "result/out").iterdir()} == {".txt"}


def test_dumps_of_a_tool_without_a_rate_are_discarded(folder):
    bad = go(folder, status=4, env={"SILENT": "1"})
    assert "device 0: benchmark printed no Interface throughputRate" in bad.err
    assert "(10 made, 0 kept)" in go(folder).out


def test_pure_inference_is_timed_once(folder):
    command = [sys.executable, INFER, "m.om", "result/pure", "--round=20", "--batch_size=4"]
    run(*command, cwd=folder)
    assert (folder / "calls").read_text() == "-round=20 -om_path=m.om -device_id=0 -batch_size=4\n"
    assert json.loads((folder / "result/pure.json").read_text())["rates"] == {"0": {"interface": 157.5}}
    assert "kept" in run(*command, cwd=folder).stdout
    assert len((folder / "calls").read_text().splitlines()) == 1


def test_which_tool(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    which = [sys.executable, INFER, "--which"]
    assert run(*which, cwd=folder).stdout == "benchmark\n"
    assert "not found; place CANN's" in run(*which, cwd=empty, status=4).stderr  # the stand-in on PATH does not count
    assert run(*which, "--engine=host", cwd=empty).stdout == "host\n"
    there = {"PYTHONPATH": str(SUITE / "test/fake_cann/python")}
    assert run(*which, cwd=empty, env=there).stdout == "ais_bench\n"
    assert run(*which, cwd=folder, env=there).stdout == "benchmark\n"
    assert run(*which, "--engine=ais_bench", cwd=folder, env=there).stdout == "ais_bench\n"
    assert "ais_bench: not found" in run(*which, "--engine=ais_bench", cwd=folder, status=4).stderr


def test_a_binary_that_was_not_made_executable(folder):
    (folder / BINARY).chmod(0o644)
    which = [sys.executable, INFER, "--which"]
    message = f"infer.py: {BINARY}: not executable; chmod +x {BINARY}\n"
    assert run(*which, cwd=folder, status=4).stderr == message
    assert "ais_bench: not found" in run(*which, "--engine=ais_bench", cwd=folder, status=4).stderr


def test_the_stand_in_says_that_it_cannot_run_an_ascend_om(folder):
    bad = go(folder, "--engine=host", status=4)
    assert "an om for an Ascend chip, which this CPU stand-in cannot run" in bad.err
    assert "infer.py: device 0: host ended with status 3" in bad.err


@pytest.mark.parametrize("arguments", [
    [], ["m.om", "out"], ["m.om", "out", "--info=m.info", "--round=3"],
    ["m.om", "out", "--info=m.info", "--device_ids=0,0"],
    ["m.om", "out", "--info=m.info", "--device_ids=x"], ["m.om", "out", "--info=m.info", "--batch_size=0"],
    ["--info=m.info"],
])
def test_usage_errors(arguments, folder):
    assert run(sys.executable, INFER, *arguments, cwd=folder, status=2).stderr.startswith("usage: ")


def test_info_file_with_a_line_that_is_invalid(folder):
    (folder / "m.info").write_text("0 a.bin 299\n")
    assert "m.info:1: not" in go(folder, status=3).err


def test_several_stand_ins_share_the_cores_and_give_the_same_dumps(small):
    atc = ["--framework=5", "--model=m.onnx", "--output=m", "--input_shape=image:1,3,8,8", "--soc_version=Ascend310"]
    run(SUITE / "host/atc", *atc, cwd=small)
    for out, devices in (("one", "0"), ("three", "0,1,2")):
        run(sys.executable, INFER, "m.om", f"result/{out}", "--info=m.info", f"--device_ids={devices}",
            cwd=small)
    one, three = ({path.name: path.read_bytes() for path in (small / "result" / out).iterdir()}
                  for out in ("one", "three"))
    assert one == three
    assert len(one) == 5
    rates = json.loads((small / "result/three.json").read_text())["rates"]
    assert sorted(rates) == ["0", "1", "2"]


# --- throughput -------------------------------------------------------------------------------------------------

def write_record(folder, batch, rate, **more) -> str:
    path = folder / f"r{batch}.json"
    path.write_text(json.dumps({"engine": "benchmark", "batch_size": batch, "images": 9, "complete": True,
                                "e2e": 108.021, "rates": {"0": {"interface": rate, "images": 9}},
                                "made_from": {"om": "of one network"}, **more}))
    return path.name


def test_the_table_of_a_sweep_marks_the_best_and_writes_csv(tmp_path):
    published = {1: 158.623, 4: 182.215, 8: 203.357, 16: 198.865, 32: 164.302}
    names = [write_record(tmp_path, batch, rate) for batch, rate in published.items()]
    pure = tmp_path / "pure8.json"
    pure.write_text(json.dumps({"engine": "benchmark", "batch_size": 8, "complete": True, "made_from": {},
                                "rates": {"0": {"interface": 210.5}}}))
    done = run(sys.executable, SUMMARY, "table", *names, "--soc_version=Ascend310", "--csv=t.csv",
               "--pure", "pure8.json", cwd=tmp_path)
    rows = [line.split() for line in done.stdout.splitlines()[3:8]]
    assert [row[:3] for row in rows] == [["1", "158.623", "634.492"], ["4", "182.215", "728.86"],
                                         ["8", "203.357", "813.428"], ["16", "198.865", "795.46"],
                                         ["32", "164.302", "657.208"]]
    assert [row[-1] for row in rows].count("best") == 1
    assert rows[2][-2:] == ["210.5", "best"]
    assert (tmp_path / "t.csv").read_text().splitlines()[:2] == [
        "batch_size,devices,interface,per_card,e2e,pure", "1,1,158.623,634.492,108.021,"]


def test_only_an_ascend310_has_four_chips_a_card(tmp_path):
    record_ = {"engine": "benchmark", "batch_size": 1, "rates": {"0": {"interface": 100.0}}}
    assert summary.rows([record_], {}, "Ascend310")[0]["per_card"] == 400
    assert summary.rows([record_], {}, "Ascend310P3")[0]["per_card"] is None
    assert summary.rows([dict(record_, engine="host")], {}, "Ascend310")[0]["per_card"] is None


def test_an_unfinished_or_foreign_record_is_refused(tmp_path):
    name = write_record(tmp_path, 1, 5.0, complete=False)
    assert "did not finish" in run(sys.executable, SUMMARY, "table", name, cwd=tmp_path, status=3).stderr
    (tmp_path / "x.json").write_text("[]")
    assert "not a record" in run(sys.executable, SUMMARY, "table", "x.json", cwd=tmp_path, status=3).stderr


def test_shares_of_two_oms_are_not_added_up(tmp_path):
    names = []
    for share, om in (("share0of2", "a"), ("share1of2", "b")):
        name = write_record(tmp_path, 1, 5.0, made_from={"om": om})
        (tmp_path / name).rename(tmp_path / f"{share}.json")
        names.append(f"{share}.json")
    refused = run(sys.executable, SUMMARY, "table", *names, cwd=tmp_path, status=3)
    assert "share1of2.json: made with another om than share0of2.json" in refused.stderr


def test_a_busy_chip_is_warned_about_before_it_is_timed(folder):
    path = os.pathsep.join([str(SUITE / "test/fake_cann"), os.environ["PATH"]])
    done = go(folder, "--device_ids=1", env={"PATH": path, "FAKE_CANN_NPU_SMI": "310-busy"})
    assert "warning: device 1 is busy (AICore 35 %, 0 processes)" in done.err
    assert done.err.index("warning") < done.err.index(f"$ ./{BINARY}")
    shutil.rmtree(folder / "result")
    done = go(folder, "--device_ids=0", env={"PATH": path, "FAKE_CANN_NPU_SMI": "310-busy"})
    assert len(done.calls) == 1
    assert "busy" not in done.err

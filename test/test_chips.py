"""chips.py against the tables of the fake npu-smi, and against what is no table."""
import os
import sys

from conftest import SUITE, run
from host import contract

import pytest

FAKES = SUITE / "test/fake_cann"


def chips(folder, table, *arguments, status=0):
    """Run chips.py where npu-smi prints one of the fake's tables."""
    path = os.pathsep.join([str(FAKES), os.environ["PATH"]])
    return run(sys.executable, SUITE / "tools/chips.py", *arguments, cwd=folder, status=status,
               env={"PATH": path, "FAKE_CANN_NPU_SMI": table})


def with_npu_smi(folder, text, status=0):
    """Run chips.py --first, which must fail, where npu-smi prints `text`."""
    (folder / "npu-smi").write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\nexit {status}\n")
    (folder / "npu-smi").chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return run(sys.executable, SUITE / "tools/chips.py", "--first", cwd=folder, env={"PATH": path}, status=4)


def line(device, name, card=0, health="OK", aicore=0, busy=False):
    return f"device {device}: Ascend{name}, card {card}, health {health}, AICore {aicore} %{', busy' * busy}"


@pytest.mark.parametrize(("table", "expected"), [
    ("310", [line(i, "310") for i in range(4)]),
    ("310-wide", [line(i, "310") for i in range(4)]),
    ("310-two-cards", [line(i, "310", card=2 + i // 4 * 4) for i in range(8)]),
    ("310-busy", [line(i, "310", aicore=35 * (i == 1), busy=i == 1) for i in range(4)]),
    ("310P3", [line(0, "310P3")]),
    ("310P3-unhealthy", [line(0, "310P3", health="Alarm"), line(1, "310P3")]),
    ("310P3-process", [line(0, "310P3", busy=True)]),
    ("310P3-critical", [line(0, "310P3", health="Critical"), line(1, "310P3")]),
    ("310B4-alarm", [line(0, "310B4", health="Alarm")]),
    ("910", [line(i, "910A", card=i) for i in range(8)]),  # no device column: counted
    ("910-dies", [line(i, "910", card=i // 2) for i in range(4)]),
    ("910B4-1", [line(0, "910B4-1", card=5)]),  # Device NA
    ("950DT", [line(0, "950DT")]),
])
def test_tables_of_npu_smi(table, expected, tmp_path):
    assert chips(tmp_path, table).stdout.splitlines() == expected


@pytest.mark.parametrize(("table", "first", "message"), [
    ("310", "Ascend310 0", ""), ("310-wide", "Ascend310 0", ""), ("310-two-cards", "Ascend310 0", ""),
    ("910", "Ascend910A 0", ""), ("310P3", "Ascend310P3 0", ""), ("910-dies", "Ascend910 0", ""),
    ("910B4-1", "Ascend910B4-1 0", ""), ("950DT", "Ascend950DT 0", ""),
    ("310P3-unhealthy", "Ascend310P3 1", "device 0 (Ascend310P3) left out: its health is Alarm\n"),
    ("310P3-critical", "Ascend310P3 1", "device 0 (Ascend310P3) left out: its health is Critical\n"),
    ("310B4-alarm", "Ascend310B4 0",
     "warning: device 0 (Ascend310B4) is used although its health is Alarm; it may be slow or fail\n"),
])
def test_first_usable_chip_is_one_that_atc_knows(table, first, message, tmp_path):
    done = chips(tmp_path, table, "--first")
    assert done.stdout == first + "\n"
    assert done.stderr == message
    assert contract.SOC_RULE.fullmatch(first.split()[0])


ONE_CHIP = ("| 0       310       | OK              | 12.8              58                   |\n"
            "| 0       0         | NA              | 0                 5324 / 8192          |")


def test_one_chip_alone_is_read(tmp_path):
    """So that the cases below fail for their own reason."""
    (tmp_path / "npu-smi").write_text(f"#!/bin/sh\ncat <<'E'\n{ONE_CHIP}\nE\n")
    (tmp_path / "npu-smi").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = run(sys.executable, SUITE / "tools/chips.py", "--first", cwd=tmp_path, env={"PATH": path})
    assert done.stdout == "Ascend310 0\n"


@pytest.mark.parametrize(("text", "status", "message"), [
    ("dcmi module initialize failed", 1, "npu-smi info failed (exit status 1): dcmi module initialize failed"),
    ("", 0, "lists no healthy chip"),
    (ONE_CHIP.replace("OK", "Critical"), 0, "lists no healthy chip"),
    (ONE_CHIP.replace("| 0                 53", "| busy              53"), 0, "of unknown format (above), in | 0 0 |"),
    (ONE_CHIP.replace("310  ", "999  "), 0, "of unknown format (above), in | 0 999 |"),
    (ONE_CHIP.splitlines()[1], 0, "of unknown format (above), in | 0 0 |"),
    ("| Chip    Device    | Bus-Id          | Memory-Usage(MB)  AICore(%)            |\n" + ONE_CHIP, 0,
     "of unknown format (above), in | Chip Device |"),
])
def test_npu_smi_that_does_not_help(text, status, message, tmp_path):
    assert message in with_npu_smi(tmp_path, text, status).stderr.splitlines()[-1]


def test_no_npu_smi(tmp_path):
    done = run(sys.executable, SUITE / "tools/chips.py", cwd=tmp_path, env={"PATH": str(tmp_path)}, status=4)
    assert done.stderr == "chips.py: npu-smi: not found; install the Ascend driver\n"

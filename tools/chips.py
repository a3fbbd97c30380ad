#!/usr/bin/env python3
"""List this host's Ascend chips: name, health, load.

Usage:    python3 tools/chips.py [--first]
Example:  python3 tools/chips.py
          device 0: Ascend310, card 0, health OK, AICore 0 %
          device 1: Ascend310, card 0, health OK, AICore 35 %, busy
          python3 tools/chips.py --first
          Ascend310 0

--first prints the name (for atc's --soc_version) and the id (for -device_id) of the first healthy chip;
others are reported on stderr. Exit status: 4 if npu-smi is not found, fails, or lists no healthy chip.
"""
import re
import shutil
import subprocess

import _root

from common.cli import Failure, parser_of, run, say

CHIP_NAME = re.compile(r"\d+[A-Z0-9]*")  # the Name column: 310, 310P3, 910B1
PATIENCE = 60  # seconds for npu-smi, which takes less than one


def cells(line: str) -> list:
    """Return the columns of a table row, each split at spaces: '| 0  310 | OK |' -> [['0', '310'], ['OK']]."""
    return [cell.split() for cell in line.strip().strip("|").split("|")]


def parse(text: str) -> list:
    """Return the chips that `npu-smi info` lists, as dicts {device, card, name, health, aicore, processes}.

    A chip has two rows: card id and Name, Health; then chip id and device id (tables of a 910 omit the device id:
    chips count from 0 there), bus, AICore in percent. The last table, with "Process id" in its header, lists processes.
    Widths and further columns differ between drivers, so rows are split at bars and spaces.
    """
    chips, first, in_processes = [], None, False
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            continue
        columns = cells(line)
        head = " ".join(columns[0] + (columns[1] if len(columns) > 1 else []))
        in_processes = in_processes or "Process id" in head
        if in_processes:
            add_process(chips, columns)
        elif len(columns[0]) >= 2 and columns[0][0].isdigit() and first is None \
                and CHIP_NAME.fullmatch(columns[0][1]) and not columns[1][0].isdigit():
            first = columns
        elif first is not None and columns[0] and columns[0][0].isdigit():
            device = columns[0][1] if len(columns[0]) > 1 else str(len(chips))
            if not device.isdecimal():
                raise ValueError(device)
            chips.append({
                "device": int(device), "card": int(first[0][0]), "chip": int(columns[0][0]), "name": first[0][1],
                "health": first[1][0], "aicore": int(columns[2][0]), "processes": 0,
            })
            first = None
    return chips


def add_process(chips: list, columns: list):
    """Count a row of the process table (card and chip, process id, ...) for its chip."""
    if len(columns) > 1 and len(columns[0]) >= 2 and columns[1] and columns[1][0].isdigit():
        for chip in chips:
            if [str(chip["card"]), str(chip["chip"])] == columns[0][:2]:
                chip["processes"] += 1


def is_busy(chip: dict) -> bool:
    """Return True if another process uses the chip, so that timings on it are invalid."""
    return chip["aicore"] > 0 or chip["processes"] > 0


def find() -> list:
    """Return the chips of this host, in order of device id; raises Failure (status 4) if npu-smi does not list them."""
    if shutil.which("npu-smi") is None:
        raise Failure("npu-smi: not found; install the Ascend driver", 4)
    try:
        result = subprocess.run(["npu-smi", "info"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                                check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"npu-smi info printed nothing for {PATIENCE} s; check the driver", 4) from error
    if result.returncode:
        raise Failure(f"npu-smi info failed (exit status {result.returncode}): {result.stdout.strip()[-200:]}", 4)
    try:
        chips = parse(result.stdout)
    except (IndexError, ValueError) as error:
        raise Failure("npu-smi info prints a table of unknown format; pass --soc_version", 4) from error
    return sorted(chips, key=lambda chip: chip["device"])


def healthy(chips: list) -> list:
    """Return the chips whose Health is OK; report the others. Raises Failure (status 4) if none is."""
    good = [chip for chip in chips if chip["health"] == "OK"]
    for chip in chips:
        if chip not in good:
            say(f"device {chip['device']} (Ascend{chip['name']}) left out: its health is {chip['health']}")
    if not good:
        raise Failure("npu-smi info lists no healthy chip", 4)
    return good


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--first", action="store_true", help="only soc_version and device id of the first healthy chip")
    args = parser.parse_args()
    chips = find()
    if args.first:
        chip = healthy(chips)[0]
        print(f"Ascend{chip['name']} {chip['device']}")
        return 0
    for chip in chips:
        print(f"device {chip['device']}: Ascend{chip['name']}, card {chip['card']}, health {chip['health']}, "
              f"AICore {chip['aicore']} %{', busy' if is_busy(chip) else ''}")
    return 0


if __name__ == "__main__":
    run(main)

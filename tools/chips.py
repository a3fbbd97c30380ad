#!/usr/bin/env python3
"""List this host's Ascend chips: name, health, load.

Usage:    python3 tools/chips.py [--first]
Example:  python3 tools/chips.py
          device 0: Ascend310, card 0, health OK, AICore 0 %
          device 1: Ascend310, card 0, health OK, AICore 35 %, busy
          python3 tools/chips.py --first
          Ascend310 0

--first prints the name (for atc's --soc_version) and the id (for -device_id) of the first healthy chip, or of
the first one that is not Critical: developer kits show Alarm in everyday use. What is wrong with a chip is
reported on stderr. Exit status: 4 if npu-smi is not found, fails, or lists no usable chip.
"""
import re
import shutil
import subprocess

import _root

from common.cli import Failure, parser_of, run, say
from host.contract import SOC_RULE

CHIP_NAME = re.compile(r"(?:Ascend)?(\d{3}[A-Za-z0-9_-]*)")  # the Name column: 310, 310P3, 910B4-1, Ascend910
PATIENCE = 60  # seconds for npu-smi, which takes less than one


def cells(line: str) -> list:
    """Return the columns of a table row, each split at spaces: '| 0  310 | OK |' -> [['0', '310'], ['OK']]."""
    return [cell.split() for cell in line.strip().strip("|").split("|")]


def parse(text: str) -> list:
    """Return the chips that `npu-smi info` lists, as dicts {device, card, chip, name, health, aicore, processes}.

    A chip has two rows: card id and Name, Health; then chip id and device id, bus, AICore in percent. The second chip
    of a card may lack the first row. Where the device id is absent or NA, it is the chip id, or if several cards count
    their chips from 0, the position. The last table, with "Process id" in its header, lists processes. Widths and
    further columns differ between drivers, so rows are split at bars and spaces.
    Raises ValueError, with the row, on one that does not fit.
    """
    chips, first, in_processes = [], None, False
    for line in text.splitlines():
        columns = cells(line)
        if not line.lstrip().startswith("|") or not columns[0]:
            continue
        head = " ".join(columns[0] + (columns[1] if len(columns) > 1 else []))
        in_processes = in_processes or "Process id" in head
        name = CHIP_NAME.fullmatch(columns[0][1]) if len(columns[0]) > 1 else None
        try:
            if in_processes:
                add_process(chips, columns)
            elif columns[0][0] == "Chip" and columns[2][0] != "AICore(%)":
                raise ValueError
            elif columns[0][0].isdigit() and name:
                first = {"card": count(columns[0][0]), "name": known(name.group(1)), "health": columns[1][0]}
            elif columns[0][0].isdigit():
                chips.append({**first, "chip": count(columns[0][0]), "aicore": count(columns[2][0]), "processes": 0,
                              "device": None if columns[0][1:] in ([], ["NA"]) else count(columns[0][1])})
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(" ".join(line.split())) from error
    ids = [chip["chip"] for chip in chips]
    for position, chip in enumerate(chips):
        if chip["device"] is None:
            chip["device"] = chip["chip"] if len(set(ids)) == len(ids) else position
    return chips


def count(text: str) -> int:
    """Return a number of decimal digits; raises ValueError on a sign or anything else."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(text)
    return int(text)


def known(name: str) -> str:
    """Return `name`; raises ValueError if atc knows no Ascend<name>."""
    if not SOC_RULE.fullmatch(f"Ascend{name}"):
        raise ValueError(name)
    return name


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
    except ValueError as error:
        say(result.stdout.rstrip())
        raise Failure(f"npu-smi info prints a table of unknown format (above), in {error}; pass --soc_version", 4) \
            from error
    return sorted(chips, key=lambda chip: chip["device"])


def usable(chips: list) -> list:
    """Return the chips that are not Critical, those whose Health is OK first; report the others.

    Raises Failure (status 4) if there is none.
    """
    found = sorted((chip for chip in chips if chip["health"] != "Critical"), key=lambda chip: chip["health"] != "OK")
    for chip in chips:
        place = f"device {chip['device']} (Ascend{chip['name']})"
        if chip["health"] != "OK" and (chip not in found or found[0]["health"] == "OK"):
            say(f"{place} left out: its health is {chip['health']}")
        elif chip["health"] != "OK":
            say(f"warning: {place} is used although its health is {chip['health']}; it may be slow or fail")
    if not found:
        raise Failure("npu-smi info lists no healthy chip", 4)
    return found


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--first", action="store_true", help="only soc_version and device id of the first usable chip")
    args = parser.parse_args()
    chips = find()
    if args.first:
        chip = usable(chips)[0]
        print(f"Ascend{chip['name']} {chip['device']}")
        return 0
    for chip in chips:
        print(f"device {chip['device']}: Ascend{chip['name']}, card {chip['card']}, health {chip['health']}, "
              f"AICore {chip['aicore']} %{', busy' if is_busy(chip) else ''}")
    return 0


if __name__ == "__main__":
    run(main)

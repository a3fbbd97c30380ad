#!/usr/bin/env python3
"""Print the throughput table of README 7 from the records that infer.py left, best batch size marked.

Usage:    python3 tools/throughput.py RECORD.json... [--soc_version Ascend310] [--pure PURE.json...] [--csv OUT.csv]
Example:  python3 tools/throughput.py result/dumpOutput_bs1.json result/dumpOutput_bs16.json --soc_version Ascend310
          Throughput, images/s, Ascend310, benchmark
          batch  Interface throughputRate  x4 = per card           e2e
              1                   158.623        634.492       108.021
             16                   198.865         795.46       127.923  best

The Interface rate is that of all devices that ran, their sum; with several, a line for each device follows.
An Ascend310 card has four chips, so a single chip's rate times four is what a card can do on
paper; with more than one chip measured, and on other chips, there is no such factor.

OUT.csv: a header line, then a line for each batch size: batch_size, devices, interface, per_card, e2e, pure.
"""
import csv
import io
import re
from pathlib import Path

import _root

from common.cli import Failure, parser_of, printable, run
from common.files import read_json, write

FIELDS = {"complete": bool, "batch_size": int, "engine": str, "rates": dict, "made_from": dict}  # of a record
LARGEST = 1e12  # images/s that nothing reaches
CHIPS_PER_CARD = {"Ascend310": 4}  # Atlas 300I 3010; a 310P3 or 910 card has one


def read_record(path: Path) -> dict:
    """One record of infer.py; raises Failure if it is none, or of a run that did not finish."""
    try:
        record = read_json(path)
        for key, kind in FIELDS.items():
            if not isinstance(record[key], kind):
                raise TypeError(key)
        rates, e2e, images = record["rates"], record.get("e2e"), record.get("images", 0)
        numbers = [rate["interface"] for rate in rates.values()] + [0 if e2e is None else e2e, images]
        if not all(isinstance(number, (int, float)) and 0 <= number < LARGEST for number in numbers):
            raise TypeError("rates")
        if not all(re.fullmatch(r"[0-9]{1,6}", device) for device in [*rates]):
            raise TypeError("rates")
        if not isinstance(record.get("device", ""), str):
            raise TypeError("device")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Failure(f"{path}: not a record of infer.py") from error
    if not record["complete"]:
        raise Failure(f"{path}: the run did not finish: run infer.py again")
    return record


def merge(records: list, names: list) -> list:
    """One record for each batch size: shares of several ranks are taken together, told apart by their names."""
    merged = {}
    for name, record in zip(names, records):
        merged.setdefault(record["batch_size"], []).append((Path(name), record))
    return [shares[0][1] if len(shares) == 1 else merge_shares(shares) for shares in merged.values()]


def merge_shares(shares: list) -> dict:
    """One record of the (path, record) pairs of one batch size; raises Failure if they are not of one om."""
    first, rates = shares[0][1], {}
    for path, record in shares:
        if record["made_from"].get("om") != first["made_from"].get("om"):
            raise Failure(f"{path}: of another om than {shares[0][0]}: run the ranks again")
        rates.update({f"{path.stem}, {device}": rate for device, rate in record["rates"].items()})
    if len(rates) < sum(len(record["rates"]) for _, record in shares):
        raise Failure(f"{shares[0][0].name}: given twice: no rates to add up")
    return dict(first, rates=rates, e2e=None, images=sum(record.get("images", 0) for _, record in shares))


def interface(record: dict):
    """Images/s over all devices, or None if the run was not timed in one go."""
    rates = [rate["interface"] for rate in record.get("rates", {}).values()]
    return sum(rates) if rates else None


def rows(records: list, pure: dict, soc_version: str) -> list:
    """A dict for each record, in order of batch size; rates in images/s, None where there is none."""
    result = []
    for record in sorted(records, key=lambda record: record["batch_size"]):
        rate, devices = interface(record), len(record.get("rates", {}))
        factor = CHIPS_PER_CARD.get(soc_version) if record["engine"] != "host" and devices == 1 else None
        result.append({
            "batch_size": record["batch_size"], "devices": devices, "interface": rate,
            "per_card": rate * factor if rate and factor else None, "e2e": record.get("e2e") if rate else None,
            "pure": interface(pure[record["batch_size"]]) if record["batch_size"] in pure else None,
        })
    return result


def print_table(table: list, records: list, with_pure: bool):
    """The table; the highest Interface rate is marked where there are several."""
    def figure(value):
        return "-" if value is None else f"{value:g}"

    best = max((row["interface"] or 0 for row in table), default=0)
    print(f"{'batch':>5}  {'Interface throughputRate':>24}  {'x4 = per card':>13}  {'e2e':>12}"
          + (f"  {'pure inference':>14}" if with_pure else ""))
    for row in table:
        print(f"{row['batch_size']:>5}  {figure(row['interface']):>24}  {figure(row['per_card']):>13}  "
              f"{figure(row['e2e']):>12}" + (f"  {figure(row['pure']):>14}" if with_pure else "")
              + ("  best" if len(table) > 1 and row["interface"] == best else ""))
    for record in sorted(records, key=lambda record: record["batch_size"]):
        if len(record.get("rates", {})) > 1:
            parts = [f"device {device} {rate['interface']:g}" if ", " not in device else
                     f"{device.replace(', ', ' on device ')}: {rate['interface']:g}"
                     for device, rate in sorted(record["rates"].items())]
            print(f"batch {record['batch_size']}: {', '.join(parts)}: together {interface(record):g}")


def device_line(records: list, soc_version: str) -> str:
    """What the records were measured on: the chip and the tool, or that it was none."""
    engines = sorted({record["engine"] for record in records})
    devices = sorted({device.split(", ")[-1] for record in records for device in record["rates"]}, key=int)
    if engines == ["host"]:
        return printable(records[0].get("device", "host"))
    return printable(f"{soc_version}, device {','.join(devices)} ({', '.join(engines)})")


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("records", metavar="RECORD.json", type=Path, nargs="+")
    parser.add_argument("--soc_version", default="", help="the chip, for the figure per card and the title")
    parser.add_argument("--pure", metavar="PURE.json", type=Path, nargs="+", default=[],
                        help="records of pure inference (infer.py --round)")
    parser.add_argument("--csv", metavar="OUT.csv", type=Path)
    args = parser.parse_args()

    records = merge([read_record(path) for path in args.records], args.records)
    pure = {record["batch_size"]: record for record in map(read_record, args.pure)}
    table = rows(records, pure, args.soc_version)
    print("Throughput, images/s")
    print(f"Device: {device_line(records, args.soc_version)}")
    print_table(table, records, bool(pure))
    if args.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        write(args.csv, text.getvalue())
        print(f"also in {args.csv}")
    return 0


if __name__ == "__main__":
    run(main)

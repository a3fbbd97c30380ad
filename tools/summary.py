#!/usr/bin/env python3
"""Print the accuracy and throughput of a finished run, and record its inputs, versions and commands.

Usage:    python3 tools/summary.py table RECORD.json... [--soc_version Ascend310] [--pure PURE.json...] [--csv OUT.csv]
          python3 tools/summary.py run --weights FILE --onnx FILE --batch_sizes 1,16 --soc_version CHIP
                  --reference TOP1,TOP5|published|measure [--deploy FILE] [--score] [--demo] [--subset TEXT]
                  [--csv OUT.csv]
Example:  python3 tools/summary.py table result/dumpOutput_bs1.json result/dumpOutput_bs16.json --soc_version Ascend310
          Throughput, images/s
          Device: Ascend310, device 0 (benchmark)
          batch  Interface throughputRate  x4 = per card           e2e
              1                   158.623        634.492       108.021
             16                   198.865         795.46       127.923  best

table: the throughput of infer.py's records, a line per batch size, the fastest marked. The Interface rate is the sum
of all devices' rates; with several devices a second line lists them. An Ascend310 card has four chips, so the nominal
rate of a card is one chip's times four; it is omitted for several chips and other cards. A rate that does not cover all
images is marked partial. OUT.csv: a header, then a line per batch size: batch_size, devices, interface, per_card, e2e,
pure.

run: for run_all.sh, in its work directory. Writes run.json and throughput.txt from the results of the steps, and prints
both tables. --score merges the shares of several ranks. --csv includes pure inference, from result/pure_bsN.json. With
--deploy, the deploy model of an int8 run, its first batch size is shown beside side_by_side.py's f32 and fp16.

run.json: {commands: [the command lines, in order; those of rank 0 first], versions, weights, onnx, om: {batch
size: {sha256, precision}}, data_set: {source, count, listing_sha256: of each share}, recipe, soc_version,
inference: {batch size: [the records of infer.py: devices, rates, its commands]}, reference, accuracy: {batch
size: result.json's values}, demo, quick_look: the option that selected some of the images}; of an int8 run also
quantization: {tool, file, sha256, images (that calibrated), scored (of these, among the run's)} and precisions: [see
side_by_side.rows].
"""
import contextlib
import csv
import importlib.util
import io
import json
import platform
import re
import statistics
from pathlib import Path

import _root

import shares
from common.cli import Failure, parser_of, printable, run
from common.files import as_written, hash_of, lines, read_json, write
from compile_om import DEFAULT, PRECISIONS
from engines import is_ascend
from host import om
from host.contract import FLAGS
from quantize import tool_name

FIELDS = {"complete": bool, "batch_size": int, "engine": str, "rates": dict, "made_from": dict}  # of a record
LARGEST = 1e12  # images/s; a larger number is not a rate
CHIPS_PER_CARD = {"Ascend310": 4}  # Atlas 300I 3010; a 310P3 or 910 card has one
STAGES = ("data read", "preprocess", "infer", "post")  # as the benchmark names them
PACKAGES = {"numpy": "numpy", "PIL": "Pillow", "cv2": "opencv-python", "torch": "torch", "onnx": "onnx",
            "openvino": "openvino"}


# --- throughput -----------------------------------------------------------------------------------------------------

def read_record(path: Path) -> dict:
    """Return a record of infer.py; raises Failure if it is invalid, or from a run that did not finish."""
    try:
        record = read_json(path)
        for key, kind in FIELDS.items():
            if not isinstance(record[key], kind):
                raise TypeError(key)
        rates, e2e, images = record["rates"], record.get("e2e"), record.get("images", 0)
        numbers = [rate["interface"] for rate in rates.values()] + [rate.get("images", 0) for rate in rates.values()]
        numbers += [0 if e2e is None else e2e, images]
        if not all(isinstance(number, (int, float)) and 0 <= number < LARGEST for number in numbers):
            raise TypeError("rates")
        if not all(re.fullmatch(r"[0-9]{1,6}", device) for device in [*rates]):
            raise TypeError("rates")
        if not isinstance(record.get("device", ""), str):
            raise TypeError("device")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Failure(f"{path}: not a record of infer.py") from error
    if not record["complete"]:
        raise Failure(f"{path}: the run did not finish; rerun infer.py")
    return record


def merge(records: list, names: list) -> list:
    """Return one record per batch size; the shares of several ranks, identified by `names`, are merged."""
    merged = {}
    for name, record in zip(names, records):
        merged.setdefault(record["batch_size"], []).append((Path(name), record))
    return [shares[0][1] if len(shares) == 1 else merge_shares(shares) for shares in merged.values()]


def merge_shares(shares: list) -> dict:
    """Return one record for the (path, record) pairs of a batch size; raises Failure if their om differ."""
    first, rates = shares[0][1], {}
    for path, record in shares:
        if record["made_from"].get("om") != first["made_from"].get("om"):
            raise Failure(f"{path}: made with another om than {shares[0][0]}; rerun the ranks")
        rates.update({f"{path.stem}, {device}": rate for device, rate in record["rates"].items()})
    if len(rates) < sum(len(record["rates"]) for _, record in shares):
        raise Failure(f"{shares[0][0].name}: given twice; pass each record once")
    return dict(first, rates=rates, e2e=None, images=sum(record.get("images", 0) for _, record in shares))


def interface(record: dict):
    """Return images/s of all devices together, None if no part of the run was timed."""
    rates = [rate["interface"] for rate in record.get("rates", {}).values()]
    return sum(rates) if rates else None


def untimed(record: dict) -> int:
    """Return how many images of a record its rates do not cover, because the process that ran them was killed."""
    timed = [rate.get("images") for rate in record.get("rates", {}).values()]
    return record["images"] - sum(timed) if "images" in record and all(timed) else 0


def rows(records: list, pure: dict, soc_version: str) -> list:
    """Return a dict per record, in order of batch size; rates in images/s, None if unknown."""
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
    """Print the table; of several Interface rates the highest is marked."""
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
        if untimed(record) > 0:
            print(f"batch {record['batch_size']}: partial: the rate does not cover {untimed(record)} of "
                  f"{record['images']} images, whose process was killed")
        if len(record.get("rates", {})) > 1:
            parts = [f"device {device} {rate['interface']:g}" if ", " not in device else
                     f"{device.replace(', ', ' on device ')}: {rate['interface']:g}"
                     for device, rate in sorted(record["rates"].items())]
            print(f"batch {record['batch_size']}: {', '.join(parts)}: together {interface(record):g}")


def device_line(records: list, soc_version: str) -> str:
    """Return the device of the records: chip and tool, or the CPU stand-in."""
    engines = sorted({record["engine"] for record in records})
    devices = sorted({device.split(", ")[-1] for record in records for device in record["rates"]}, key=int)
    if engines == ["host"]:
        return printable(records[0].get("device", "host"))
    return printable(f"{soc_version}, device {','.join(devices)} ({', '.join(engines)})")


def table(args, records: list, pure: dict):
    """Print the throughput table, and write it to args.csv if given."""
    found = rows(records, pure, args.soc_version)
    print("Throughput, images/s")
    print(f"Device: {device_line(records, args.soc_version)}")
    print_table(found, records, bool(pure))
    if args.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, found[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        write(args.csv, text.getvalue())
        print(f"also in {args.csv}")


def rates_of(run_) -> list:
    """Return rows() of a run (runs.load_run), each with `stages`: {stage: ms per image, the mean of its devices}."""
    merged, pure = [], {}
    for batch, records in run_.record["inference"].items():
        merged += merge(records, [f"share{i}" for i in range(len(records))])
        path = run_.folder / f"result/pure_bs{int(batch)}.json"
        if path.exists():
            pure[int(batch)] = read_record(path)
    table_rows = rows(merged, pure, run_.record["soc_version"])
    for row in table_rows:
        records = run_.record["inference"][str(row["batch_size"])]
        known = [rate.get("stages", {}) for record in records for rate in record["rates"].values()]
        row["stages"] = {stage: statistics.mean(float(stages[stage]) for stages in known if stage in stages)
                         for stage in STAGES if any(stage in stages for stages in known)}
    return table_rows


# --- what ran -------------------------------------------------------------------------------------------------------

def read_step(path: Path):
    """Return the content of a step's JSON file; raises Failure if it is missing or damaged."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise Failure(f"{path}: missing or damaged; rerun run_all.sh") from error


def versions() -> dict:
    """Return {package: version} of the installed packages, without importing them."""
    try:
        from importlib import metadata  # novm
    except ImportError:  # Python 3.7
        metadata = None
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.platform()}
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is not None:
            try:
                found[package] = metadata.version(package) if metadata else "unknown"
            except metadata.PackageNotFoundError:  # from the system, not from a package index
                found[package] = "unknown"
    return found


def describe_om(path: Path, onnx: str) -> dict:
    """Return sha256 and precision of an om; raises Failure if it was not made from the ONNX file with sha256 `onnx`.

    A host om's header has its precision. The real atc does not record it; compile_om.py does, in om.json.
    """
    digest = hash_of(path)
    if not is_ascend(path):
        header = om.load(path)[0]
        if header["onnx_sha256"] != onnx:
            raise Failure(f"{path}: compiled from another ONNX file; recompile it")
        return {"sha256": digest, "precision": header["precision"]}
    try:
        made = read_json(f"{path}.json")
        if made["om_sha256"] != digest or made["onnx_sha256"] != onnx:
            raise Failure(f"{path}: not the om that {path}.json describes; recompile it")
        name = made["precision"]
        flags = PRECISIONS[name][0] if name in PRECISIONS else []
        text = f"{name} ({flags[0].partition('=')[2]})" if flags else \
            f"{DEFAULT}, {FLAGS['precision_mode']}" if name == DEFAULT else str(name)
        return {"sha256": digest, "precision": text}
    except FileNotFoundError:  # compiled by hand
        return {"sha256": digest, "precision": "not recorded"}
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path}.json: missing or invalid field ({error}); recompile the om") from error


def describe_data_set(folders: list) -> tuple:
    """Return (data_set, recipe) of run.json, from the manifests of the folders that hold the bins."""
    manifests = []
    for folder in folders:
        with as_written(folder / "manifest.json"):
            manifest = read_step(folder / "manifest.json")
            manifests.append({key: manifest[key] for key in ("source", "recipe", "listing_sha256")})
            manifests[-1]["count"] = int(manifest["count"])
            manifests[-1]["decoder"] = str(manifest.get("decoder")).partition(" ")[0]  # versions of libjpeg-turbo agree
    first = manifests[0]
    for folder, manifest in zip(folders, manifests):
        if any(manifest[key] != first[key] for key in ("source", "recipe", "decoder")):
            raise Failure(f"{folder}: has another source, recipe or JPEG decoder than {folders[0]}; rerun the ranks")
    return {"source": first["source"], "count": sum(manifest["count"] for manifest in manifests),
            "listing_sha256": [manifest["listing_sha256"] for manifest in manifests]}, first["recipe"]


def figures(path: Path) -> dict:
    """Return {key: value} of a result.json."""
    with as_written(path):
        return {row["key"]: row["value"] for row in read_step(path)["value"]}


def describe_quantization(deploy: Path, images: list) -> dict:
    """Return run.json's `quantization`, from quantize.py's record of a deploy model; `images` are those scored."""
    with as_written(f"{deploy}.json"):
        made = read_step(Path(f"{deploy}.json"))
        if made["deploy_sha256"] != hash_of(deploy):
            raise Failure(f"{deploy}: not the deploy model that {deploy}.json describes; rerun run_all.sh")
        return {"tool": tool_name(made["tool"]), "file": str(deploy), "sha256": made["deploy_sha256"],
                "images": len(made["images"]), "scored": len(set(made["images"]) & set(images))}


def quantized_by(quantization: dict) -> str:
    """Return by what, and with which images, a run's network was quantized."""
    return f"by {quantization['tool']}, calibrated with {int(quantization['images'])} images, of which " \
           f"{int(quantization['scored'])} are among those scored"


def what_ran(run_) -> dict:
    """Return {what: value as text} of a run (runs.load_run), for the pages."""
    record, recipe = run_.record, run_.record["recipe"]
    return {
        "Device": device_line([item for items in record["inference"].values() for item in items],
                              record["soc_version"]),
        "Precision": str(record["om"][run_.batch]["precision"]),
        **({"Quantized": quantized_by(record["quantization"])} if record.get("quantization") else {}),
        "Weights": f"{record['weights']['file']} (sha256 {record['weights']['sha256'][:16]})",
        "ONNX": f"{record['onnx']['file']} (sha256 {record['onnx']['sha256'][:16]})",
        "om": f"batch {run_.batch} (sha256 {record['om'][run_.batch]['sha256'][:16]})",
        "Images": f"{run_.total} of {record['data_set']['source']}"
                  + (f" (some only: {record['quick_look']})" if record.get("quick_look") else ""),
        "Recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
    }


def print_accuracy(args, records: list):
    """Print the accuracy of the first batch size, and the failures of the others."""
    first, *others = args.batch_sizes.split(",")
    print(f"\n== Accuracy, batch {first}\nDevice: {device_line(records, args.soc_version)}")
    if args.subset:
        print(f"Some of the images only: {args.subset}")
    if args.demo:
        print("Demo weights, fitted to these photos; they cannot classify ImageNet.")
    print(Path(f"accuracy_bs{first}.txt").read_text(), end="")
    for batch in others:
        for line in Path(f"accuracy_bs{batch}.txt").read_text().splitlines():
            if line.startswith(("FAILED", "DISAGREES")):
                print(f"batch {batch}: {line}")


def summarize(args) -> int:
    """Write run.json and throughput.txt, and print both tables."""
    batches = args.batch_sizes.split(",")
    names = {batch: [path.stem for path in shares.records(batch)] if args.score else [] for batch in batches}
    folders = [Path(share, "prep_dataset") for share in names[batches[0]]] or [Path("prep_dataset")]
    data_set, recipe = describe_data_set(folders)
    paths = {batch: [Path(f"result/dumpShares_bs{batch}/{share}.json") for share in names[batch]]
             or [Path(f"result/dumpOutput_bs{batch}.json")] for batch in batches}
    commands = [*(f"commands_{rank}.txt" for rank in range(len(names[batches[0]]))), "commands.txt"]
    onnx, quantized = hash_of(args.onnx), {}
    if args.deploy:
        import side_by_side
        from common import runs

        quantization = describe_quantization(args.deploy, runs.read_details(Path(f"details_bs{batches[0]}.csv"))[0])
        quantized = {"quantization": quantization, "precisions": side_by_side.rows(batches[0], onnx, quantization)}
    compiled = quantized["quantization"]["sha256"] if quantized else onnx
    record = {
        "demo": args.demo,
        "quick_look": args.subset,
        "commands": [line for name in commands for _, line in lines(name)],
        "versions": versions(),
        "weights": {"file": str(args.weights), "sha256": hash_of(args.weights)},
        "onnx": {"file": str(args.onnx), "sha256": onnx},
        "om": {batch: describe_om(Path(f"xception_bs{batch}.om"), compiled) for batch in batches},
        "data_set": data_set,
        "recipe": recipe,
        "soc_version": args.soc_version,
        "inference": {batch: [read_step(path) for path in paths[batch]] for batch in batches},
        "reference": args.reference,
        "accuracy": {batch: figures(Path(f"result_bs{batch}.json")) for batch in batches},
        **quantized,
    }
    every = [path for batch in batches for path in paths[batch]]
    records = merge([read_record(path) for path in every], every)
    pure = {}
    if args.csv:
        pure = {int(batch): read_record(Path(f"result/pure_bs{batch}.json")) for batch in batches}
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        table(args, records, pure)
    with contextlib.suppress(FileNotFoundError):
        Path("report.html").unlink()  # of an earlier run, in case report.py fails
    write("throughput.txt", text.getvalue())
    write("run.json", json.dumps(record, indent=1) + "\n")
    print_accuracy(args, records)
    if quantized:
        side_by_side.print_table(record)
    print(f"\n== {text.getvalue()}", end="")
    return 0


def main() -> int:
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", metavar="table|run", required=True)
    tables = commands.add_parser("table", help="print the throughput of infer.py's records")
    tables.add_argument("records", metavar="RECORD.json", type=Path, nargs="+")
    tables.add_argument("--pure", metavar="PURE.json", type=Path, nargs="+", default=[],
                        help="records of pure inference (infer.py --round)")
    whole = commands.add_parser("run", help="summarize a run of run_all.sh")
    whole.add_argument("--weights", type=Path, required=True)
    whole.add_argument("--onnx", type=Path, required=True)
    whole.add_argument("--deploy", type=Path, metavar="FILE", help="the deploy model of an int8 run")
    whole.add_argument("--batch_sizes", required=True, metavar="1,16")
    whole.add_argument("--reference", required=True, metavar="TOP1,TOP5")
    whole.add_argument("--score", action="store_true", help="merge the shares of several ranks")
    whole.add_argument("--demo", action="store_true", help="the weights are the demo's")
    whole.add_argument("--subset", default="", metavar="TEXT", help="the option that selected some of the images")
    for command in (tables, whole):
        command.add_argument("--soc_version", default="", metavar="CHIP", help="for the rate per card and the title")
        command.add_argument("--csv", metavar="OUT.csv", type=Path)
    args = parser.parse_args()
    if args.command == "run":
        return summarize(args)
    table(args, merge([read_record(path) for path in args.records], args.records),
          {record["batch_size"]: record for record in map(read_record, args.pure)})
    return 0


if __name__ == "__main__":
    run(main)

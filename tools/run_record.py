#!/usr/bin/env python3
"""Put on record what a finished run of run_all.sh was made of: run.json in the work directory.

Usage:    python3 tools/run_record.py --weights F --onnx F --batch_sizes 1,16 --soc_version CHIP
                  --reference T1,T5|published [--score] [--demo] [--quick_look TEXT]
Example:  python3 tools/run_record.py --weights demo.pth.tar --onnx xception.onnx --batch_sizes 1,16 \\
              --soc_version Ascend310 --reference published
          run.json: what ran, with sha256 of weights, ONNX and 2 oms

Run in the work directory. It reads what the steps left there, and computes nothing but hashes.
--score: of what several ranks made and run_all.sh --score put together (README 5.2).

run.json: {commands: [the command lines, in order; those of rank 0 first], versions, weights, onnx, om: {batch
size: {sha256, precision}}, data_set: {source, count, listing_sha256: of each share}, recipe, soc_version,
inference: {batch size: [the records of infer.py: devices, rates, its commands]}, reference, accuracy: {batch
size: result.json's values}, demo, quick_look}.
"""
import importlib.util
import json
import platform
import re
from pathlib import Path

import _root

from common.cli import Failure, parser_of, run
from common.files import as_written, hash_of, lines, read_json, write
from infer import is_ascend

PACKAGES = ("numpy", "PIL", "cv2", "torch", "onnx", "openvino")


def read_step(path: Path):
    """A step's JSON file; raises Failure if it is missing or none."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError) as error:
        raise Failure(f"{path}: missing or damaged: run run_all.sh again") from error


def versions() -> dict:
    """{package: version} of what is installed here, from the packages' own metadata, without importing them."""
    from importlib import metadata

    names = {"PIL": "Pillow", "cv2": "opencv-python"}
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.platform()}
    for module in PACKAGES:
        if importlib.util.find_spec(module) is not None:
            try:
                found[names.get(module, module)] = metadata.version(names.get(module, module))
            except metadata.PackageNotFoundError:  # from the system, not from a package index
                found[names.get(module, module)] = "unknown"
    return found


def describe_om(path: Path, onnx: str) -> dict:
    """sha256 and precision of an om; the real atc does not say in the file what it computed in.

    Raises Failure if a host om is not of the ONNX file with sha256 `onnx`.
    """
    if is_ascend(path):
        return {"sha256": hash_of(path), "precision": "atc's default, force_fp16"}
    from host import om

    header = om.load(path)[0]
    if header["onnx_sha256"] != onnx:
        raise Failure(f"{path}: compiled from another ONNX file: compile it again")
    return {"sha256": hash_of(path), "precision": header["precision"]}


def shares_of(batch: str) -> list:
    """Names of the shares that were scored, in order of rank: share0of4 and so on."""
    names = [path.stem for path in Path(f"result/dumpShares_bs{batch}").glob("share*of*.json")
             if re.fullmatch(r"share[0-9]+of[0-9]+", path.stem)]
    return sorted(names, key=lambda name: int(name[len("share"):].split("of")[0]))


def describe_data_set(folders: list) -> tuple:
    """(data_set, recipe) of run.json, from the manifests of the folders that hold the bins."""
    manifests = []
    for folder in folders:
        with as_written(folder / "manifest.json"):
            manifest = read_step(folder / "manifest.json")
            manifests.append({key: manifest[key] for key in ("source", "recipe", "listing_sha256")})
            manifests[-1]["count"] = int(manifest["count"])
    first = manifests[0]
    for folder, manifest in zip(folders, manifests):
        if [manifest["source"], manifest["recipe"]] != [first["source"], first["recipe"]]:
            raise Failure(f"{folder}: of another source or recipe than {folders[0]}: run the ranks again")
    return {"source": first["source"], "count": sum(manifest["count"] for manifest in manifests),
            "listing_sha256": [manifest["listing_sha256"] for manifest in manifests]}, first["recipe"]


def figures(path: Path) -> dict:
    """{key: value} of a result.json."""
    with as_written(path):
        return {row["key"]: row["value"] for row in read_step(path)["value"]}


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--batch_sizes", required=True, metavar="1,16")
    parser.add_argument("--soc_version", required=True)
    parser.add_argument("--reference", required=True, metavar="TOP1,TOP5")
    parser.add_argument("--score", action="store_true", help="of the shares of several ranks")
    parser.add_argument("--demo", action="store_true", help="the weights are the demo's, so that no figure looks real")
    parser.add_argument("--quick_look", default="", metavar="TEXT", help="which of the images were taken, if not all")
    args = parser.parse_args()

    batches = args.batch_sizes.split(",")
    shares = shares_of(batches[0]) if args.score else []
    data_set, recipe = describe_data_set([Path(share, "prep_dataset") for share in shares or ["."]])
    records = {batch: [f"dumpShares_bs{batch}/{share}" for share in shares] or [f"dumpOutput_bs{batch}"]
               for batch in batches}
    commands = [*(f"commands_{rank}.txt" for rank in range(len(shares))), "commands.txt"]
    accuracy = {batch: figures(Path(f"result_bs{batch}.json")) for batch in batches}
    onnx = hash_of(args.onnx)
    record = {
        "demo": args.demo,
        "quick_look": args.quick_look,
        "commands": [line for name in commands for _, line in lines(name)],
        "versions": versions(),
        "weights": {"file": str(args.weights), "sha256": hash_of(args.weights)},
        "onnx": {"file": str(args.onnx), "sha256": onnx},
        "om": {batch: describe_om(Path(f"xception_bs{batch}.om"), onnx) for batch in batches},
        "data_set": data_set,
        "recipe": recipe,
        "soc_version": args.soc_version,
        "inference": {batch: [read_step(Path(f"result/{name}.json")) for name in names]
                      for batch, names in records.items()},
        "reference": args.reference,
        "accuracy": accuracy,
    }
    write("run.json", json.dumps(record, indent=1) + "\n")
    print(f"run.json: what ran, with sha256 of weights, ONNX and {len(batches)} oms")
    return 0


if __name__ == "__main__":
    run(main)

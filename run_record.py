#!/usr/bin/env python3
"""Put on record what a finished run of run_all.sh was made of: run.json in the work directory.

Usage:    python3 run_record.py --weights F --onnx F --batch_sizes 1,16 --soc_version CHIP --reference T1,T5
Example:  python3 run_record.py --weights demo.pth.tar --onnx xception.onnx --batch_sizes 1,16 \\
              --soc_version Ascend310 --reference 78.892,94.292
          run.json: what ran, with sha256 of weights, ONNX and 2 oms

Run in the work directory. It reads what the steps left there, and computes nothing but hashes.

run.json: {commands: [the command lines, in order], versions, weights, onnx, om: {batch size: {sha256,
precision}}, data_set: {source, count, listing_sha256}, recipe, soc_version, inference: {batch size:
the record of infer.py}, reference, accuracy: {batch size: result.json's values}}.
"""
import argparse
import importlib.util
import json
import platform
import sys
from pathlib import Path

from common import Failure, run, write
from infer import is_ascend, sha256

HERE = Path(__file__).resolve().parent
PACKAGES = ("numpy", "PIL", "cv2", "torch", "onnx", "openvino")


def read_json(path: Path):
    """A step's JSON file; raises Failure if it is missing or none."""
    try:
        return json.loads(path.read_text())
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


def describe_om(path: Path) -> dict:
    """sha256 and precision of an om; the real atc does not say in the file what it computed in."""
    if is_ascend(path):
        return {"sha256": sha256(path), "precision": "atc's default, force_fp16"}
    sys.path.insert(1, str(HERE / "host"))
    import om

    return {"sha256": sha256(path), "precision": om.load(path)[0]["precision"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--batch_sizes", required=True, metavar="1,16")
    parser.add_argument("--soc_version", required=True)
    parser.add_argument("--reference", required=True, metavar="TOP1,TOP5")
    args = parser.parse_args()

    batches = args.batch_sizes.split(",")
    manifest = read_json(Path("prep_dataset/manifest.json"))
    accuracy = {batch: read_json(Path(f"result_bs{batch}.json"))["value"] for batch in batches}
    record = {
        "commands": Path("commands.txt").read_text().splitlines(),
        "versions": versions(),
        "weights": {"file": str(args.weights), "sha256": sha256(args.weights)},
        "onnx": {"file": str(args.onnx), "sha256": sha256(args.onnx)},
        "om": {batch: describe_om(Path(f"xception_bs{batch}.om")) for batch in batches},
        "data_set": {key: manifest[key] for key in ("source", "count", "listing_sha256")},
        "recipe": manifest["recipe"],
        "soc_version": args.soc_version,
        "inference": {batch: read_json(Path(f"result/dumpOutput_bs{batch}.json")) for batch in batches},
        "reference": args.reference,
        "accuracy": {batch: {row["key"]: row["value"] for row in rows} for batch, rows in accuracy.items()},
    }
    write("run.json", json.dumps(record, indent=1) + "\n")
    print(f"run.json: what ran, with sha256 of weights, ONNX and {len(batches)} oms")
    return 0


if __name__ == "__main__":
    run(main)

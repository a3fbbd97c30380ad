#!/usr/bin/env python3
"""Quantize an ONNX file to int8 with amct_onnx, unless an earlier call did so with the same images.

Usage:    python3 tools/quantize.py ONNX STEM PREP_DIR [--labels val_label.txt] [--images 16]
Example:  python3 tools/quantize.py xception.onnx xception ./prep_dataset --labels val_label.txt
          1 files of 16 tensors in calibration_bin: 16 of 45 images, of 14 classes
          $ amct_onnx calibration --model xception.onnx --save_path ./xception ...
          xception_deploy_model.onnx: int8, by the CPU stand-in host/amct_onnx, calibrated with 16 images

amct_onnx is the first on PATH, CANN's where it is installed (a separate package), otherwise the stand-in in host/.
gen_calibration_bin.py draws the images from the tensors in PREP_DIR; it fills ./calibration_bin.

STEM_deploy_model.onnx.json: {command: [words], tool: path, onnx_sha256, images: [names], calibration_sha256 (of the
calibration data), deploy_sha256}: what the deploy model was made from. It is kept as long as all of it holds.

Exit status: amct_onnx's own if it fails; 4 if it succeeds without leaving a deploy model.
"""
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from _root import ROOT

from common import cli, model
from common.cli import Failure, parser_of, positive, printable, run, say
from common.files import hash_of, lines, read_json, write
from common.formats import bins_of
from common.jobs import call
from common.onnx_file import check_network, is_quantized, layers_of, read_onnx

STAND_IN = ROOT / "host/amct_onnx"
CALIBRATION = Path("calibration_bin")
IMAGES = 16  # as in the guides of sister models, which calibrate with one file of 16 or 32


def find_amct() -> str:
    """Return amct_onnx: the first on PATH, else the stand-in."""
    return shutil.which("amct_onnx") or str(STAND_IN)


def is_stand_in(path: str) -> bool:
    return os.path.realpath(path) == str(STAND_IN)


def tool_name(path: str) -> str:
    """Return how messages and pages call an amct_onnx."""
    return "the CPU stand-in host/amct_onnx" if is_stand_in(path) else f"amct_onnx ({path})"


def is_current(target: Path, made: dict) -> bool:
    """Return True if `target` is the deploy model that its record describes, and was made as `made` says."""
    try:
        return {**made, "deploy_sha256": hash_of(target)} == read_json(f"{target}.json")
    except (Failure, OSError, ValueError):
        return False


def check_deploy(path: Path, network: dict) -> int:
    """Return the number of int8 layers of a deploy model; raises Failure unless it is `network` with some."""
    quantized = read_onnx(path)
    layers = quantized["operators"]["AscendDequant"]
    ports = [[port["name"] for kind in ("inputs", "outputs") for port in one[kind]] for one in (network, quantized)]
    if not layers or ports[0] != ports[1] or layers_of(quantized) != layers_of(network):
        raise Failure(f"{path}: amct_onnx reported success, but it is not the network with int8 layers", 4)
    return layers


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("onnx", metavar="ONNX", type=Path)
    parser.add_argument("stem", metavar="STEM", help="of the deploy model's path")
    parser.add_argument("prep", metavar="PREP_DIR", type=Path, help="tensors of img_preprocess.py, float32")
    parser.add_argument("--labels", metavar="val_label.txt", type=Path, help="draw evenly over the classes")
    parser.add_argument("--images", metavar="N", type=positive, default=IMAGES,
                        help="calibrate with this many, or all if there are fewer (default: %(default)s)")
    args = parser.parse_args()

    if not args.onnx.exists():
        raise Failure(f"{args.onnx}: no such file; export it with xception_pth2onnx.py")
    network = check_network(args.onnx)
    if is_quantized(network):
        raise Failure(f"{args.onnx}: is quantized already; pass the network in float32")
    number = min(args.images, len(bins_of(args.prep)) or args.images)
    status = call([sys.executable, ROOT / "tools/gen_calibration_bin.py", args.prep, CALIBRATION, number, 1,
                   *([f"--labels={args.labels}"] if args.labels else [])])
    if status:
        return status
    tool, target = find_amct(), Path(f"{args.stem}_deploy_model.onnx")
    save_path = args.stem if os.path.dirname(args.stem) else f"./{args.stem}"
    command = ["amct_onnx", "calibration", "--model", str(args.onnx), "--save_path", save_path, "--input_shape",
               f"{model.INPUT}:{number},3,{model.SIDE},{model.SIDE}", "--data_dir", f"./{CALIBRATION}", "--data_types",
               "float32"]
    if not cli.quiet:
        say("$ " + " ".join(map(shlex.quote, command)))
    made = {"command": command, "tool": os.path.realpath(tool), "onnx_sha256": hash_of(args.onnx),
            "images": [line.partition(" ")[2] for _, line in lines(f"{CALIBRATION}.txt")],
            "calibration_sha256": hash_of(CALIBRATION / f"img_bs{number}_0.bin")}
    result = f"{printable(str(target))}: int8, by {tool_name(tool)}, calibrated with {number} images"
    if is_current(target, made):
        print(f"{result}: up to date")
        return 0
    for path in (target, Path(f"{target}.json")):
        if path.exists():
            path.unlink()
    status = call([tool, *command[1:]])
    if status:
        return status
    if not target.exists():
        raise Failure(f"{target}: amct_onnx reported success but did not write it", 4)
    try:
        layers = check_deploy(target, network)
    except Failure:
        target.unlink()
        raise
    if layers < layers_of(network):
        say(f"{target}: {layers_of(network) - layers} of {layers_of(network)} layers are not in int8")
    write(f"{target}.json", json.dumps({**made, "deploy_sha256": hash_of(target)}, indent=1) + "\n")
    print(result)
    return 0


if __name__ == "__main__":
    run(main)

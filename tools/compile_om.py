#!/usr/bin/env python3
"""Compile an ONNX file with atc, unless the om of an earlier call was made from the same file by the same command.

Usage:    python3 tools/compile_om.py ONNX STEM --batch_size N --soc_version CHIP
                  [--precision f32|fp16|bf16|int8] [--aipp]
Example:  python3 tools/compile_om.py xception.onnx xception_bs1 --batch_size 1 --soc_version Ascend310
          $ atc --framework=5 --model=xception.onnx --output=xception_bs1 --input_format=NCHW ...
          ATC start working now, please wait for a moment.
          ATC run success, welcome to the next use.
          xception_bs1.om: complete om for an Ascend chip, 47,194,368 bytes

atc is the first on PATH: CANN's, or the stand-in in host/ (env.sh). It may report success and leave no om, or half of
one, so the om is checked.

int8: ONNX is the deploy model of quantize.py, with or without --precision int8.

STEM.om.json: {command: [words], atc: path, precision: "f32", "fp16", "bf16", "int8" or "atc's default", onnx_sha256,
batch_size, aipp, dtype and layout (of the tensors that it takes: float32 CHW, or uint8 HWC by AIPP), classes (null if
the ONNX does not say), om_sha256}: what the om was made from. The om is kept as long as all of it holds.

Exit status: atc's own (255) if it fails; 4 if it succeeds without leaving a complete om.
"""
import json
import os
import shlex
import shutil
from pathlib import Path

from _root import ROOT

from common import cli, model
from common.cli import Failure, parser_of, positive, printable, run, say
from common.files import hash_of, read_json, write
from common.jobs import call
from common.onnx_file import check_network, classes_of, is_quantized
from host import om

PRECISIONS = {  # name: (atc's flags, the name in a host om's header)
    "f32": (["--precision_mode=must_keep_origin_dtype"], "f32"),
    "fp16": (["--precision_mode=force_fp16"], om.EMULATED),
    "bf16": (["--precision_mode_v2=mixed_bfloat16"], "bf16"),  # the stand-in's only; CANN 5.0.1 lacks the flag
    "int8": ([], om.INT8),  # the ONNX file has it: a deploy model
}
DEFAULT = "atc's default"


def atc_command(onnx: Path, stem: str, batch_size: int, soc_version: str, precision=None, aipp=False) -> list:
    """Return atc's command line, in the order of the README."""
    return ["atc", "--framework=5", f"--model={onnx}", f"--output={stem}", "--input_format=NCHW",
            f"--input_shape={model.INPUT}:{batch_size},3,{model.SIDE},{model.SIDE}", "--log=error",
            f"--soc_version={soc_version}", *([f"--insert_op_conf={ROOT / 'tools/xception_aipp.cfg'}"] if aipp else []),
            *(PRECISIONS[precision][0] if precision else [])]


def is_current(target: Path, made: dict) -> bool:
    """Return True if `target` is the om that its STEM.om.json describes, and was made as `made` says."""
    try:
        return {**made, "om_sha256": hash_of(target)} == read_json(f"{target}.json")
    except (Failure, OSError, ValueError):
        return False


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("onnx", metavar="ONNX", type=Path)
    parser.add_argument("stem", metavar="STEM", help="the om's path without .om, which atc adds")
    parser.add_argument("--batch_size", type=positive, required=True, metavar="N", help="frozen in the om")
    parser.add_argument("--soc_version", required=True, metavar="CHIP", help="Ascend310, Ascend310P3, ...")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: atc's own: fp16 of CANN's, f32 of the "
                        "stand-in")
    parser.add_argument("--aipp", action="store_true", help="the om takes uint8 images, normalized on the chip")
    args = parser.parse_args()

    target, atc = Path(f"{args.stem}.om"), shutil.which("atc")
    if not atc:
        raise Failure("atc: not found; first run: source env.sh", 4)
    if not args.onnx.exists():
        raise Failure(f"{args.onnx}: no such file; export it with xception_pth2onnx.py")
    command = atc_command(args.onnx, args.stem, args.batch_size, args.soc_version, args.precision, args.aipp)
    if not cli.quiet:
        say("$ " + " ".join(map(shlex.quote, command)))
    network = check_network(args.onnx)
    if args.precision == "int8" and not is_quantized(network):
        raise Failure(f"{args.onnx}: not quantized; pass the deploy model that tools/quantize.py makes of it")
    precision = "int8" if is_quantized(network) else args.precision or DEFAULT
    made = {"command": command, "atc": os.path.realpath(atc), "precision": precision,
            "onnx_sha256": hash_of(args.onnx), "batch_size": args.batch_size, "aipp": args.aipp,
            "dtype": "uint8" if args.aipp else "float32", "layout": "HWC" if args.aipp else "CHW",
            "classes": classes_of(network)}
    if is_current(target, made):
        print(f"{printable(str(target))}: up to date")
        return 0
    for path in (target, Path(f"{target}.json")):
        if path.exists():
            path.unlink()
    status = call(command)
    if status:
        return status
    if not target.exists():
        raise Failure(f"{target}: atc reported success but did not write it", 4)
    try:
        print(printable(om.describe(target)))
    except Failure as error:
        raise Failure(f"{error}; atc reported success", 4) from error
    write(f"{target}.json", json.dumps({**made, "om_sha256": hash_of(target)}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Run a network in float32 and fp16 on the tensors of an int8 run, so that the three can be compared.

Usage:    python3 tools/side_by_side.py ONNX --batch_size N --labels val_label.txt [--soc_version Ascend310]
                  [--device_ids 0] [--engine ...] [--dumps txt|bin] [--allow-missing]
Example:  python3 tools/side_by_side.py xception.onnx --batch_size 1 --labels val_label.txt
          $ python3 tools/compile_om.py xception.onnx xception_bs1_f32 ... --precision=f32
          ...

For run_all.sh --precision int8, in its work directory, after the tensors and the info file were made. It prints each
command, and leaves of each xception_bsN_f32.om, result/dumpOutput_bsN_f32, result_f32.json, details_f32.csv and
accuracy_f32.txt. Run it again to resume. A precision that atc refuses is left out and named: a chip may lack f32.
summary.py shows the comparison.
"""
import contextlib
from pathlib import Path
from types import SimpleNamespace

from _root import ROOT

import summary
from common.cli import Failure, parser_of, positive, printable, run, say
from common.runs import paired_rows, read_details
from common.stats import wilson
from common.steps import step
from host import om

import numpy as np

PRECISIONS = ("f32", "fp16")
ATC_REFUSED = 255  # atc's exit status


def score(args, precision: str):
    """Compile, run and score the network in one precision."""
    stem, dumps, details = names_of(args.batch_size, precision)
    for path in (details, Path(f"result_{precision}.json")):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    step(f"3 Conversion: ONNX to om, {precision}", "python3", ROOT / "tools/compile_om.py", args.onnx, stem,
         f"--batch_size={args.batch_size}", f"--soc_version={args.soc_version}", f"--precision={precision}")
    step(f"5 Offline inference, {precision}", "python3", ROOT / "tools/infer.py", f"./{stem}.om", dumps,
         "--info=./xception.info", f"--batch_size={args.batch_size}", f"--device_ids={args.device_ids}",
         *[f"--{name}={getattr(args, name)}" for name in ("engine", "dumps") if getattr(args, name)])
    step(f"6 Accuracy, {precision}", "python3", ROOT / "imagenet_acc_eval.py", dumps, args.labels, ".",
         f"result_{precision}.json", f"--details={details}", *["--allow-missing"] * args.allow_missing,
         out=f"accuracy_{precision}.txt")


def names_of(batch_size, precision: str) -> tuple:
    """Return (the om's stem, folder of dumps, file of details) of a precision, in the work directory."""
    return (f"xception_bs{batch_size}_{precision}", Path(f"result/dumpOutput_bs{batch_size}_{precision}"),
            Path(f"details_{precision}.csv"))


def rows(batch: str, onnx: str, quantization: dict) -> list:
    """Return a dict for f32, fp16 (where they ran) and int8, of one batch size of an int8 run; f32 or else fp16 first.

    precision, computed (as the om's record has it), images, top1 and top5: [percent, low, high], rate (images/s or
    None); for all but the first also against (the first), changed (images with another top-1), difference (of top-1, in
    points), low, high, p.
    """
    runs_, found = {}, []
    for precision in (*PRECISIONS, "int8"):
        stem, dumps, details = names_of(batch, precision)
        if precision == "int8":
            stem, dumps, details = f"xception_bs{batch}", Path(f"result/dumpOutput_bs{batch}"), \
                Path(f"details_bs{batch}.csv")
        elif not details.exists():
            continue
        images, _, ranks, _, top, _ = read_details(details)
        one = runs_[precision] = SimpleNamespace(images=images, ranks=ranks, top=top)
        first = next(iter(runs_.values()))
        if images != first.images:
            raise Failure(f"{details}: has other images than the run in {next(iter(runs_))}; rerun run_all.sh")
        source = quantization["sha256"] if precision == "int8" else onnx
        row = {"precision": precision, "images": len(images),
               "computed": summary.describe_om(Path(f"{stem}.om"), source)["precision"],
               "rate": summary.interface(summary.read_record(dumps.with_name(f"{dumps.name}.json")))}
        for name, k in (("top1", 1), ("top5", 5)):
            count = int(np.count_nonzero(ranks <= k))
            row[name] = [100 * count / len(images), *wilson(count, len(images))]
        if one is not first:
            paired = paired_rows(first, one)[0]
            row.update({key: paired[key] for key in ("difference", "low", "high", "p")}, against=next(iter(runs_)),
                       changed=int(np.count_nonzero(top[:, 0] != first.top[:, 0])))
        found.append(row)
    return found


def print_table(record: dict):
    """Print run.json's `precisions` side by side."""
    found, batch = record["precisions"], next(iter(record["om"]))
    print(f"\n== Precision, batch {batch}\nint8: quantized {summary.quantized_by(record['quantization'])}")
    print(f"{'':<16}{'top-1, %':>25}{'top-5, %':>25}{'images/s':>10}{'changed':>9}  top-1 against "
          f"{found[0]['precision']}, points (McNemar)")
    for row in found:
        tops = "".join(f"{f'{percent:.2f} ({low:.2f} to {high:.2f})':>25}"
                       for percent, low, high in (row["top1"], row["top5"]))
        rate = "-" if row["rate"] is None else f"{row['rate']:g}"
        against = f"{row['changed']:>9}  {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), p = " \
                  f"{row['p']:.2g}" if "against" in row else ""
        print(printable(f"{row['computed'].partition(' (')[0]:<16}{tops}{rate:>10}{against}"))
    if record["om"][batch]["precision"] == om.SIMULATED:
        print(f"{om.SIMULATED}: in float32, as this CPU lacks what int8 takes; the accuracy is int8's, the rate is not")


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("onnx", metavar="ONNX", help="the network before it was quantized")
    parser.add_argument("--batch_size", metavar="N", type=positive, required=True)
    parser.add_argument("--labels", metavar="val_label.txt", required=True)
    parser.add_argument("--soc_version", default="Ascend310", metavar="CHIP", help="default: %(default)s")
    parser.add_argument("--device_ids", default="0", metavar="0,1,...", help="default: %(default)s")
    parser.add_argument("--engine", help="inference tool, as infer.py takes it")
    parser.add_argument("--dumps", help="txt or bin, as infer.py takes it")
    parser.add_argument("--allow-missing", action="store_true", help="labels may lack their dump")
    args = parser.parse_args()
    for precision in PRECISIONS:
        try:
            score(args, precision)
        except Failure as error:
            if error.status != ATC_REFUSED:
                raise
            say(f"{precision}: left out, as atc does not compile it (see above)")
    return 0


if __name__ == "__main__":
    run(main)

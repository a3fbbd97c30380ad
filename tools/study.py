#!/usr/bin/env python3
"""Separate the effects of preprocessing recipe and precision on the accuracy, on the CPU.

Usage:    python3 tools/study.py run --onnx FILE --images DIR --labels FILE [--batch_size 1] [--precisions f32,fp16]
                  [--aipp] [--on-error fail|skip] [--limit N | --sample N [--seed S]]
          python3 tools/study.py report STUDY_DIR [--onnx FILE]
Example:  python3 tools/study.py report work/study --onnx work/xception.onnx
          top-1, % (points from 333 bilinear in f32)
          short side                   f32              fp16              bf16
          333 bilinear    88.889            88.889 (+0.000)   88.889 (+0.000)
          333 bicubic     84.444 (-4.444)   84.444 (-4.444)   82.222 (-6.667)
          ...
          342 bilinear instead of 333 bilinear, in f32: +4.444 points (-3.996 to +12.506), p = 0.5 (McNemar)
          ...

run: for run_all.sh --study, in its work directory, with the stand-ins of host/ on PATH. Runs short side 333 and 342,
bilinear and bicubic, each in float32 and fp16, with --precisions also in bf16. It prints each command, and the report
at the end. Run it again to resume.

report: STUDY_DIR has a folder RESIZE_INTERPOLATION for each recipe, with details_f32.csv etc. of imagenet_acc_eval.py,
and infer.py's records result/dump_f32.json etc., which name the precision of the CPU. All runs have the same images, so
differences are counted image by image, and their intervals are narrow.

STUDY_DIR/study.csv: a header, then a line per recipe and precision: resize, interpolation, precision, images, top1 to
top5 (percent), difference (of top-1, in points), low, high (its 95 % interval), p (McNemar).
--onnx: the network that was run. The report explains the published drop only if its metadata_props name the published
weights.
"""
import csv
import io
import os
from pathlib import Path
from types import SimpleNamespace

from _root import ROOT

from common import model
from common.cli import Failure, parser_of, positive, run
from common.files import read, read_json, write
from common.onnx_file import ONNX_LIMIT
from common.runs import paired_rows, read_details
from common.steps import step
from compile_om import PRECISIONS

import numpy as np

RECIPES = [(resize, interpolation) for resize in (model.SHORT_SIDE, model.PORT_SHORT_SIDE)
           for interpolation in ("bilinear", "bicubic")]
REQUIRED = ["f32", "fp16"]  # bf16 is a preview of the stand-ins, and says nothing about a chip
BASE = (model.SHORT_SIDE, "bilinear", "f32")
PUBLISHED_DROP = round(model.PUBLISHED_TOP1 - model.PORT_TOP1, 3)  # points


def load(folder: Path, precision: str) -> SimpleNamespace:
    """Return a run: images, labels, ranks, top; real is False if the CPU computed in another precision."""
    path = folder / f"details_{precision}.csv"
    images, labels, ranks, _, top, _ = read_details(path)
    try:
        device = str(read_json(folder / f"result/dump_{precision}.json")["device"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{folder}/result/dump_{precision}.json: missing or damaged; rerun run_all.sh --study"
                      ) from error
    return SimpleNamespace(images=images, labels=labels, ranks=ranks, top=top, path=path,
                           real=f", {PRECISIONS[precision][1]}, " in device)


def check_same(runs: dict):
    """Raise Failure unless all runs are of the same images and labels."""
    first = next(iter(runs.values()))
    for other in runs.values():
        if other.images != first.images or (other.labels != first.labels).any():
            raise Failure(f"{other.path}: has other images or labels than {first.path}; rerun run_all.sh --study")


def difference(a: SimpleNamespace, b: SimpleNamespace) -> dict:
    """Return paired_rows' row for top-1: b's accuracy minus a's."""
    return paired_rows(a, b)[0]


def described(row: dict) -> str:
    """Return a difference with its interval and p."""
    return (f"{row['difference']:+.3f} points ({row['low']:+.3f} to {row['high']:+.3f}), p = {row['p']:.2g} (McNemar)")


def precisions_of(runs: dict) -> list:
    """Return the precisions of `runs`, in order."""
    return [precision for precision in PRECISIONS if (*RECIPES[0], precision) in runs]


def print_table(runs: dict):
    """Print top-1 of each recipe and precision."""
    base, precisions = runs[BASE], precisions_of(runs)
    print(f"top-1, % (points from {BASE[0]} {BASE[1]} in {BASE[2]})")
    print(f"{'short side':<14}" + "".join(f"{precision:>18}" for precision in precisions))
    for recipe in RECIPES:
        cells = []
        for precision in precisions:
            one = runs[(*recipe, precision)]
            percent = 100 * float(np.mean(one.ranks == 1))
            points = "" if one is base else f" ({difference(base, one)['difference']:+.3f})"
            cells.append(f"{percent:>8.3f}{points:<10}")
        print(f"{recipe[0]} {recipe[1]:<10}" + "".join(cells).rstrip())


def weights_of(onnx) -> str:
    """Return 'published', 'demo' or 'other', from the ONNX file's metadata_props."""
    data = read(onnx, ONNX_LIMIT) if onnx else b""
    return "demo" if b"demo weights" in data else "published" if model.PUBLISHED_MD5.encode() in data else "other"


def explain(runs: dict, weights: str):
    """Print the effects of recipe and precision, alone and together, and their share of the published drop."""
    base, ours, ports = runs[BASE], model.SHORT_SIDE, model.PORT_SHORT_SIDE
    total = len(base.images)
    recipe, fp16, both, bicubic = (difference(base, runs[key]) for key in (
        (ports, "bilinear", "f32"), (ours, "bilinear", "fp16"), (ports, "bilinear", "fp16"), (ours, "bicubic", "f32")))
    print(f"{ports} bilinear instead of {ours} bilinear, in f32: {described(recipe)}")
    print(f"{ours} bicubic instead of {ours} bilinear, in f32: {described(bicubic)}")
    print(f"fp16 instead of f32, {ours} bilinear: {described(fp16)}")
    if "bf16" in precisions_of(runs):
        print(f"bf16 instead of f32, {ours} bilinear: {described(difference(base, runs[ours, 'bilinear', 'bf16']))}")
    print(f"{ports} bilinear and fp16, as the ModelZoo port: {described(both)}")
    for precision in precisions_of(runs):
        if not runs[ours, "bilinear", precision].real:
            print(f"this CPU cannot compute in {precision}; that column was computed in f32")
    if weights == "other":
        print(f"The published drop of {PUBLISHED_DROP} points is not explained: that takes the published weights (md5 "
              f"{model.PUBLISHED_MD5}) and ImageNet; these weights are others, or --onnx is missing")
        return
    if weights == "demo":
        print(f"The published drop of {PUBLISHED_DROP} points is not explained: that takes the published weights and "
              f"ImageNet, not {total} photos and demo weights")
        return
    half = (both["high"] - both["low"]) / 2
    print(f"Of the {PUBLISHED_DROP} points from {model.PUBLISHED_TOP1} to {model.PORT_TOP1}, recipe and fp16 together "
          f"explain {-both['difference']:.3f} here ({-both['high']:.3f} to {-both['low']:.3f}), the recipe alone "
          f"{-recipe['difference']:.3f}, fp16 alone {-fp16['difference']:.3f}; the rest is due to the chip or CANN, or "
          "was not reproduced")
    if half > PUBLISHED_DROP / 2:
        print(f"inconclusive: {total} images are too few for a drop of this size")


def table_text(runs: dict) -> str:
    """Return the content of study.csv."""
    base, text = runs[BASE], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["resize", "interpolation", "precision", "images", "top1", "top2", "top3", "top4", "top5",
                     "difference", "low", "high", "p"])
    for (resize, interpolation, precision), one in runs.items():
        row = difference(base, one)
        tops = [f"{100 * float(np.mean(one.ranks <= k)):.3f}" for k in range(1, 6)]
        writer.writerow([resize, interpolation, precision if one.real else f"{precision} (computed in f32)",
                         len(one.images), *tops, f"{row['difference']:.3f}", f"{row['low']:.3f}", f"{row['high']:.3f}",
                         f"{row['p']:.3g}"])
    return text.getvalue()


def run_recipe(args, resize: int, interpolation: str, stems: dict):
    """Preprocess the images by one recipe, and run and score each om of `stems`, {precision: stem}, in its folder."""
    subset = [f"--{name}={getattr(args, name)}" for name in ("limit", "sample", "seed") if getattr(args, name)]
    step("4 Data set: images to tensors", "python3", ROOT / "img_preprocess.py", args.images, "./prep_dataset",
         f"--resize={resize}", f"--interpolation={interpolation}", *["--aipp"] * args.aipp,
         f"--on-error={args.on_error}", *subset)
    step("4 Data set: info file", "python3", ROOT / "gen_dataset_info.py", "bin", "./prep_dataset", "./xception.info",
         model.SIDE, model.SIDE)
    for precision, stem in stems.items():
        step(f"5 Offline inference, {precision}", "python3", ROOT / "tools/infer.py", f"{stem}.om",
             f"result/dump_{precision}", "--info=./xception.info", f"--batch_size={args.batch_size}", "--engine=host")
        step(f"6 Accuracy, {resize} {interpolation}, {precision}", "python3", ROOT / "imagenet_acc_eval.py",
             f"result/dump_{precision}", args.labels, ".", f"result_{precision}.json",
             f"--details=details_{precision}.csv", *["--allow-missing"] * (args.on_error == "skip"))


def run_study(args):
    """Compile an om for each precision, and run every recipe in a separate folder of ./study."""
    stems = {precision: f"xception_bs{args.batch_size}_{precision}" for precision in args.precisions}
    for precision, stem in stems.items():
        step(f"3 Conversion: ONNX to om, batch {args.batch_size}, {precision}", "python3", ROOT / "tools/compile_om.py",
             args.onnx, stem, f"--batch_size={args.batch_size}", "--soc_version=Ascend310", f"--precision={precision}",
             *["--aipp"] * args.aipp)
    top = Path.cwd()
    for resize, interpolation in RECIPES:
        place = top / f"study/{resize}_{interpolation}"
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        run_recipe(args, resize, interpolation, {precision: f"../../{stem}" for precision, stem in stems.items()})
    os.chdir(top)


def report(study: Path, onnx):
    """Print the report on STUDY_DIR and write its study.csv."""
    present = [precision for precision in PRECISIONS
               if precision in REQUIRED or (study / f"{BASE[0]}_{BASE[1]}/details_{precision}.csv").exists()]
    runs = {(*recipe, precision): load(study / f"{recipe[0]}_{recipe[1]}", precision)
            for recipe in RECIPES for precision in present}
    check_same(runs)
    weights = weights_of(onnx)
    write(study / "study.csv", table_text(runs))
    print_table(runs)
    explain(runs, weights)
    print(f"also in {(study / 'study.csv').resolve()}")


def precision_list(text: str) -> list:
    """For argparse: 'f32,fp16' -> ['f32', 'fp16']; raises ValueError on anything else, or without f32 and fp16."""
    found = text.split(",")
    if len(set(found)) < len(found) or not set(REQUIRED) <= set(found) <= {*REQUIRED, "bf16"}:
        raise ValueError
    return found


def main() -> int:
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", metavar="run|report", required=True)
    runs = commands.add_parser("run", help="run every recipe in every precision, then report")
    runs.add_argument("--onnx", metavar="FILE", type=Path, required=True, help="the network")
    runs.add_argument("--images", metavar="DIR", required=True)
    runs.add_argument("--labels", metavar="FILE", required=True, help="of these images, as labels.py writes them")
    runs.add_argument("--batch_size", metavar="N", type=positive, default=1, help="default: 1")
    runs.add_argument("--precisions", type=precision_list, default=REQUIRED, metavar="LIST",
                      help="f32,fp16 (default) or f32,fp16,bf16")
    runs.add_argument("--aipp", action="store_true", help="uint8 tensors")
    runs.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="for unreadable images")
    runs.add_argument("--limit", metavar="N", type=positive, help="the first N images only")
    runs.add_argument("--sample", metavar="N", type=positive, help="N images drawn at random")
    runs.add_argument("--seed", metavar="S", type=int, help="another draw of --sample")
    reports = commands.add_parser("report", help="report on a finished study")
    reports.add_argument("study", metavar="STUDY_DIR", type=Path)
    reports.add_argument("--onnx", metavar="FILE", type=Path, help="the network that was run")
    args = parser.parse_args()
    if args.command == "run":
        args.onnx = Path(os.path.abspath(args.onnx))
        run_study(args)
        args.study = Path("study")
    report(args.study, args.onnx)
    return 0


if __name__ == "__main__":
    run(main)

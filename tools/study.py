#!/usr/bin/env python3
"""Say which part of a drop in accuracy the recipe explains and which the precision, of what run_all.sh --study ran.

Usage:    python3 tools/study.py STUDY_DIR [--onnx FILE]
Example:  python3 tools/study.py work/study --onnx work/xception.onnx
          top-1, % (points from 333 bilinear in f32)
          short side                   f32              fp16              bf16
          333 bilinear    88.889            88.889 (+0.000)   88.889 (+0.000)
          333 bicubic     84.444 (-4.444)   84.444 (-4.444)   82.222 (-6.667)
          ...
          342 bilinear instead of 333 bilinear, in f32: +4.444 points (-3.996 to +12.506), p = 0.5 (McNemar)
          ...

STUDY_DIR has a folder RESIZE_INTERPOLATION for each recipe, with details_f32.csv, details_fp16.csv and
details_bf16.csv of imagenet_acc_eval.py, and infer.py's records result/dump_f32.json and so on, which tell what the CPU
computed in. All are of the same images; so differences are counted image by image, and their intervals are narrow.

STUDY_DIR/study.csv: a header line, then a line for each recipe and precision: resize, interpolation, precision,
images, top1 to top5 (percent), difference (of top-1, in points), low, high (its 95 % interval), p (McNemar).
--onnx: what was run. Only if it was made of the published weights (its metadata_props tell) is anything said of the
published drop: it is theirs.
"""
import csv
import io
from pathlib import Path
from types import SimpleNamespace

import _root

from common.cli import Failure, parser_of, run
from common.files import read, read_json, write
from report import paired_rows, read_details
from xception_pth2onnx import ONNX_LIMIT, PUBLISHED_MD5

import numpy as np

RECIPES = [(resize, interpolation) for resize in (333, 342) for interpolation in ("bilinear", "bicubic")]
PRECISIONS = {"f32": "f32", "fp16": "fp16, emulated", "bf16": "bf16"}  # as the host engine names them
PUBLISHED_DROP = 0.542  # points of top-1, 78.892 to 78.35 (README 6.2)


def load(folder: Path, precision: str) -> SimpleNamespace:
    """One run: images, labels, ranks, top, and whether the CPU really computed in that precision."""
    path = folder / f"details_{precision}.csv"
    images, labels, ranks, _, top, _ = read_details(path)
    try:
        device = str(read_json(folder / f"result/dump_{precision}.json")["device"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{folder}/result/dump_{precision}.json: missing or damaged: run run_all.sh --study again"
                      ) from error
    return SimpleNamespace(images=images, labels=labels, ranks=ranks, top=top, path=path,
                           real=f", {PRECISIONS[precision]}, " in device)


def check_same(runs: dict):
    """Raise Failure unless all runs are of the same images and labels."""
    first = next(iter(runs.values()))
    for other in runs.values():
        if other.images != first.images or (other.labels != first.labels).any():
            raise Failure(f"{other.path}: of other images or labels than {first.path}: run run_all.sh --study again")


def difference(a: SimpleNamespace, b: SimpleNamespace) -> dict:
    """paired_rows' first: top-1 of b less that of a."""
    return paired_rows(a, b)[0]


def told(row: dict) -> str:
    return (f"{row['difference']:+.3f} points ({row['low']:+.3f} to {row['high']:+.3f}), p = {row['p']:.2g} (McNemar)")


def print_table(runs: dict):
    """Top-1 of each recipe and precision."""
    base = runs[333, "bilinear", "f32"]
    print("top-1, % (points from 333 bilinear in f32)")
    print(f"{'short side':<14}" + "".join(f"{precision:>18}" for precision in PRECISIONS))
    for recipe in RECIPES:
        cells = []
        for precision in PRECISIONS:
            one = runs[(*recipe, precision)]
            percent = 100 * float(np.mean(one.ranks == 1))
            points = "" if one is base else f" ({difference(base, one)['difference']:+.3f})"
            cells.append(f"{percent:>8.3f}{points:<10}")
        print(f"{recipe[0]} {recipe[1]:<10}" + "".join(cells).rstrip())


def weights_of(onnx) -> str:
    """'published', 'demo' or 'other', as the ONNX file's metadata_props tell."""
    data = read(onnx, ONNX_LIMIT) if onnx else b""
    return "demo" if b"demo weights" in data else "published" if PUBLISHED_MD5.encode() in data else "other"


def explain(runs: dict, weights: str):
    """What recipe and precision do alone and together, and what of the published drop that explains."""
    base = runs[333, "bilinear", "f32"]
    total = len(base.images)
    recipe, fp16, both, bf16, bicubic = (difference(base, runs[key]) for key in (
        (342, "bilinear", "f32"), (333, "bilinear", "fp16"), (342, "bilinear", "fp16"), (333, "bilinear", "bf16"),
        (333, "bicubic", "f32")))
    print(f"342 bilinear instead of 333 bilinear, in f32: {told(recipe)}")
    print(f"333 bicubic instead of 333 bilinear, in f32: {told(bicubic)}")
    print(f"fp16 instead of f32, 333 bilinear: {told(fp16)}")
    print(f"bf16 instead of f32, 333 bilinear: {told(bf16)}")
    print(f"342 bilinear and fp16, as the ModelZoo port: {told(both)}")
    for precision in PRECISIONS:
        if not runs[333, "bilinear", precision].real:
            print(f"this CPU does not compute in {precision}: that column is f32's")
    if weights == "other":
        print(f"Nothing is said of the published drop of {PUBLISHED_DROP} points: it is of the published weights (md5 "
              f"{PUBLISHED_MD5}) on ImageNet, and these are others, or not told with --onnx")
        return
    if weights == "demo":
        print(f"{total} photos and demo weights cannot tell where the published drop of {PUBLISHED_DROP} points comes "
              "from: that takes the published weights and ImageNet")
        return
    half = (both["high"] - both["low"]) / 2
    print(f"Of the {PUBLISHED_DROP} points from 78.892 to 78.35, recipe and fp16 together explain "
          f"{-both['difference']:.3f} here ({-both['high']:.3f} to {-both['low']:.3f}), the recipe alone "
          f"{-recipe['difference']:.3f}, fp16 alone {-fp16['difference']:.3f}; what is left is the chip's or CANN's, "
          "or was not reproduced")
    if half > PUBLISHED_DROP / 2:
        print(f"{total} images are too few to be sure of it")


def table_text(runs: dict) -> str:
    """study.csv."""
    base, text = runs[333, "bilinear", "f32"], io.StringIO()
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


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("study", metavar="STUDY_DIR", type=Path)
    parser.add_argument("--onnx", metavar="FILE", type=Path, help="the network that was run")
    args = parser.parse_args()

    runs = {(*recipe, precision): load(args.study / f"{recipe[0]}_{recipe[1]}", precision)
            for recipe in RECIPES for precision in PRECISIONS}
    check_same(runs)
    weights = weights_of(args.onnx)
    write(args.study / "study.csv", table_text(runs))
    print_table(runs)
    explain(runs, weights)
    print(f"also in {(args.study / 'study.csv').resolve()}")
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Compare two finished runs on the same images: accuracy, changed answers, output values and rates.

Usage:    python3 tools/compare.py WORKDIR_A WORKDIR_B [--out compare.html] [--classes NAMES.txt]
Example:  python3 tools/compare.py work_host work_npu
          top-1   88.89 % and  86.67 %: -2.222 points (-9.001 to +4.746), correct in one only: 1 and 0, p = 1 (McNemar)
          ...
          /home/me/compare.html: 214,530 bytes

WORKDIR_A and WORKDIR_B: of finished runs of run_all.sh, compared at the first batch size of both. It reads run.json,
details_bsN.csv and the dumps of both. NAMES.txt: as for report.py.
"""
import itertools
from pathlib import Path
from types import SimpleNamespace

import _root

import charts
import summary
from common import runs
from common.cli import Failure, parser_of, run, say
from common.files import as_written
from common.formats import find_dumps

import numpy as np


def select(run_: SimpleNamespace, images: list) -> SimpleNamespace:
    """Reduce a run to these images, in this order; its counts stay."""
    place = {image: i for i, image in enumerate(run_.images)}
    order = [place[image] for image in images]
    run_.images = images
    for name in ("labels", "ranks", "own", "top", "chances"):
        setattr(run_, name, getattr(run_, name)[order])
    return run_


def changed_cards(a: SimpleNamespace, b: SimpleNamespace, names: list) -> list:
    """Return the cards of the images whose top-1 changed, in order of A's margin."""
    margin = a.chances[:, 0] - (a.chances[:, 1] if a.chances.shape[1] > 1 else 0)
    order = sorted(np.flatnonzero(a.top[:, 0] != b.top[:, 0]).tolist(), key=lambda i: (-margin[i], a.images[i]))
    return [{"image": a.images[i], "label": (int(a.labels[i]), names[a.labels[i]]), "margin": float(margin[i]),
             "ranks": (int(a.ranks[i]), int(b.ranks[i])),
             "picture": charts.picture(runs.bins_of(a), a.record["recipe"], a.images[i]),
             "a": charts.answer(names, a.top[i], a.chances[i]), "b": charts.answer(names, b.top[i], b.chances[i])}
            for i in order[:charts.PHOTOS]]


def load_pair(folders: list) -> tuple:
    """Return (run A, run B, number of images that only one has, left out); raises Failure if nothing is comparable."""
    a, b = (runs.load_run(folder) for folder in folders)
    common = [batch for batch in a.record["accuracy"] if batch in b.record["accuracy"]]
    if common and a.batch != b.batch:
        a, b = (runs.load_run(folder, common[0]) for folder in folders)
    elif a.batch != b.batch:
        say(f"no common batch size: {folders[0]} at {a.batch}, {folders[1]} at {b.batch}")
    if a.classes != b.classes:
        raise Failure(f"{folders[1]}: {b.classes} classes, but {folders[0]} has {a.classes}, so not comparable")
    theirs = set(b.images)
    images = [image for image in a.images if image in theirs]
    if not images:
        raise Failure(f"{folders[1]}: no image in common with {folders[0]}, so not comparable")
    left_out = len(a.images) + len(b.images) - 2 * len(images)
    select(a, images)
    select(b, images)
    if (a.labels != b.labels).any():
        image = images[int(np.argmax(a.labels != b.labels))]
        raise Failure(f"{folders[1]}: {image} has another label than in {folders[0]}, so not comparable")
    return a, b, left_out


def facts_of(a: SimpleNamespace, b: SimpleNamespace) -> list:
    """Return [{what, a, b}]: what ran in each of the two, versions included."""
    facts = [{"what": what, "a": one, "b": other} for (what, one), other in
             zip(summary.what_ran(a).items(), summary.what_ran(b).values())]
    names = sorted({*a.record["versions"], *b.record["versions"]})
    return facts + [{"what": name, "a": a.record["versions"].get(name, "-"), "b": b.record["versions"].get(name, "-")}
                    for name in names]


def describe_values(table) -> dict:
    """Return histograms and quantiles of compare_dumps' table, empty without one."""
    if table is None:
        return {"plots": [], "quantiles": []}
    columns = {"largest difference": table[:, 0], "mean difference": table[:, 1],
               "1 - cosine": np.maximum(0.0, 1 - table[:, 2])}
    return {"plots": [charts.draw_histogram(values, f"{name} of an image's values", True)
                      for name, values in columns.items()],
            "quantiles": [{"name": name, "values": [float(np.quantile(values, share)) for share in (0, 0.5, 0.99, 1)]}
                          for name, values in columns.items()]}


def differences(a: SimpleNamespace, b: SimpleNamespace, images: list):
    """Return runs.compare_dumps' table for the images; if a run's dumps are gone, print that and return None."""
    found = []
    for run_ in (a, b):
        folders = [run_.folder / f"result/{name}_bs{run_.batch}" for name in ("dumpOutput", "dumpShares")]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            print(f"{run_.folder}: its dumps are gone, so the values are not compared")
            return None
        found.append(find_dumps(folders[0]))
        missing = [image for image in images if image not in found[-1]]
        if missing:
            raise Failure(f"{folders[0]}: no dump of {missing[0]}, which was scored; rerun run_all.sh")
    pairs = [(found[0][image], found[1][image]) for image in images]
    return runs.compare_all(pairs)[0]


def make_comparison(args) -> int:
    """Write compare.html of two work directories."""
    a, b, left_out = load_pair(args.runs)
    with as_written(args.runs[0] / "run.json, or the other's"):
        names = runs.class_names(args.classes, args.runs[0], a.classes)
        facts = facts_of(a, b)
        rates = [{"batch": one["batch_size"], "a": one, "b": other} for one, other in
                 itertools.product(summary.rates_of(a), summary.rates_of(b))
                 if one["batch_size"] == other["batch_size"]]
        cards = changed_cards(a, b, names)
    table, rows = differences(a, b, a.images), runs.paired_rows(a, b)
    changed, out = int(np.count_nonzero(a.top[:, 0] != b.top[:, 0])), args.out or Path("compare.html")
    with as_written(args.runs[0] / "run.json, or the other's"):
        size = charts.write_page("compare.html", out, a=a, b=b, folders=args.runs, facts=facts, rows=rows, rates=rates,
                          changed=changed, total=len(a.images), left_out=left_out, cards=cards,
                          **describe_values(table))
    for row in rows:
        print(f"top-{row['k']}  {row['a']:6.2f} % and {row['b']:6.2f} %: {row['difference']:+.3f} points "
              f"({row['low']:+.3f} to {row['high']:+.3f}), correct in one only: {row['only_a']} and {row['only_b']}, "
              f"p = {row['p']:.2g} (McNemar)")
    print(f"top-1 changed on {changed} of {len(a.images)} images"
          + (f"; {left_out} more are in one run only" if left_out else ""))
    if table is not None:
        print(f"values: largest difference {table[:, 0].max():.3g}, mean {table[:, 1].mean():.3g}, "
              f"lowest cosine {table[:, 2].min():.8f}")
    print(f"{out.resolve()}: {size:,} bytes")
    return 0


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("runs", metavar="WORKDIR", type=Path, nargs=2, help="of finished runs of run_all.sh")
    parser.add_argument("--classes", metavar="NAMES.txt", type=Path, help="a class name per line")
    parser.add_argument("--out", metavar="PAGE.html", type=Path, help="default: compare.html")
    args = parser.parse_args()
    with charts.fonts_elsewhere():
        return make_comparison(args)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Write report.html, which shows a finished run: one page that opens in any browser, without a network.

Usage:    python3 tools/report.py WORKDIR [--out report.html] [--classes NAMES.txt]
Example:  python3 tools/report.py work
          /home/me/work/report.html: 45 images, 514,230 bytes

WORKDIR is one of run_all.sh. Its run.json, details_bsN.csv, accuracy_bsN.txt and, for the pictures, tensors are read;
no image is run again and nothing is scored again. The pictures are what the network saw: the cropped tensors.

NAMES.txt: a class name per line, from class 0. By default they come from WORKDIR/classes.txt (labels.py writes it for
class folders) or, with 1000 or 1001 classes, from torchvision's list of ImageNet's.
"""
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import _root

import charts
import summary
from common import model, runs
from common.cli import Failure, parser_of, run
from common.files import as_written, lines
from common.stats import wilson
from imagenet_acc_eval import MAX_DROP

import numpy as np

# Percent: PyTorch by the weights' author, Ascend 310 and 310P3 by the ModelZoo port (README section 6)
PUBLISHED = {"PyTorch, published": (model.PUBLISHED_TOP1, model.PUBLISHED_TOP5),
             "Ascend 310, published": (model.PORT_TOP1, 94.31), "Ascend 310P3, published": (78.8, 94.33)}


def worst_classes(run_: SimpleNamespace, names: list) -> list:
    """Return [{id, name, right, total}] of the classes with an error, lowest accuracy first."""
    totals = np.bincount(run_.labels, minlength=run_.classes)
    hits = np.bincount(run_.labels[run_.ranks == 1], minlength=run_.classes)
    wrong = np.flatnonzero(totals > hits)
    order = sorted(wrong.tolist(), key=lambda k: (hits[k] / totals[k], -totals[k], k))
    return [{"id": k, "name": names[k], "right": int(hits[k]), "total": int(totals[k])} for k in order[:charts.LONGEST]]


def confused_pairs(run_: SimpleNamespace, names: list) -> list:
    """Return [{label, answer, count, of}], most frequent first: `label` taken for `answer`, (id, name) pairs."""
    wrong = run_.ranks > 1
    pairs = Counter(zip(run_.labels[wrong].tolist(), run_.top[wrong, 0].tolist()))
    totals = Counter(run_.labels.tolist())
    order = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"label": (a, names[a]), "answer": (b, names[b]), "count": count, "of": totals[a]}
            for (a, b), count in order[:charts.LONGEST]]


def photos(run_: SimpleNamespace, names: list) -> list:
    """Return the cards of the grid: errors by falling confidence, then correct answers by rising confidence."""
    wrong = run_.ranks > 1
    order = np.lexsort((np.where(wrong, -1, 1) * run_.chances[:, 0], ~wrong))[:charts.PHOTOS]
    return [{"image": run_.images[i], "label": (int(run_.labels[i]), names[run_.labels[i]]), "rank": int(run_.ranks[i]),
             "own": float(run_.own[i]), "top": charts.answer(names, run_.top[i], run_.chances[i]),
             "picture": charts.picture(runs.bins_of(run_), run_.record["recipe"], run_.images[i])}
            for i in order.tolist()]


def accuracy_rows(run_: SimpleNamespace) -> list:
    """Return a dict for each of top-1 to top-5: k, percent, count, low, high, reference and drop (or None)."""
    rows = []
    for k, count in enumerate(run_.counts, 1):
        low, high = wilson(count, run_.total)
        reference = float(run_.reference[k]) if k in run_.reference else None
        percent = 100 * count / run_.total
        rows.append({"k": k, "percent": percent, "count": count, "low": low, "high": high, "reference": reference,
                     "drop": None if reference is None else reference - percent})
    return rows


def verdict_of(run_: SimpleNamespace) -> tuple:
    """Return (the verdict's lines of all batch sizes, True if all passed, False if not, None without a gate)."""
    printed, starts = [], set()
    for batch in run_.record["accuracy"]:
        path = run_.folder / f"accuracy_bs{int(batch)}.txt"
        said = [line for _, line in lines(path) if not line.startswith("top-")]
        if not said:
            raise Failure(f"{path}: contains no verdict; rerun run_all.sh")
        printed += [line if batch == run_.batch else f"batch {batch}: {line}" for line in said]
        starts.update(line.split(None, 1)[0] for line in said if line.strip())
    failed = {"FAILED:", "DISAGREES"} & starts
    return printed, False if failed else True if "PASSED:" in starts else None


def make_report(args) -> int:
    """Write report.html of WORKDIR."""
    folder = args.workdir
    run_ = runs.load_run(folder)
    out = args.out or folder / "report.html"
    names = runs.class_names(args.classes, folder, run_.classes)
    with as_written(folder / "run.json"):
        verdict, passed = verdict_of(run_)
        record, rates = run_.record, summary.rates_of(run_)
        imagenet = run_.classes in (model.NUM_CLASSES, model.BACKGROUND_CLASSES)
        values = {
            "run": run_, "record": record, "facts": summary.what_ran(run_), "verdict": verdict, "passed": passed,
            "rows": accuracy_rows(run_),
            "max_drop": float(MAX_DROP), "demo": bool(record.get("demo")), "imagenet": imagenet,
            "host": any(item["engine"] == "host" for items in record["inference"].values() for item in items),
            "rates": rates, "best": max((row["interface"] or 0 for row in rates), default=0),
            "accuracy_plot": charts.draw_accuracy(run_, PUBLISHED if imagenet else {}),
            "rate_plots": [charts.draw_rates(rates), charts.draw_stages(rates)],
            "confidence_plots": [charts.draw_calibration(run_), charts.draw_confidence(run_)],
            "calibration_error": charts.calibration(run_)[-1],
            "worst": worst_classes(run_, names), "confused": confused_pairs(run_, names), "cards": photos(run_, names),
        }
        size = charts.write_page("run.html", out, **values)
    print(f"{out.resolve()}: {run_.total} images, {size:,} bytes")
    return 0


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="of a finished run of run_all.sh")
    parser.add_argument("--classes", metavar="NAMES.txt", type=Path, help="a class name per line")
    parser.add_argument("--out", metavar="PAGE.html", type=Path, help="default: WORKDIR/report.html")
    args = parser.parse_args()
    with charts.fonts_elsewhere():
        return make_report(args)


if __name__ == "__main__":
    run(main)

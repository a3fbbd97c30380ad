#!/usr/bin/env python3
"""Show what a run found, as one page that opens in any browser, without a network.

Usage:    python3 tools/report.py WORKDIR [--out report.html] [--classes NAMES.txt]
          python3 tools/report.py --compare WORKDIR_A WORKDIR_B [--out compare.html] [--classes NAMES.txt]
          python3 tools/report.py --photo PHOTO --om OM [--batch_size 1] [--resize 333] [--aipp] [--out photo.html]
                  [--classes NAMES.txt]
Example:  python3 tools/report.py work
          /home/me/work/report.html: 45 images, 514,230 bytes
Example:  python3 tools/report.py --photo cat.jpg --om xception_bs1.om
          87.02 %  281 tabby
          ...
          /home/me/photo.html: cat.jpg, 27,531 bytes

WORKDIR is one of run_all.sh. Its run.json, details_bsN.csv, accuracy_bsN.txt and, for the pictures, bins are read;
no image is run again and no score is computed anew. The pictures are what the network saw: the cropped tensors.
--compare: two runs over the same images, first common batch size; also reads both runs' dumps.
--photo: preprocesses one photo, runs the om on it and prints the five likeliest classes.

NAMES.txt: a class name in each line, from class 0. Else they come from classes.txt in WORKDIR or beside the om
(labels.py writes it of class folders) or, with 1000 or 1001 classes, from torchvision's list of ImageNet's.

The pages are UTF-8 HTML with inline SVG and JPEG; no script, nothing that is fetched.
"""
import base64
import contextlib
import csv
import importlib.util
import io
import itertools
import math
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from _root import ROOT

import summary
from common.cli import Failure, parser_of, positive, printable, progress, run, say
from common.files import as_written, lines, read, read_json, size_of
from common.files import write as write_file
from common.formats import find_dumps, parse_dump
from common.jobs import start_worker, workers
from common.model import BACKGROUND_CLASSES, SHORT_SIDE
from common.stats import Z95, wilson
from imagenet_acc_eval import MAX_DROP, reference_of

import numpy as np
from PIL import Image

PHOTOS = 24  # in the grid
PHOTO_SIDE = 224  # pixels of a picture in the page
LONGEST = 12  # rows of the tables of classes and pairs
BINS = 15  # of the calibration curve (C. Guo et al., arXiv 1706.04599)
CHUNK = 512  # pairs of dumps that a process compares at a time
OM_START = 1 << 20  # bytes in which a host om tells of demo weights
IMAGENET_ENDS = ("n01440764", "n15075141")  # synsets of ILSVRC2012's classes 0 and 999, tench and toilet tissue
CLASSES_LIMIT = 1_000_000  # all of ImageNet has 21,841
DETAILS_LIMIT = 1 << 30  # bytes; 50,000 images have some 6 MB
# Percent, of an Ascend 310 and a 310P3 by the ModelZoo port, and of PyTorch by the weights' author (README 6.2)
PUBLISHED = {"PyTorch, published": (78.892, 94.292), "Ascend 310, published": (78.35, 94.31),
             "Ascend 310P3, published": (78.8, 94.33)}
# Colours that matplotlib shall write, and the page's own that replace them, which are others in the dark
COLOURS = {"#010101": "ink", "#020202": "faint", "#030303": "first", "#040404": "second", "#050505": "third",
           "#060606": "fourth"}
INK, FAINT, FIRST, SECOND, THIRD, FOURTH = COLOURS
STAGES = {"data read": FOURTH, "preprocess": THIRD, "infer": FIRST, "post": FAINT}  # as the benchmark names them


# --- reading what a run left ----------------------------------------------------------------------------------------

def load_run(folder: Path, batch: str = "") -> SimpleNamespace:
    """A finished run: folder, record (run.json), and for one batch size what was answered to each image.

    images [N] names; labels, ranks (N,) int; own (N,) probability of the true class; top, chances (N, up to 5) class
    ids and probabilities, likeliest first; counts [up to 5] of top-1, top-2, ...; total, classes, reference.
    """
    path = folder / "run.json"
    try:
        record = read_json(path)
    except FileNotFoundError as error:
        raise Failure(f"{path}: missing: not the work directory of a finished run of run_all.sh") from error
    except ValueError as error:
        raise Failure(f"{path}: damaged: run run_all.sh again") from error
    with as_written(path):
        batch = batch or next(iter(record["accuracy"]))
        told = record["accuracy"][batch]
        run_ = SimpleNamespace(
            folder=folder, record=record, batch=str(int(batch)), total=int(told["Number of images"]),
            classes=int(told["Number of classes"]))
        run_.reference = reference_of(record["reference"], run_.classes)
        if run_.total < 1 or not 2 <= run_.classes <= CLASSES_LIMIT:
            raise ValueError(f"{run_.total:,} images, {run_.classes:,} classes")
    path = folder / f"details_bs{run_.batch}.csv"
    run_.images, run_.labels, run_.ranks, run_.own, run_.top, run_.chances = read_details(path)
    run_.counts = [int(np.count_nonzero(run_.ranks <= k)) for k in range(1, run_.top.shape[1] + 1)]
    percents = [f"{round(100 * (count / run_.total), 2)}%" for count in run_.counts]
    if len(run_.images) != run_.total or percents != [told.get(f"Top{k} accuracy") for k in
                                                      range(1, len(percents) + 1)]:
        raise Failure(f"{path}: not of the run that run.json tells of: run run_all.sh again")
    if max(run_.top.max(), run_.labels.max()) >= run_.classes:
        raise Failure(f"{path}: a class beyond the {run_.classes} of run.json: run run_all.sh again")
    return run_


def rates_of(run_: SimpleNamespace) -> list:
    """summary.rows() of the run, each with `stages`, {stage: ms an image, the mean of its devices}, added."""
    merged, pure = [], {}
    for batch, records in run_.record["inference"].items():
        merged += summary.merge(records, [f"share{i}" for i in range(len(records))])
        path = run_.folder / f"result/pure_bs{int(batch)}.json"
        if path.exists():
            pure[int(batch)] = summary.read_record(path)
    rows = summary.rows(merged, pure, run_.record["soc_version"])
    for row in rows:
        records = run_.record["inference"][str(row["batch_size"])]
        told = [rate.get("stages", {}) for record in records for rate in record["rates"].values()]
        row["stages"] = {stage: float(np.mean([float(stages[stage]) for stages in told if stage in stages]))
                         for stage in STAGES if any(stage in stages for stages in told)}
    return rows


def read_details(path: Path) -> tuple:
    """(images, labels, ranks, own, top, chances) of imagenet_acc_eval.py's --details, see load_run."""
    try:
        if size_of(path) > DETAILS_LIMIT:
            raise Failure(f"{path}: too large for what was answered to 2,000,000 images")
    except FileNotFoundError as error:
        raise Failure(f"{path}: missing: run run_all.sh again") from error
    with as_written(path), open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        try:
            header, *rows = csv.reader(file)
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if header[:4] != ["image", "label", "rank", "probability"] or {len(row) for row in rows} != {len(header)}:
            raise ValueError("header or columns")
        columns = list(zip(*rows))
        ints = [np.array(column, dtype=np.int64) for column in (columns[1], columns[2], *columns[4::2])]
        floats = [np.array(column, dtype=np.float64) for column in (columns[3], *columns[5::2])]
        if any("/" in image for image in columns[0]):
            raise ValueError("an image whose name is a path")
        if any(column.min() < 0 for column in ints) or not all(0 <= column.min() <= column.max() <= 1
                                                              for column in floats):
            raise ValueError("a class or a probability that is none")
        return (list(columns[0]), ints[0], ints[1], floats[0], np.stack(ints[2:], axis=1), np.stack(floats[1:], axis=1))


def class_names(asked, folder, classes: int) -> list:
    """The classes' names, as the head of this file tells; "class 7" where nothing does."""
    if asked:
        names = [line.strip() for _, line in lines(asked)]
        if len(names) != classes:
            raise Failure(f"{asked}: {len(names)} names, but the network has {classes} classes")
        return names
    with contextlib.suppress(FileNotFoundError):
        names = [line for _, line in lines(folder / "classes.txt")]
        if len(names) == classes and (names[0], names[-1], classes) != (*IMAGENET_ENDS, 1000):
            return names
    if classes in (1000, BACKGROUND_CLASSES):
        try:
            return ["background"] * (classes - 1000) + imagenet_names()
        except ImportError:
            say("no torchvision, which has the names of ImageNet's classes: shown by number (or give --classes)")
    return [f"class {i}" for i in range(classes)]


def imagenet_names() -> list:
    """The 1000 classes as torchvision has them; raises ImportError without it."""
    found = importlib.util.find_spec("torchvision")
    with contextlib.suppress(OSError, KeyError, AttributeError):  # the list alone: all of torchvision takes seconds
        return list(runpy.run_path(str(Path(found.origin).parent / "models/_meta.py"))["_IMAGENET_CATEGORIES"])
    from torchvision.models import get_weight

    return list(get_weight("ResNet50_Weights.DEFAULT").meta["categories"])


def picture(folders: list, recipe: dict, image: str) -> str:
    """An image's tensor, in the first of the folders that has it, as a small JPEG for the page: a data URI, or ""."""
    side, dtype = int(recipe["crop"]), np.dtype({"float32": "<f4", "uint8": "u1"}[recipe["dtype"]])
    size = 3 * side * side * dtype.itemsize
    for folder in folders:
        with contextlib.suppress(OSError, Failure):  # perhaps removed, to make room
            data = read(folder / f"{image}.bin", size)
            if len(data) == size:
                values = np.frombuffer(data, dtype)
                if recipe["layout"] == "CHW":
                    values = values.reshape(3, side, side).transpose(1, 2, 0)
                if dtype == np.float32:
                    values = (values * recipe["std"] + recipe["mean"]) * 255
                values = values.reshape(side, side, 3).round().clip(0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(values).resize((PHOTO_SIDE, PHOTO_SIDE)).save(file, "JPEG", quality=82)
                return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return ""


def bins_of(run_: SimpleNamespace) -> list:
    """The folders in which the run's tensors may be."""
    return [run_.folder / "prep_dataset", *sorted(run_.folder.glob("share*of*/prep_dataset"))]


def answer(names: list, top, chances) -> list:
    """[{id, name, chance}] of one image's likeliest classes, for the page."""
    return [{"id": int(k), "name": names[k], "chance": float(p)} for k, p in zip(top, chances)]


# --- drawing --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def fonts_elsewhere():
    """While in this block, matplotlib keeps its list of fonts in a temporary folder, not in the home directory."""
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        yield


def plot(draw, label: str, width=5.4, height=3.2):
    """draw(axes) on a new figure of width x height inches: inline SVG for the page, in the page's own colours."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10, "text.parse_math": False,
             "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.labelcolor": INK,
             "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlesize": 10, "grid.color": FAINT,
             "legend.frameon": False, "legend.fontsize": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg"):]
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
                  lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{escape(label)}">', text, count=1)
    salt = re.sub(r"\W+", "_", label)  # ids are the page's, which has several figures
    return Markup(re.sub(r'\b(?:id="|url\(#|href="#)', lambda found: f"{found[0]}{salt}_", text))


def draw_accuracy(run_: SimpleNamespace, published: dict):
    """Top-1 to top-5 with their intervals, and what others published of top-1 and top-5."""
    def draw(axes):
        series = [("this run", dict(enumerate((100 * n / run_.total for n in run_.counts), 1)), FIRST)]
        series += [(name, {1: top1, 5: top5}, colour)
                   for (name, (top1, top5)), colour in zip(published.items(), (SECOND, THIRD, FOURTH))]
        width = 0.8 / len(series)
        for place, (name, values, colour) in enumerate(series):
            x = [k + (place - (len(series) - 1) / 2) * width * (len(series) > 1) for k in values]
            axes.bar(x, list(values.values()), width * 0.92, label=name, color=colour)
            tops = list(values.values())
            if place == 0:
                limits = np.array([wilson(n, run_.total) for n in run_.counts]).T
                tops = limits[1].tolist()
                axes.errorbar(x, list(values.values()), np.abs(limits - list(values.values())), fmt="none", ecolor=INK,
                              elinewidth=1, capsize=2)
            for left, value, top in zip(x, values.values(), tops):
                axes.text(left, top + 2, f"{value:.2f}", rotation=90 if len(series) > 1 else 0, fontsize=8,
                          ha="center", va="bottom")
        axes.set_xticks(range(1, len(run_.counts) + 1), [f"top-{k}" for k in range(1, len(run_.counts) + 1)])
        axes.set_ylim(0, 125 if len(series) > 1 else 112)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("images, %")
        if len(series) > 1:
            axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return plot(draw, "Accuracy, top-1 to top-5", width=7.2, height=3.6)


def draw_rates(rows: list):
    """Images/s by batch size, of the model's execution alone and from end to end."""
    def draw(axes):
        x = np.arange(len(rows))
        for place, (name, key, colour) in enumerate([("Interface", "interface", FIRST), ("e2e", "e2e", SECOND)]):
            bars = axes.bar(x + (place - 0.5) * 0.4, [row[key] or 0 for row in rows], 0.37, label=name, color=colour)
            axes.bar_label(bars, [f"{row[key]:.4g}" if row[key] else "" for row in rows], padding=2, fontsize=8)
        axes.set_xticks(x, [f"{row['batch_size']}" for row in rows])
        axes.set(xlabel="batch size", ylabel="images/s")
        axes.margins(y=0.15)
        axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return plot(draw, "Throughput by batch size", height=height_of(rows))


def draw_stages(rows: list):
    """Ms an image of each stage by batch size."""
    stages = [stage for stage in STAGES if any(stage in row["stages"] for row in rows)]

    def draw(axes):
        y, width = np.arange(len(rows)), 0.8 / len(stages)
        for place, stage in enumerate(stages):
            values = [row["stages"].get(stage, 0) for row in rows]
            bars = axes.barh(y + (place - (len(stages) - 1) / 2) * width, values, width * 0.9, label=stage,
                             color=STAGES[stage])
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=8)
        axes.set_yticks(y, [f"{row['batch_size']}" for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel="ms an image", ylabel="batch size")
        axes.margins(x=0.18)
        axes.legend(ncols=len(stages), loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)
    return plot(draw, "Time of each stage by batch size", height=height_of(rows)) if stages else None


def height_of(rows: list) -> float:
    """Inches of a plot that has four bars for each row."""
    return max(3.2, 1.2 + 0.62 * len(rows))


def calibration(run_: SimpleNamespace) -> tuple:
    """(mean confidence, accuracy, count) of each of BINS equal bins of the likeliest class's probability, and the

    expected calibration error in percent (C. Guo et al., arXiv 1706.04599, equation 3). Arrays (BINS,), NaN if empty.
    """
    sure, right = run_.chances[:, 0], run_.ranks == 1
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, sure, BINS) / counts
        accuracy = np.bincount(place, right, BINS) / counts
    error = np.nansum(counts * np.abs(accuracy - confidence)) / run_.total
    return confidence, accuracy, counts, 100 * float(error)


def draw_calibration(run_: SimpleNamespace):
    """How often it was right by how sure it was, with 95 % intervals."""
    def draw(axes):
        confidence, accuracy, counts, _ = calibration(run_)
        full = counts > 0
        limits = np.array([wilson(round(share * count), int(count)) for share, count in
                           zip(accuracy[full], counts[full])])
        axes.plot([0, 100], [0, 100], color=FAINT, linestyle="--", linewidth=1)
        axes.errorbar(100 * confidence[full], 100 * accuracy[full], np.abs(limits.T - 100 * accuracy[full]), fmt="o-",
                      markersize=4, color=FIRST, ecolor=FIRST, elinewidth=0.8, capsize=2)
        axes.set(xlim=(0, 100), ylim=(0, 103), xlabel="it was so sure, %", ylabel="and so often right, %")
    return plot(draw, "Calibration curve")


def draw_confidence(run_: SimpleNamespace):
    """How sure it was of right and of wrong answers."""
    def draw(axes):
        groups = [100 * run_.chances[run_.ranks == 1, 0], 100 * run_.chances[run_.ranks > 1, 0]]
        axes.hist(groups, np.linspace(0, 100, 21), stacked=True, color=[FIRST, SECOND], label=["right", "wrong"])
        axes.set(xlim=(0, 100), xlabel="sure of its answer, %", ylabel="images")
        axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return plot(draw, "Confidence histogram")


def draw_histogram(values, label: str, logarithmic=False):
    """One histogram of a value for each image."""
    def draw(axes):
        shown = np.maximum(values, np.min(values[values > 0], initial=1.0)) if logarithmic else values
        low, high = float(shown.min()), float(shown.max())
        if logarithmic and low < high:
            edges = np.geomspace(low, high, 41)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        else:
            edges = np.linspace(low, high, 41) if low < high else 3
        axes.hist(shown, edges, color=FIRST)
        axes.set_xlabel(label)
        axes.set_ylabel("images")
    return plot(draw, label, width=4.6, height=2.6)


def write_page(template: str, path: Path, **values) -> int:
    """Fill a template of templates/; whatever comes from a user's file is escaped. Returns its size in bytes.

    Raises ValueError if the values lack something that the page shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(ROOT / "tools/templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=lambda value: value if isinstance(value, Markup) or
        not isinstance(value, str) else printable(value))
    try:
        data = environment.get_template(template).render(**values).encode()
    except UndefinedError as error:
        raise ValueError(str(error)) from error
    write_file(path, data)
    return len(data)


# --- the pages ------------------------------------------------------------------------------------------------------

def worst_classes(run_: SimpleNamespace, names: list) -> list:
    """[{id, name, right, total}], least often right first; of classes that were wrong at least once."""
    totals = np.bincount(run_.labels, minlength=run_.classes)
    hits = np.bincount(run_.labels[run_.ranks == 1], minlength=run_.classes)
    wrong = np.flatnonzero(totals > hits)
    order = sorted(wrong.tolist(), key=lambda k: (hits[k] / totals[k], -totals[k], k))
    return [{"id": k, "name": names[k], "right": int(hits[k]), "total": int(totals[k])} for k in order[:LONGEST]]


def confused_pairs(run_: SimpleNamespace, names: list) -> list:
    """[{label, answer, count, of}], most frequent first: `label` taken for `answer`, as (id, name) pairs."""
    wrong = run_.ranks > 1
    pairs = Counter(zip(run_.labels[wrong].tolist(), run_.top[wrong, 0].tolist()))
    totals = Counter(run_.labels.tolist())
    order = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"label": (a, names[a]), "answer": (b, names[b]), "count": count, "of": totals[a]}
            for (a, b), count in order[:LONGEST]]


def photos(run_: SimpleNamespace, names: list) -> list:
    """The cards of the grid: wrong answers, the surest first; then right ones, the least sure first."""
    wrong = run_.ranks > 1
    order = np.lexsort((np.where(wrong, -1, 1) * run_.chances[:, 0], ~wrong))[:PHOTOS]
    return [{"image": run_.images[i], "label": (int(run_.labels[i]), names[run_.labels[i]]), "rank": int(run_.ranks[i]),
             "own": float(run_.own[i]), "picture": picture(bins_of(run_), run_.record["recipe"], run_.images[i]),
             "top": answer(names, run_.top[i], run_.chances[i])} for i in order.tolist()]


def accuracy_rows(run_: SimpleNamespace) -> list:
    """A dict for each of top-1 to top-5: k, percent, count, low, high, and reference and drop where there is one."""
    rows = []
    for k, count in enumerate(run_.counts, 1):
        low, high = wilson(count, run_.total)
        reference = float(run_.reference[k]) if k in run_.reference else None
        percent = 100 * count / run_.total
        rows.append({"k": k, "percent": percent, "count": count, "low": low, "high": high, "reference": reference,
                     "drop": None if reference is None else reference - percent})
    return rows


def what_ran(run_: SimpleNamespace) -> dict:
    """{what: value as text} of a run, for the verdict and for what differs between two."""
    record, recipe = run_.record, run_.record["recipe"]
    return {
        "Device": summary.device_line([item for items in record["inference"].values() for item in items],
                                         record["soc_version"]),
        "Precision": str(record["om"][run_.batch]["precision"]),
        "Weights": f"{record['weights']['file']} (sha256 {record['weights']['sha256'][:16]})",
        "ONNX": f"{record['onnx']['file']} (sha256 {record['onnx']['sha256'][:16]})",
        "om": f"batch {run_.batch} (sha256 {record['om'][run_.batch]['sha256'][:16]})",
        "Images": f"{run_.total} of {record['data_set']['source']}"
                  + (f" (a quick look: {record['quick_look']})" if record.get("quick_look") else ""),
        "Recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
    }


def verdict_of(run_: SimpleNamespace) -> tuple:
    """(what was said of the accuracy at each batch size, whether it was met at all of them; None without a gate)."""
    told, starts = [], set()
    for batch in run_.record["accuracy"]:
        path = run_.folder / f"accuracy_bs{int(batch)}.txt"
        said = [line for _, line in lines(path) if not line.startswith("top-")]
        if not said:
            raise Failure(f"{path}: no verdict in it: run run_all.sh again")
        told += [line if batch == run_.batch else f"batch {batch}: {line}" for line in said]
        starts.update(line.split(None, 1)[0] for line in said if line.strip())
    failed = {"FAILED:", "DISAGREES"} & starts
    return told, False if failed else True if "PASSED:" in starts else None


def make_report(args) -> int:
    """report.html of WORKDIR."""
    folder = args.workdir
    run_ = load_run(folder)
    out = args.out or folder / "report.html"
    names = class_names(args.classes, folder, run_.classes)
    with as_written(folder / "run.json"):
        verdict, passed = verdict_of(run_)
        record, rates = run_.record, rates_of(run_)
        imagenet = run_.classes in (1000, BACKGROUND_CLASSES)
        values = {
            "run": run_, "record": record, "facts": what_ran(run_), "verdict": verdict, "passed": passed,
            "rows": accuracy_rows(run_),
            "max_drop": float(MAX_DROP), "demo": bool(record.get("demo")), "imagenet": imagenet,
            "host": any(item["engine"] == "host" for items in record["inference"].values() for item in items),
            "rates": rates, "best": max((row["interface"] or 0 for row in rates), default=0),
            "accuracy_plot": draw_accuracy(run_, PUBLISHED if imagenet else {}),
            "rate_plots": [draw_rates(rates), draw_stages(rates)],
            "sure_plots": [draw_calibration(run_), draw_confidence(run_)],
            "calibration_error": calibration(run_)[-1],
            "worst": worst_classes(run_, names), "confused": confused_pairs(run_, names), "cards": photos(run_, names),
        }
        size = write_page("run.html", out, **values)
    print(f"{out.resolve()}: {run_.total} images, {size:,} bytes")
    return 0


# --- two runs -------------------------------------------------------------------------------------------------------

def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p of McNemar's test (Psychometrika 12 (1947), p. 153): could chance split the images so?"""
    n, term, tail = only_a + only_b, 1, 0
    for i in range(min(only_a, only_b) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2 ** n) if n else 1.0


def paired_interval(only_a: int, only_b: int, total: int) -> tuple:
    """95 % interval in points of B's accuracy less A's, of the same `total` images.

    The adjusted Wald interval of D. G. Bonett and R. M. Price, J. Educ. Behav. Stat. 37 (2012), p. 479.
    """
    a, b = (only_a + 1) / (total + 2), (only_b + 1) / (total + 2)
    half = Z95 * math.sqrt((a + b - (a - b) ** 2) / (total + 2))
    return 100 * max(-1.0, b - a - half), 100 * min(1.0, b - a + half)


def compare_dumps(pairs: list) -> np.ndarray:
    """For each of the pairs of dumps: largest and mean difference of their values, and cosine; float (N, 3)."""
    rows = []
    for paths in pairs:
        a, b = (np.asarray(parse_dump(path), dtype=np.float64) for path in paths)
        if len(a) != len(b):
            raise Failure(f"{paths[1]}: {len(b)} values, but {paths[0]} has {len(a)}: of another model")
        difference = np.abs(a - b)
        rows.append((difference.max(), difference.mean(), cosine(a, b)))
    table = np.array(rows)
    if not np.isfinite(table).all():
        raise Failure(f"{pairs[int(np.argmin(np.isfinite(table).all(axis=1)))][0]}: NaN or infinite, or its other side")
    return table


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors; 1 for two zeros."""
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else float(not (a.any() or b.any()))


def differences(a: SimpleNamespace, b: SimpleNamespace, images: list):
    """compare_dumps() of the images, or None, with a word, if a run's dumps are gone."""
    found = []
    for run_ in (a, b):
        folders = [run_.folder / f"result/{name}_bs{run_.batch}" for name in ("dumpOutput", "dumpShares")]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            print(f"{run_.folder}: its dumps are gone: no differences of values")
            return None
        found.append(find_dumps(folders[0]))
        missing = [image for image in images if image not in found[-1]]
        if missing:
            raise Failure(f"{folders[0]}: no dump of {missing[0]}, which was scored: run run_all.sh again")
    pairs = [(found[0][image], found[1][image]) for image in images]
    chunks = [pairs[i:i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    jobs, parts = min(len(os.sched_getaffinity(0)), len(chunks)), []
    with workers(jobs, start_worker) as executor, progress(len(pairs), "dumps") as advance:
        for part in executor.map(compare_dumps, chunks):
            parts.append(part)
            advance(len(part))
    return np.concatenate(parts)


def select(run_: SimpleNamespace, images: list) -> SimpleNamespace:
    """The run with only these images, in this order; self for the counts is not touched."""
    place = {image: i for i, image in enumerate(run_.images)}
    order = [place[image] for image in images]
    run_.images = images
    for name in ("labels", "ranks", "own", "top", "chances"):
        setattr(run_, name, getattr(run_, name)[order])
    return run_


def paired_rows(a: SimpleNamespace, b: SimpleNamespace) -> list:
    """A dict for each of top-1 to top-5: percent of both, images that only one has, difference, interval, p."""
    rows = []
    for k in range(1, a.top.shape[1] + 1):
        in_a, in_b = a.ranks <= k, b.ranks <= k
        only_a, only_b = int(np.count_nonzero(in_a & ~in_b)), int(np.count_nonzero(in_b & ~in_a))
        low, high = paired_interval(only_a, only_b, len(in_a))
        rows.append({"k": k, "a": 100 * float(in_a.mean()), "b": 100 * float(in_b.mean()), "only_a": only_a,
                     "only_b": only_b, "difference": 100 * (only_b - only_a) / len(in_a), "low": low, "high": high,
                     "p": mcnemar(only_a, only_b)})
    return rows


def changed_cards(a: SimpleNamespace, b: SimpleNamespace, names: list) -> list:
    """Cards of the images whose top-1 changed, those first of which A was surest."""
    margin = a.chances[:, 0] - (a.chances[:, 1] if a.chances.shape[1] > 1 else 0)
    order = sorted(np.flatnonzero(a.top[:, 0] != b.top[:, 0]).tolist(), key=lambda i: (-margin[i], a.images[i]))
    return [{"image": a.images[i], "label": (int(a.labels[i]), names[a.labels[i]]), "margin": float(margin[i]),
             "ranks": (int(a.ranks[i]), int(b.ranks[i])),
             "picture": picture(bins_of(a), a.record["recipe"], a.images[i]),
             "a": answer(names, a.top[i], a.chances[i]), "b": answer(names, b.top[i], b.chances[i])}
            for i in order[:PHOTOS]]


def load_pair(folders: list) -> tuple:
    """(run A, run B, how many images were left out as only one has them); raises Failure if nothing is comparable."""
    a, b = (load_run(folder) for folder in folders)
    common = [batch for batch in a.record["accuracy"] if batch in b.record["accuracy"]]
    if common and a.batch != b.batch:
        a, b = (load_run(folder, common[0]) for folder in folders)
    elif a.batch != b.batch:
        say(f"no batch size in common: {folders[0]} at {a.batch}, {folders[1]} at {b.batch}")
    if a.classes != b.classes:
        raise Failure(f"{folders[1]}: {b.classes} classes, but {folders[0]} has {a.classes}: not comparable")
    theirs = set(b.images)
    images = [image for image in a.images if image in theirs]
    if not images:
        raise Failure(f"{folders[1]}: no image in common with {folders[0]}: not comparable")
    left_out = len(a.images) + len(b.images) - 2 * len(images)
    select(a, images), select(b, images)
    if (a.labels != b.labels).any():
        image = images[int(np.argmax(a.labels != b.labels))]
        raise Failure(f"{folders[1]}: {image} has another label than in {folders[0]}: not comparable")
    return a, b, left_out


def facts_of(a: SimpleNamespace, b: SimpleNamespace) -> list:
    """[{what, a, b}]: what ran in each of the two, versions included."""
    facts = [{"what": what, "a": one, "b": other} for (what, one), other in
             zip(what_ran(a).items(), what_ran(b).values())]
    names = sorted({*a.record["versions"], *b.record["versions"]})
    return facts + [{"what": name, "a": a.record["versions"].get(name, "-"), "b": b.record["versions"].get(name, "-")}
                    for name in names]


def describe_values(table) -> dict:
    """Histograms and quantiles of compare_dumps' table, empty without one."""
    if table is None:
        return {"plots": [], "quantiles": []}
    columns = {"largest difference": table[:, 0], "mean difference": table[:, 1],
               "1 - cosine": np.maximum(0.0, 1 - table[:, 2])}
    return {"plots": [draw_histogram(values, f"{name} of an image's values", True) for name, values in columns.items()],
            "quantiles": [{"name": name, "values": [float(np.quantile(values, share)) for share in (0, 0.5, 0.99, 1)]}
                          for name, values in columns.items()]}


def make_comparison(args) -> int:
    """compare.html of two work directories."""
    a, b, left_out = load_pair(args.compare)
    with as_written(args.compare[0] / "run.json, or the other's"):
        names = class_names(args.classes, args.compare[0], a.classes)
        facts = facts_of(a, b)
        rates = [{"batch": one["batch_size"], "a": one, "b": other} for one, other in
                 itertools.product(rates_of(a), rates_of(b)) if one["batch_size"] == other["batch_size"]]
        cards = changed_cards(a, b, names)
    table, rows = differences(a, b, a.images), paired_rows(a, b)
    changed, out = int(np.count_nonzero(a.top[:, 0] != b.top[:, 0])), args.out or Path("compare.html")
    with as_written(args.compare[0] / "run.json, or the other's"):
        size = write_page("compare.html", out, a=a, b=b, folders=args.compare, facts=facts, rows=rows, rates=rates,
                          changed=changed, total=len(a.images), left_out=left_out, cards=cards,
                          **describe_values(table))
    for row in rows:
        print(f"top-{row['k']}  {row['a']:6.2f} % and {row['b']:6.2f} %: {row['difference']:+.3f} points "
              f"({row['low']:+.3f} to {row['high']:+.3f}), right only in one: {row['only_a']} and {row['only_b']}, "
              f"p = {row['p']:.2g} (McNemar)")
    print(f"top-1 changed on {changed} of {len(a.images)} images"
          + (f"; {left_out} more are in one run only" if left_out else ""))
    if table is not None:
        print(f"values: largest difference {table[:, 0].max():.3g}, mean {table[:, 1].mean():.3g}, "
              f"lowest cosine {table[:, 2].min():.8f}")
    print(f"{out.resolve()}: {size:,} bytes")
    return 0


# --- one photo ------------------------------------------------------------------------------------------------------

def call(script: str, *arguments, cwd):
    """Run one of the suite's scripts; what it says is passed on only if it fails."""
    # The tools' python3 is to be this one
    path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], cwd=cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PATH": path}, text=True, errors="replace", check=False)
    if done.returncode:
        for line in done.stdout.splitlines():
            say(line)
        raise Failure(f"{script} failed, see above", done.returncode)


def make_photo(args) -> int:
    """photo.html: the five likeliest classes of one photo."""
    from common.stats import highest

    size_of(args.photo)
    size_of(args.om)
    with open(args.om, "rb") as file:
        demo = b"demo weights" in file.read(OM_START)
    with tempfile.TemporaryDirectory(prefix="photo-") as name:
        folder = Path(name)
        (folder / "val").mkdir()
        (folder / f"val/photo{args.photo.suffix}").symlink_to(args.photo.resolve())
        call("img_preprocess.py", "val", "prep_dataset", f"--resize={args.resize}", "--jobs=1",
             *["--aipp"] * args.aipp, cwd=folder)
        call("gen_dataset_info.py", "bin", "./prep_dataset", "./photo.info", 299, 299, cwd=folder)
        call("tools/infer.py", args.om.resolve(), "result/dumps", "--info=./photo.info",
             f"--batch_size={args.batch_size}", f"--device_ids={args.device_id}", cwd=folder)
        dump = next(iter(find_dumps(folder / "result/dumps").values()))
        values = np.asarray(parse_dump(dump), dtype=np.float64)
        recipe = read_json(folder / "prep_dataset/manifest.json")["recipe"]
        seen = picture([folder / "prep_dataset"], recipe, "photo")
        record = read_json(folder / "result/dumps.json")
    names = class_names(args.classes, args.om.parent, len(values))
    top = highest(values[np.newaxis], min(5, len(values)))[0]
    chances = np.exp(values - values.max())
    chances /= chances.sum()
    found = answer(names, top, chances[top])
    if demo:
        print("Demo weights, fitted to the suite's photos: they know nothing of ImageNet.")
    for row in found:
        print(f"{100 * row['chance']:6.2f} %  {row['id']} {printable(row['name'])}")
    out = args.out or Path("photo.html")
    device = record["device"] if record["engine"] == "host" else f"device {args.device_id} ({record['engine']})"
    size = write_page("photo.html", out, image=args.photo.name, om=str(args.om), picture=seen, top=found, demo=demo,
                      device=device)
    print(f"{out.resolve()}: {printable(args.photo.name)}, {size:,} bytes")
    return 0


def main() -> int:
    parser = parser_of(__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("workdir", metavar="WORKDIR", type=Path, nargs="?", help="of a finished run of run_all.sh")
    mode.add_argument("--compare", metavar=("WORKDIR_A", "WORKDIR_B"), type=Path, nargs=2, help="two runs side by side")
    mode.add_argument("--photo", type=Path, help="the five likeliest classes of one photo, with --om")
    parser.add_argument("--om", type=Path, help="for --photo: compiled by atc, of the real one or the stand-in")
    parser.add_argument("--batch_size", type=positive, default=1, help="the om's, for --photo (default: 1)")
    parser.add_argument("--resize", type=positive, default=SHORT_SIDE, help="short side before the crop, pixels, for "
                        "--photo (default: %(default)s)")
    parser.add_argument("--aipp", action="store_true", help="for --photo with an om that takes uint8 tensors")
    parser.add_argument("--device_id", type=int, default=0, help="for --photo (default: 0)")
    parser.add_argument("--classes", metavar="NAMES.txt", type=Path, help="a class name in each line")
    parser.add_argument("--out", metavar="PAGE.html", type=Path, help="default: WORKDIR/report.html, else "
                        "compare.html or photo.html in the current folder")
    args = parser.parse_args()

    if (args.photo is None) != (args.om is None):
        parser.error("--photo and --om belong together")
    make = make_photo if args.photo else make_comparison if args.compare else make_report
    with fonts_elsewhere():
        return make(args)


if __name__ == "__main__":
    run(main)

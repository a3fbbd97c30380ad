"""Read a finished, untrusted work directory: run.json, the predictions, class names, tensors, dumps.

Imported only. Nothing is run and nothing is scored again.
"""
import contextlib
import csv
import functools
import importlib.util
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

from common import model
from common.cli import Failure, progress, say
from common.files import as_written, lines, read, read_json, size_of
from common.formats import read_dump
from common.jobs import start_worker, workers
from common.stats import cosine, mcnemar, paired_interval, reference_of

import numpy as np

IMAGENET_ENDS = ("n01440764", "n15075141")  # synsets of ILSVRC2012's classes 0 and 999, tench and toilet tissue
CLASSES_LIMIT = 1_000_000  # all of ImageNet has 21,841
DETAILS_LIMIT = 1 << 30  # bytes; 50,000 images have some 6 MB
CHUNK = 512  # pairs of dumps that a process compares at a time


def load_run(folder: Path, batch: str = "") -> SimpleNamespace:
    """Return a finished run: folder, record (run.json), and for one batch size the prediction for each image.

    images [N] names; labels, ranks (N,) int; own (N,) probability of the true class; top, chances (N, up to 5) class
    ids and probabilities, likeliest first; counts [up to 5] of top-1, top-2, ...; total, classes, reference.
    """
    path = folder / "run.json"
    try:
        record = read_json(path)
    except FileNotFoundError as error:
        raise Failure(f"{path}: missing, so not the work directory of a finished run of run_all.sh") from error
    except ValueError as error:
        raise Failure(f"{path}: damaged; rerun run_all.sh") from error
    with as_written(path):
        batch = batch or next(iter(record["accuracy"]))
        result = record["accuracy"][batch]
        run_ = SimpleNamespace(
            folder=folder, record=record, batch=str(int(batch)), total=int(result["Number of images"]),
            classes=int(result["Number of classes"]))
        run_.reference = reference_of(record["reference"], run_.classes)
        if run_.total < 1 or not 2 <= run_.classes <= CLASSES_LIMIT:
            raise ValueError(f"{run_.total:,} images, {run_.classes:,} classes")
    path = folder / f"details_bs{run_.batch}.csv"
    run_.images, run_.labels, run_.ranks, run_.own, run_.top, run_.chances = read_details(path)
    run_.counts = [int(np.count_nonzero(run_.ranks <= k)) for k in range(1, run_.top.shape[1] + 1)]
    percents = [f"{round(100 * (count / run_.total), 2)}%" for count in run_.counts]
    if len(run_.images) != run_.total or percents != [result.get(f"Top{k} accuracy") for k in
                                                      range(1, len(percents) + 1)]:
        raise Failure(f"{path}: from another run than run.json; rerun run_all.sh")
    if max(run_.top.max(), run_.labels.max()) >= run_.classes:
        raise Failure(f"{path}: a class beyond the {run_.classes} of run.json; rerun run_all.sh")
    return run_


def read_details(path: Path) -> tuple:
    """Return (images, labels, ranks, own, top, chances) of imagenet_acc_eval.py's --details, see load_run."""
    try:
        if size_of(path) > DETAILS_LIMIT:
            raise Failure(f"{path}: too large for 2,000,000 images")
    except FileNotFoundError as error:
        raise Failure(f"{path}: missing; rerun run_all.sh") from error
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
            raise ValueError("an image name with a / in it")
        if any(column.min() < 0 for column in ints) or not all(0 <= column.min() <= column.max() <= 1
                                                              for column in floats):
            raise ValueError("an invalid class or probability")
        return (list(columns[0]), ints[0], ints[1], floats[0], np.stack(ints[2:], axis=1), np.stack(floats[1:], axis=1))


def class_names(asked, folder, classes: int) -> list:
    """Return the class names: from file `asked`, else `folder`'s classes.txt, else ImageNet's, else "class 7".

    ImageNet's are for 1000 and 1001 classes, as torchvision has them; a classes.txt of ImageNet's synsets is skipped.
    """
    if asked:
        names = [line.strip() for _, line in lines(asked)]
        if len(names) != classes:
            raise Failure(f"{asked}: {len(names)} names, but the network has {classes} classes")
        return names
    with contextlib.suppress(FileNotFoundError):
        names = [line for _, line in lines(folder / "classes.txt")]
        if len(names) == classes and (names[0], names[-1], classes) != (*IMAGENET_ENDS, model.NUM_CLASSES):
            return names
    if classes in (model.NUM_CLASSES, model.BACKGROUND_CLASSES):
        try:
            return ["background"] * (classes - model.NUM_CLASSES) + imagenet_names()
        except ImportError:
            say("torchvision, which has the names of ImageNet's classes, is missing, so they are shown by number; pass "
                "--classes")
    return [f"class {i}" for i in range(classes)]


def imagenet_names() -> list:
    """Return the 1000 classes as torchvision has them; raises ImportError without it."""
    found = importlib.util.find_spec("torchvision")
    with contextlib.suppress(OSError, KeyError, AttributeError):  # the list alone: all of torchvision takes seconds
        return list(runpy.run_path(str(Path(found.origin).parent / "models/_meta.py"))["_IMAGENET_CATEGORIES"])
    from torchvision.models import get_weight

    return list(get_weight("ResNet50_Weights.DEFAULT").meta["categories"])


def bins_of(run_: SimpleNamespace) -> list:
    """Return the folders in which the run's tensors may be."""
    return [run_.folder / "prep_dataset", *sorted(run_.folder.glob("share*of*/prep_dataset"))]


def pixels(folders: list, recipe: dict, image: str):
    """Return an image's tensor as uint8 (side, side, 3), RGB, from the first folder that has it, else None."""
    side, dtype = int(recipe["crop"]), np.dtype({"float32": "<f4", "uint8": "u1"}[recipe["dtype"]])
    size = 3 * side * side * dtype.itemsize
    for folder in folders:
        with contextlib.suppress(OSError, Failure):  # perhaps removed to free space
            data = read(folder / f"{image}.bin", size)
            if len(data) == size:
                values = np.frombuffer(data, dtype)
                if recipe["layout"] == "CHW":
                    values = values.reshape(3, side, side).transpose(1, 2, 0)
                if dtype == np.float32:
                    values = (values * recipe["std"] + recipe["mean"]) * 255
                return values.reshape(side, side, 3).round().clip(0, 255).astype(np.uint8)
    return None


def paired_rows(a: SimpleNamespace, b: SimpleNamespace) -> list:
    """Return a dict for each of top-1 to top-5: percent of both, images that only one has, difference, interval, p."""
    rows = []
    for k in range(1, a.top.shape[1] + 1):
        in_a, in_b = a.ranks <= k, b.ranks <= k
        only_a, only_b = int(np.count_nonzero(in_a & ~in_b)), int(np.count_nonzero(in_b & ~in_a))
        low, high = paired_interval(only_a, only_b, len(in_a))
        rows.append({"k": k, "a": 100 * float(in_a.mean()), "b": 100 * float(in_b.mean()), "only_a": only_a,
                     "only_b": only_b, "difference": 100 * (only_b - only_a) / len(in_a), "low": low, "high": high,
                     "p": mcnemar(only_a, only_b)})
    return rows


def compare_dumps(pairs: list, classes=None) -> tuple:
    """Compare pairs of dumps of the same image; `classes` as read_dump takes it.

    Returns (float (N, 3): largest and mean difference of the values, and cosine; largest magnitude (N,); same top-5
    (N,) bool). Raises Failure, naming the file, on NaN, infinite values or different lengths.
    """
    rows, magnitudes, same = [], [], []
    for paths in pairs:
        a, b = (np.asarray(read_dump(path, classes), dtype=np.float64) for path in paths)
        if len(a) != len(b):
            raise Failure(f"{paths[1]}: {len(b)} values, but {paths[0]} has {len(a)}; of another model")
        difference = np.abs(a - b)
        rows.append((difference.max(), difference.mean(), cosine(a, b)))
        magnitudes.append(max(np.abs(a).max(), np.abs(b).max()))
        first, second = (np.argsort(-values, kind="stable")[:5] for values in (a, b))
        same.append(np.array_equal(first, second))
    return np.array(rows), np.array(magnitudes), np.array(same)


def compare_all(pairs: list, classes=None) -> tuple:
    """Return compare_dumps(pairs, classes), shared among processes."""
    chunks = [pairs[i:i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    jobs, parts = min(len(os.sched_getaffinity(0)), len(chunks)), []
    with workers(jobs, start_worker) as executor, progress(len(pairs), "dumps") as advance:
        for part in executor.map(functools.partial(compare_dumps, classes=classes), chunks):
            parts.append(part)
            advance(len(part[0]))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts))

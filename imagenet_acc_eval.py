#!/usr/bin/env python3
"""Score the benchmark's dumps against the labels: top-1 to top-5, and the accuracy gate.

Usage:    python3 imagenet_acc_eval.py DUMP_DIR val_label.txt OUT_DIR result.json
                  [--reference TOP1,TOP5|published [--max-drop 1.0]] [--same-as OTHER.json]
                  [--flips OTHER.csv] [--beside OTHER_DIR] [--allow-missing] [--classes N] [--details OUT.csv]
Example:  python3 imagenet_acc_eval.py result/dumpOutput_device0 val_label.txt ./ result.json \\
              --reference 78.892,94.292
          top-1   78.35 % (39175 / 50000)   reference  78.892 %   95 % interval 77.99 to 78.71 %
          ...
          PASSED: top-1 is 0.542 points below the reference, top-5 is 0.018 points above the reference; a drop of
          less than 1.0 is allowed

DUMP_DIR, its folders shareRofW (docs/multi-chip.md), or the one folder of ais_bench's run in it:
IMAGE_1.txt (benchmark) or IMAGE_0.txt (ais_bench), one line of space-separated values; IMAGE_1.bin,
little-endian float32, float16 or float64; or IMAGE_0.npy; one value per class, one file per image. The
number of classes is that of infer.py's record beside DUMP_DIR or of --classes; without both, .bin dumps
need ImageNet's 1000 or 1001 float32 values.
val_label.txt: a line per image, "NAME.JPEG CLASS". An image is identified by its name up to the
first dot. With 1001 classes, class 0 is the background and each label is raised by 1.

The rank of the true class is 1 plus the number of classes with a higher value, or with the
same value and a lower id. OUT_DIR/result.json: one line of JSON without a final newline,
with the title, "Number of images", "Number of classes" and "Top1 accuracy" to "Top5
accuracy"; all values are strings, percent rounded to two places.
OUT.csv: a header, then a line per image in order of name: image, label, rank (1: top-1), probability
(of the true class, softmax over all classes), class1, probability1 to class5, probability5. Class ids
are the dump's: with 1001 classes, they include the background.

Exit status: 0 scored, and the gate (with --reference) is met; 1 the gate is not met, or --same-as
disagrees; 3 the dumps or labels cannot be scored (named on stderr).
"""
import argparse
import contextlib
import csv
import functools
import json
import math
import os
import re
from fractions import Fraction
from pathlib import Path

from common import model
from common.cli import Failure, listing, parser_of, positive, printable, progress, run
from common.files import read, read_json, replacing, write
from common.formats import DUMP_LIMIT, find_dumps, match, parse_dump, read_dump, read_labels
from common.jobs import start_worker, workers
from common.model import BACKGROUND_CLASSES
from common.runs import compare_all, read_details
from common.stats import fraction, highest, mcnemar, percentages, rank, reference_of, wilson

import numpy as np

TOP = 5
AGREEMENT = 0.05  # points: the dumps of two batch sizes may differ by rounding in 25 of 50,000 images
CHANCE = 0.01  # p of McNemar's test: where rounding flips answers, as in int8, a less likely difference is a fault
PLACES = Fraction(1, 1000)  # to which references are given: 88.889 is 40 of 45
MAX_DROP = Fraction(1)  # points below the reference at which the port is rejected (README section 6)
CHUNK = 512  # dumps ranked together; larger sets are shared among processes
CHUNK_VALUES = CHUNK * BACKGROUND_CLASSES  # values in a chunk, 4 MB; with more classes it has fewer dumps
GUESSABLE = 10  # classes; with fewer, chance level is too high to diagnose
PERF_CLOCK = 2.0  # seconds by which clock and file times may differ


def check_age(folder: Path, dumps: dict, allow_missing: bool):
    """Raise Failure if the files next to `folder` show that its dumps are from an unfinished or an earlier run.

    These are the records of infer.py (FOLDER.json, or one per share) or, if the benchmark was run by hand, its perf
    file, which is written at the end and states the duration.
    """
    folder = Path(os.path.abspath(folder))  # "." has no name
    for path in [folder.with_name(f"{folder.name}.json"), *folder.glob("share*of*.json")]:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            if read_json(path)["complete"] is False and not allow_missing:
                raise Failure(f"{path}: infer.py did not finish these dumps; rerun it, or pass --allow-missing to "
                              "score the partial run")
    device = re.fullmatch(r"dumpOutput_device(\d+)", folder.name)
    perfs = sorted(folder.parent.glob(f"perf_*_device_{device.group(1)}.txt"), key=os.path.getmtime) if device else []
    perf = read(perfs[-1], DUMP_LIMIT) if perfs else b""
    latency = re.search(rb"^\[e2e\] [^\n]*latency: ([0-9.e+]+)", perf, re.MULTILINE)
    if latency:
        try:
            began = os.path.getmtime(perfs[-1]) - float(latency.group(1)) / 1000 - PERF_CLOCK
        except ValueError as error:
            raise Failure(f"{perfs[-1]}: no latency in its [e2e] line; run the benchmark again") from error
        stale = [path for path in dumps.values() if os.path.getmtime(path) < began]
        if stale:
            raise Failure(f"{len(stale)} dumps are older than the run of {perfs[-1]}: {listing(stale)}; remove the "
                          "folder and run the benchmark again")


def values_per_dump(folder: Path, asked, first: str):
    """Return the number of classes that --classes or infer.py's records beside `folder` state; None of text dumps.

    Raises Failure if nothing states it, unless dump `first` has the bytes of ImageNet's classes in float32. A float64
    dump taken for float32 has twice as many values, a float16 one half as many, and its accuracy may be believable.
    """
    folder = Path(os.path.abspath(folder))
    for path in [folder.with_name(f"{folder.name}.json"), *sorted(folder.glob("share*of*.json"))]:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            stated = read_json(path)["classes"]
            if not isinstance(stated, int) or stated < 1:
                continue
            if asked not in (None, stated):
                raise Failure(f"{path}: dumps of {stated} classes, not the {asked} of --classes")
            return stated
    if asked or not first.endswith(".bin"):
        return asked
    size = os.path.getsize(first)
    if size not in (4 * model.NUM_CLASSES, 4 * BACKGROUND_CLASSES):
        raise Failure(f"{first}: {size:,} bytes are {size / 4:.10g} float32 values or {size / 2:.10g} float16 or "
                      f"{size / 8:.10g} float64 ones; pass the network's number with --classes N")
    return None


def rank_dumps(chunk: list, first: str, classes: int) -> tuple:
    """Return (rank (N,), top classes (N, up to 5), their probabilities, the true class's) for [(path, label)].

    Raises Failure, naming the dump, if its length is not `classes`, the length of dump `first`.
    """
    rows = []
    for path, label in chunk:
        values = parse_dump(path, classes)
        if len(values) != classes:
            raise Failure(f"{path}: {len(values)} values, but {first} has {classes}; truncated, or of another model")
        if label >= classes:
            raise Failure(f"{path}: {classes} values, but the label is class {label - (classes == BACKGROUND_CLASSES)}"
                          "; another model's dumps or labels")
        rows.append(values)
    table = np.stack(rows)
    if not np.isfinite(table).all():
        for path, _ in chunk:
            read_dump(path, classes)  # raises Failure on the first such dump
    labels = np.array([label for _, label in chunk])
    top = highest(table, min(TOP, classes))
    powers = np.exp(table - np.take_along_axis(table, top[:, :1], axis=1))  # softmax, without overflow
    powers /= powers.sum(axis=1, keepdims=True)
    return (rank(table, labels), top, np.take_along_axis(powers, top, axis=1),
            np.take_along_axis(powers, labels[:, np.newaxis], axis=1))


def score(dumps: dict, labels: dict, stated) -> tuple:
    """Rank every image's true class; return (counts, classes, details); `stated` is the network's number of classes.

    counts[k] is the number of images with it in the first k + 1; `details` are rank_dumps' arrays for all images.
    """
    first = next(iter(dumps.values()))
    classes = len(read_dump(first, stated))
    if stated not in (None, classes):
        raise Failure(f"{first}: {classes} values, but the network has {stated} classes; truncated, or of another "
                      "model")
    if classes < 2:
        raise Failure(f"{first}: {classes} values; a classifier has at least 2")
    pairs = [(path, labels[image] + (classes == BACKGROUND_CLASSES)) for image, path in dumps.items()]
    step = max(1, min(CHUNK, CHUNK_VALUES // classes))
    chunks = [pairs[i:i + step] for i in range(0, len(pairs), step)]
    parts = []
    with contextlib.ExitStack() as stack:
        rank_chunk, jobs = functools.partial(rank_dumps, first=first, classes=classes), len(os.sched_getaffinity(0))
        if len(chunks) == 1:
            ranks = map(rank_chunk, chunks)
        else:
            ranks = stack.enter_context(workers(min(jobs, len(chunks)), start_worker)).map(rank_chunk, chunks)
        advance = stack.enter_context(progress(len(pairs), "dumps"))
        for part in ranks:
            parts.append(part)
            advance(len(part[0]))
    details = [np.concatenate(arrays) for arrays in zip(*parts)]
    return [int(np.count_nonzero(details[0] <= k)) for k in range(1, min(TOP, classes) + 1)], classes, details


def result_text(counts: list, total: int, classes: int) -> str:
    """Return the content of result.json, byte for byte that of the ModelZoo's script."""
    rows = [{"key": "Number of images", "value": str(total)}, {"key": "Number of classes", "value": str(classes)}]
    for k, count in enumerate(counts, 1):
        rows.append({"key": f"Top{k} accuracy", "value": f"{round(100 * (count / total), 2)}%"})
    return json.dumps({"title": "Overall statistical evaluation", "value": rows})


def write_details(path: Path, images: list, labels: list, details: list):
    """Write OUT.csv (see the head of this file); `details` as score() returns them."""
    ranks, top, chances, own = details
    with replacing(path) as part, open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", "rank", "probability",
                         *(f"{what}{k}" for k in range(1, top.shape[1] + 1) for what in ("class", "probability"))])
        for row in sorted(zip(images, labels, ranks.tolist(), own[:, 0].tolist(), top.tolist(), chances.tolist())):
            writer.writerow([*row[:3], f"{row[3]:.6g}",
                             *(value for found, chance in zip(*row[4:]) for value in (found, f"{chance:.6g}"))])


def print_table(counts: list, total: int, reference: dict):
    """Print a line for each of top-1..5: percent, counts, reference, interval."""
    for k, count in enumerate(counts, 1):
        low, high = wilson(count, total)
        compared = f"   reference {float(reference[k]):7.3f} %" if k in reference else " " * 22 if reference else ""
        print(f"top-{k}  {100 * count / total:6.2f} % ({count} / {total}){compared}"
              f"   95 % interval {low:.2f} to {high:.2f} %")


def doubts(counts: list, classes: int, best: np.ndarray, own: np.ndarray) -> list:
    """Return lines that diagnose a top-1 at chance level, with the change of the labels that would fit, if any.

    `best` and `own` are int arrays (N,): the class of each dump's highest value, and of its label.
    """
    total, chance = len(own), 100 / classes
    if classes < GUESSABLE or wilson(counts[0], total)[0] > chance:
        return []
    remedies = {
        "every label plus 1": (own + 1, "the label file counts from 0, the network from 1"),
        "every label minus 1": (own - 1, "the label file counts from 1, the network from 0"),
        "each image given the next one's label": (np.roll(own, -1), "the label file is off by a line"),
        "each image given the previous one's label": (np.roll(own, 1), "the label file is off by a line"),
        "the classes reordered": (reordered(best, own, classes), "the label file has another class order"),
    }
    text = [f"top-1 is at chance level ({chance:.2g} %); check labels, preprocessing and weights"]
    for change, (labels, reason) in remedies.items():
        hits, known = int(np.count_nonzero(best == labels)), int(np.count_nonzero(labels >= 0))
        if known and wilson(hits, known)[0] > max(chance, 10):
            text.append(f"with {change} it would be {100 * hits / known:.2f} %: {reason}")
            break
    return text


def reordered(best: np.ndarray, own: np.ndarray, classes: int) -> np.ndarray:
    """Return each label mapped to the class that half of the images' dumps assign to it.

    The result is -1 for that half itself, and for labels absent from it, so that a mapping is never checked against
    the images it was fitted to; and `classes`, an invalid id, for a label whose class fits another label better, so
    that identical dumps do not agree with any labels.
    """
    half, result = np.arange(len(own)) % 2 == 0, np.full(len(own), -1)
    if classes > BACKGROUND_CLASSES:
        return result
    votes = np.zeros((classes, classes), dtype=np.int32)  # label, class found
    np.add.at(votes, (own[half], best[half]), 1)
    new = votes.argmax(axis=1)
    new[votes.argmax(axis=0)[new] != np.arange(classes)] = classes
    known = ~half & (votes.max(axis=1)[own] > 0)
    result[known] = new[own[known]]
    return result


def gate(counts: list, total: int, reference: dict, max_drop: Fraction) -> tuple:
    """Return (True if each accuracy is less than `max_drop` points below its reference, the verdict as lines)."""
    phrases, met, undecided = [], True, []
    for k, expected in reference.items():
        drop = expected - Fraction(100 * counts[k - 1], total)  # exact: 77.892 is not a binary fraction
        drop = 0 if abs(drop) < PLACES / 2 else drop
        met = met and (drop < max_drop or drop <= 0)
        size = f"{abs(float(drop)):.3f}"
        phrases.append(f"top-{k} equals the reference" if size == "0.000" else
                       f"top-{k} is {size} points {'below' if drop > 0 else 'above'} the reference")
        low, high = wilson(counts[k - 1], total)
        if low < expected - max_drop < high:
            undecided.append(f"top-{k}")
    verdict = [f"{'PASSED' if met else 'FAILED'}: {', '.join(phrases)}; "
               f"a drop of less than {float(max_drop)} is allowed"]
    if undecided:
        verdict.append(f"inconclusive: the limit lies within the 95 % interval of {' and '.join(undecided)} "
                       f"({total} images)")
    return met, verdict


def largest_difference(text: str, other: Path) -> float:
    """Return the largest difference, in points, between the accuracies of result.json content `text` and `other`."""
    try:
        ours, theirs = ({row["key"]: float(row["value"].rstrip("%")) for row in content["value"]}
                        for content in (json.loads(text), read_json(other)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{other}: not a result.json") from error
    if not all(map(math.isfinite, theirs.values())):
        raise Failure(f"{other}: not a result.json")
    if ours.keys() != theirs.keys() or any(ours[key] != theirs[key] for key in ours if not key.startswith("Top")):
        raise Failure(f"{other}: has another number of images or classes")
    return max(round(abs(ours[key] - theirs[key]), 2) for key in ours)  # rounded: 78.40 - 78.35 is over 0.05 in binary


def agrees(difference: float, other: Path, chance=None) -> bool:
    """Return True if `difference` from the accuracies of file `other` is within AGREEMENT; print the verdict.

    chance: the p of McNemar's test, from CHANCE on a larger difference agrees too.
    """
    equal = difference <= AGREEMENT or chance is not None and chance >= CHANCE
    limit = str(AGREEMENT) if chance is None else f"{AGREEMENT}, or p >= {CHANCE}: here {chance:.2g}, McNemar"
    print(f"{'agrees' if equal else 'DISAGREES'} with {other}: largest difference {difference:.2f} points "
          f"(limit {limit})")
    return equal


def chance_of(path: Path, images: list, ranks: np.ndarray) -> float:
    """Return the lesser p of McNemar's test on top-1 and on top-5, between --details file `path` and this run."""
    others, _, theirs, *_ = read_details(path)
    order = np.argsort(np.array(images, dtype=object))
    if others != [images[i] for i in order]:
        raise Failure(f"{path}: has other images; rerun the earlier batch size")
    pairs = [(theirs <= k, ranks[order] <= k) for k in (1, TOP)]
    return min(mcnemar(int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))) for a, b in pairs)


def compare(dumps: dict, other: Path, classes: int) -> str:
    """Return a line on how `dumps` differ from the dumps of the same images in folder `other`.

    It has the number of equal top-5 and the largest difference of a value, relative to the largest magnitude.
    """
    theirs = find_dumps(other)
    if theirs.keys() != dumps.keys():
        alone = sorted(theirs.keys() ^ dumps.keys())
        raise Failure(f"{other}: has other images: {listing(alone)} on one side only")
    table, magnitudes, same = compare_all([(path, theirs[image]) for image, path in dumps.items()], classes)
    changed = [image for image, equal in zip(dumps, same) if not equal]
    largest = magnitudes.max()
    return (f"compared with {other}: same top-{TOP} on {len(dumps) - len(changed)} of {len(dumps)} images"
            f"{f' (not {listing(changed)})' if changed else ''}; "
            f"largest difference {table[:, 0].max() / largest if largest else 0.0:.1e} of the largest value")


def reference(text: str) -> str:
    """For argparse: 'published' or 'TOP1,TOP5', unchanged."""
    if text != "published":
        percentages(text)
    return text


def points(text: str) -> Fraction:
    """For argparse: percentage points, not below zero, exact."""
    value = fraction(text)
    if value < 0:
        raise ValueError
    return value


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("dumps", metavar="DUMP_DIR", type=Path)
    parser.add_argument("labels", metavar="val_label.txt", type=Path)
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="made if missing")
    parser.add_argument("name", metavar="result.json", help="file name in OUT_DIR")
    parser.add_argument("--reference", type=reference, default=None, metavar="TOP1,TOP5",
                        help="accuracies to reach, percent, e.g. 78.892,94.292; or published for these, which apply to "
                        "ImageNet's classes only")
    parser.add_argument("--max-drop", type=points, metavar="POINTS",
                        help="the drop from --reference must be less (default: 1.0)")
    parser.add_argument("--same-as", type=Path, metavar="OTHER.json",
                        help=f"fail unless this earlier result (of another batch size) is within {AGREEMENT} points")
    parser.add_argument("--flips", type=Path, metavar="OTHER.csv",
                        help="that result's --details, for int8, whose rounding flips answers: with --same-as, accept "
                        "a difference that McNemar's test ascribes to chance")
    parser.add_argument("--beside", type=Path, metavar="OTHER_DIR",
                        help="compare the values with another run's dumps of the same images (as tools/compare.py)")
    parser.add_argument("--classes", type=positive, metavar="N", help="values per dump, for .bin dumps of another "
                        "number than ImageNet's (default: what infer.py recorded)")
    parser.add_argument("--details", type=Path, metavar="OUT.csv",
                        help="write the prediction for each image, for report.py and spreadsheets")
    parser.add_argument("--allow-missing", action="store_true", help="score a partial run: labels may lack their dump")
    args = parser.parse_args()

    if args.max_drop is not None and not args.reference:
        parser.error("--max-drop needs --reference")
    if args.flips and not args.same_as:
        parser.error("--flips needs --same-as")
    if os.path.exists(args.out / args.name) and os.path.samefile(args.out / args.name, args.labels):
        parser.error(f"{args.name}: would replace the labels")
    return args


def main() -> int:
    args = parse_arguments()
    labels, dumps = read_labels(args.labels), find_dumps(args.dumps)
    missing = match(dumps, labels, "dump", ("remove stale dumps, or pass their label file",
                                            "run the benchmark again, or pass --allow-missing to score the rest"),
                    args.allow_missing)
    partial = [f"partial run: {len(missing)} of {len(labels)} labels have no dump and are not counted "
               f"({listing(missing)})"] if missing else []
    check_age(args.dumps, dumps, args.allow_missing)
    stated = values_per_dump(args.dumps, args.classes, next(iter(dumps.values())))
    counts, classes, details = score(dumps, labels, stated)
    own = [labels[image] + (classes == BACKGROUND_CLASSES) for image in dumps]
    expected = reference_of(args.reference or "", classes)
    text = result_text(counts, len(dumps), classes)
    difference = largest_difference(text, args.same_as) if args.same_as else 0.0  # before OTHER.json is overwritten
    chance = chance_of(args.flips, list(dumps), details[0]) if args.flips else None
    comparison = compare(dumps, args.beside, classes) if args.beside else None
    args.out.mkdir(parents=True, exist_ok=True)
    if args.details:
        write_details(args.details, list(dumps), own, details)
    write(args.out / args.name, text)
    print_table(counts, len(dumps), expected)
    max_drop = MAX_DROP if args.max_drop is None else args.max_drop
    met, verdict = gate(counts, len(dumps), expected, max_drop) if expected else (True, [])
    if args.reference and not expected:
        verdict = [f"NOT COMPARED with the published {model.PUBLISHED_TOP1} / {model.PUBLISHED_TOP5}, which are for "
                   f"ImageNet's {model.NUM_CLASSES} classes: this network has {classes}; pass its own with --reference"]
    for line in verdict + partial:
        print(printable(line))
    same = agrees(difference, args.same_as, chance) if args.same_as else True
    for line in doubts(counts, classes, details[1][:, 0], np.array(own)):
        print(line)
    if args.beside:
        print(printable(comparison))
    return 0 if met and same else 1


if __name__ == "__main__":
    run(main)

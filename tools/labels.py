#!/usr/bin/env python3
"""Write val_label.txt from any of the usual forms of labels.

Usage:    python3 tools/labels.py SOURCE OUT.txt [--synsets MAP] [--folders sorted|number] [--of BINS]
                  [--names NAMES.txt]
Example:  python3 tools/labels.py /data/imagenette/val val_label.txt --synsets LOC_synset_mapping.txt
          3925 labels in val_label.txt, 10 classes, from class folders

SOURCE is recognized by its content:
  lines "NAME CLASS"     val_label.txt itself
  a folder               of class folders, DIR/CLASS/IMAGE; classes count from 0 in order of the folders' names, as
                         torchvision's ImageFolder counts them (--folders number: the name is the class id)
  CSV                    a column of image names, and one of class ids or synsets; more columns or another order
                         need a header (image, label), as Kaggle's LOC_val_solution.csv has
  one number per line    ILSVRC2012_validation_ground_truth.txt of ImageNet's development kit, which orders the
                         classes differently, from 1 to 1000: needs MAP
MAP assigns classes to synsets (n01440764): the kit's meta.mat (read by scipy) or map_clsloc.txt, or
LOC_synset_mapping.txt or synset_words.txt, one line per synset. A class id is the synset's place in sorted order,
from 0, as in ImageNet's usual networks.

--of BINS keeps only the images that have a .bin in that folder.
--names NAMES.txt also writes the names of the class folders, one line per class from class 0, for report.py; with any
other SOURCE no file is written.

OUT.txt: a line "NAME CLASS" for each image in order of name, class ids from 0.
"""
import csv
import os
import re
from pathlib import Path

import _root

from common.cli import Failure, listing, parser_of, printable, run
from common.files import lines, size_of, write
from common.formats import IMAGE_SUFFIXES, bins_of, image_name, read_pairs

SYNSET = re.compile(r"n\d{8}")
IMAGENET_CLASSES, IMAGENET_IMAGES = 1000, 50_000  # of the validation set
# Names of the image and class columns in a CSV's header, in lower case, without spaces and underscores
IMAGE_COLUMNS = {"image", "imageid", "imagename", "imagepath", "img", "file", "filename", "filepath", "name", "path"}
CLASS_COLUMNS = {"class", "classid", "classindex", "label", "labelid", "target", "category", "categoryid", "synset",
                 "wnid", "predictionstring"}
MAT_LIMIT = 64 << 20  # bytes; the kit's meta.mat has about a million


def read_synsets(path: Path) -> tuple:
    """Return ({synset: class id}, {number in the development kit: class id}) of a MAP; the latter may be empty."""
    if path.suffix == ".mat":
        numbers = read_meta_mat(path)
    else:
        rows = [line.split() for _, line in lines(path) if line.strip()]
        numbers = {row[0]: int(row[1]) if re.fullmatch(r"[0-9]{1,4}", " ".join(row[1:2])) else None for row in rows}
        if not rows or len(numbers) < len(rows) or not all(SYNSET.fullmatch(name) for name in numbers):
            raise Failure(f"{path}: not a list of synsets, \"n01440764 tench\" in each line, each once")
    ids = {name: place for place, name in enumerate(sorted(numbers))}
    numbered = None not in numbers.values() and sorted(numbers.values()) == list(range(1, len(numbers) + 1))
    return ids, {number: ids[name] for name, number in numbers.items()} if numbered else {}


def read_meta_mat(path: Path) -> dict:
    """Return {synset: number} of the leaves in the development kit's meta.mat."""
    if size_of(path) > MAT_LIMIT:
        raise Failure(f"{path}: too large for ImageNet's meta.mat")
    try:
        from scipy.io import loadmat

        table = loadmat(path, squeeze_me=True)["synsets"]
        return {str(row["WNID"]): int(row["ILSVRC2012_ID"]) for row in table if int(row["num_children"]) == 0}
    except ImportError as error:
        raise Failure(f"{path}: needs scipy to be read (pip install scipy); map_clsloc.txt does not", 4) from error
    except Exception as error:  # any: a damaged file makes loadmat raise nearly every type
        raise Failure(f"{path}: not ImageNet's meta.mat ({type(error).__name__})") from error


def class_of(text: str, place: str, synsets: dict) -> int:
    """Return the id of a class written as a number or a synset; raises Failure that starts with `place`."""
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if text in synsets:
        return synsets[text]
    if SYNSET.fullmatch(text):
        raise Failure(f"{place}: {text}" + (": not in --synsets" if synsets else ": a synset; pass its class id with "
                                              "--synsets LOC_synset_mapping.txt"))
    raise Failure(f"{place}: {text[:40]!r} is neither a class id nor a synset")


def class_folders(source: Path) -> list:
    """Return the names of the class folders, in order of class."""
    return sorted(entry.name for entry in source.iterdir() if entry.is_dir())


def from_folders(source: Path, synsets: dict, folders: str) -> dict:
    """Return {image: class id} of class folders; raises Failure if their order is ambiguous."""
    names = class_folders(source)
    if not names:
        raise Failure(f"{source}: contains no class folders")
    hidden = [name for name in names if name.startswith(".")]
    if hidden:  # such as .ipynb_checkpoints, which would be class 0 and shift all others
        raise Failure(f"{source}: {listing(hidden)}: hidden folders are not classes; remove them")
    if synsets:
        ids = {name: class_of(name, str(source), synsets) for name in names}
    elif all(SYNSET.fullmatch(name) for name in names) and len(names) != IMAGENET_CLASSES:
        raise Failure(f"{source}: {len(names)} of ImageNet's {IMAGENET_CLASSES} synsets; pass their class ids with "
                      "--synsets LOC_synset_mapping.txt")
    elif folders == "number":
        ids = {name: class_of(name, str(source), {}) for name in names}
    elif folders is None and all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        raise Failure(f"{source}: folders named by numbers, which sort differently by name ({listing(names)}); write "
                      "val_label.txt with tools/labels.py and --folders sorted (by name, as torchvision's ImageFolder) "
                      "or --folders number, whichever the network was trained with")
    else:
        ids = {name: place for place, name in enumerate(names)}
    found = {}
    for name in names:
        for image in sorted(os.listdir(source / name)):
            if Path(image).suffix.lower() in IMAGE_SUFFIXES:
                if image in found:
                    raise Failure(f"{source}: {image} is in two class folders; rename one")
                found[image] = ids[name]
    return found


def from_numbers(source: Path, numbers: list, devkit: dict) -> dict:
    """Return {image: class id} of ImageNet's ground-truth file: a number of the development kit per image, in order."""
    if len(numbers) != IMAGENET_IMAGES:
        raise Failure(f"{source}: {len(numbers)} numbers; ImageNet's ground-truth file has {IMAGENET_IMAGES}")
    if not devkit:
        raise Failure(f"{source}: ImageNet's ground truth, in the development kit's order of classes; pass --synsets "
                      "with the kit's meta.mat or map_clsloc.txt")
    wrong = next((place for place, number in enumerate(numbers) if number not in devkit), None)
    if wrong is not None:
        raise Failure(f"{source}:{wrong + 1}: {numbers[wrong]} is not a class of --synsets (1 to {len(devkit)})")
    return {f"ILSVRC2012_val_{place + 1:08}.JPEG": devkit[number] for place, number in enumerate(numbers)}


def columns_of(source: Path, first: list) -> tuple:
    """Return (index of the image column, of the class column, True if the `first` row is a header) of a CSV."""
    if any(SYNSET.fullmatch(word) or word.isdecimal() for field in first[1:] for word in field.split()[:1]):
        if len(first) == 2:
            return 0, 1, False
        raise Failure(f"{source}: {len(first)} columns without a header; add one that names image and label")
    names = [field.strip().lower().replace(" ", "").replace("_", "") for field in first]
    images, classes = ([place for place, name in enumerate(names) if name in known]
                       for known in (IMAGE_COLUMNS, CLASS_COLUMNS))
    if len(images) == len(classes) == 1:
        return images[0], classes[0], True
    if len(first) == 2 and not images and not classes:
        return 0, 1, True
    raise Failure(f"{source}: ambiguous header ({listing(first, 9)}); name the columns image and label")


def from_csv(source: Path, rows: list, synsets: dict) -> dict:
    """Return {image: class id} of CSV rows, [(line number, text)], in the columns that columns_of finds."""
    found, columns = {}, None
    for number, fields in zip((number for number, _ in rows), csv.reader(text for _, text in rows)):
        if columns is None:
            columns = columns_of(source, fields)
            if columns[2]:
                continue
        if len(fields) <= max(columns[:2]):
            raise Failure(f"{source}:{number}: not \"image,class\"")
        words = fields[columns[1]].split() or [""]  # Kaggle's solution: the synset, then boxes
        name = re.split(r"[\\/]", fields[columns[0]].strip())[-1]
        if not name or name in found:
            raise Failure(f"{source}:{number}: " + (f"{name} appears twice" if name else "an image without name"))
        found[name] = class_of(words[0], f"{source}:{number}", synsets)
    return found


def read_source(source: Path, synsets: tuple, folders: str) -> tuple:
    """Return ({image: class id}, the kind of SOURCE); raises Failure naming an invalid line."""
    if source.is_dir():
        return from_folders(source, synsets[0], folders), "class folders"
    rows = [(number, line) for number, line in lines(source) if line.strip()]
    if not rows:
        raise Failure(f"{source}: empty")
    if all(re.fullmatch(r"\s*[0-9]{1,9}\s*", text) for _, text in rows):
        return from_numbers(source, [int(text) for _, text in rows], synsets[1]), "ImageNet's ground truth"
    if "," in rows[0][1]:
        try:
            return from_csv(source, rows, synsets[0]), "CSV"
        except csv.Error as error:
            raise Failure(f"{source}: not a CSV: {error}") from error
    return read_pairs(source, rows, lambda text, place: class_of(text, place, synsets[0])), "lines of name and class"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("out", metavar="OUT.txt", type=Path)
    parser.add_argument("--synsets", metavar="MAP", type=Path, help="class ids of the synsets")
    parser.add_argument("--folders", choices=("sorted", "number"), help="class ids from the sorted order of the "
                        "folders (default), or from their names")
    parser.add_argument("--names", metavar="NAMES.txt", type=Path, help="write the names of class folders")
    parser.add_argument("--of", metavar="BINS", type=Path, help="only images that have a .bin in this folder")
    args = parser.parse_args()

    labels, kind = read_source(args.source, read_synsets(args.synsets) if args.synsets else ({}, {}), args.folders)
    if args.of:
        taken = set(bins_of(args.of))
        labels = {name: label for name, label in labels.items() if image_name(name) in taken}
    if not labels:
        raise Failure(f"{args.source}: contains no image{f' that has a .bin in {args.of}' if args.of else ''}")
    blank = [name for name in labels if name.split() != [name]]
    if blank:
        raise Failure(f"{args.source}: names with white space: {listing(blank)}; rename them")
    if args.names and args.source.is_dir() and not args.synsets and args.folders != "number":
        write(args.names, "".join(f"{printable(name)}\n" for name in class_folders(args.source)))
    write(args.out, "".join(f"{name} {label}\n" for name, label in sorted(labels.items())))
    print(f"{len(labels)} labels in {args.out}, {len(set(labels.values()))} classes, from {kind}")
    return 0


if __name__ == "__main__":
    run(main)

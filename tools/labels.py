#!/usr/bin/env python3
"""Write val_label.txt from any of the usual forms of labels.

Usage:    python3 tools/labels.py SOURCE OUT.txt [--synsets MAP] [--folders sorted|number] [--network FILE.onnx]
                  [--images DIR [--limit N | --sample N [--seed S]] [--allow-missing]] [--of BINS] [--names NAMES.txt]
Example:  python3 tools/labels.py /data/imagenette/val val_label.txt --synsets LOC_synset_mapping.txt
          3925 labels in val_label.txt, 10 classes, from class folders

SOURCE is recognized by its content (docs/labels.md lists the forms):
  lines "NAME CLASS"     val_label.txt itself
  a folder               of class folders, DIR/CLASS/.../IMAGE; classes count from 0 in order of the folders' names, as
                         torchvision's ImageFolder counts them; names that are 0 to N-1 are class ids
                         (--folders number: any number is). Without class folders: images with a synset in each name
  CSV                    by comma, semicolon, tab or bar: a column of image names, and one of classes; more columns or
                         another order need a header (image, label), as Kaggle's LOC_val_solution.csv has
  JSON                   {"NAME": CLASS, ...}
  one number per line    ILSVRC2012_validation_ground_truth.txt of ImageNet's development kit, which orders the
                         classes differently, from 1 to 1000: needs MAP
MAP (--synsets or --class_list) assigns class ids to synsets (n01440764) or to names: the kit's meta.mat (read by scipy)
or map_clsloc.txt, LOC_synset_mapping.txt, a list of names in class order, "0 name" in each line, Keras' JSON index.

--network FILE.onnx: the number of classes must be the network's.
--images DIR: each image in DIR must have a label and, without --allow-missing, each label an image. With --limit or
--sample, which take the same images as those of img_preprocess.py, only their labels are written.
--of BINS keeps only the images that have a .bin in that folder.
--names NAMES.txt also writes the names of the class folders, one line per class from class 0, for report.py; with any
other SOURCE no file is written.

OUT.txt: a line "NAME CLASS" for each image in order of name, class ids from 0.
"""
import contextlib
import csv
import json
import os
import re
from pathlib import Path

import _root

from class_maps import SYNSET, read_map
from common.cli import Failure, listing, parser_of, positive, printable, run, say
from common.files import JSON_LIMIT, decoded, lines, write
from common.filetypes import look
from common.formats import CHANGED, bare, bins_of, looks_changed, match, read_pairs, whole_number
from common.images import (
    IMAGE_SUFFIXES,
    SYNSET_IN_NAME,
    class_folder,
    class_folders,
    find_images,
    image_name,
    suffix_of,
    take_some,
    without_images,
)
from common.model import BACKGROUND_CLASSES, NUM_CLASSES
from common.onnx_file import classes_of, read_onnx

IMAGENET_IMAGES = 50_000  # of the validation set
# Names of the image and class columns in a CSV's header, in lower case, without spaces and underscores
IMAGE_COLUMNS = {"image", "imageid", "imagename", "imagepath", "img", "file", "filename", "filepath", "name", "path"}
CLASS_COLUMNS = {"class", "classid", "classindex", "label", "labelid", "target", "category", "categoryid", "synset",
                 "wnid", "predictionstring"}
DELIMITERS = "\t;,|"  # the first of these in the first row; a comma beside semicolons is a decimal one


# --- classes --------------------------------------------------------------------------------------------------------

def network_classes(path) -> int:
    """Return the number of classes of an ONNX file, without ImageNet's background; None if the file does not say."""
    classes = classes_of(read_onnx(path))
    return NUM_CLASSES if classes == BACKGROUND_CLASSES else classes


def class_of(text: str, place: str, ids: dict) -> int:
    """Return the id of a class written as a number, or as a name of `ids`; raises Failure that starts with `place`."""
    try:
        return ids[text] if text in ids else whole_number(text)
    except ValueError:
        pass
    if SYNSET.fullmatch(text):
        raise Failure(f"{place}: {text}" + (": not in --synsets" if ids else ": a synset; pass its class id with "
                                              "--synsets LOC_synset_mapping.txt"))
    if looks_changed(text):
        raise Failure(f"{place}: {text[:40]!r} is not a class id ({CHANGED})")
    raise Failure(f"{place}: {text[:40]!r} is neither a class id nor a synset"
                  f"{' or name of the class list' if ids else ''}")


# --- folders --------------------------------------------------------------------------------------------------------

def from_folder(source: Path, found: tuple, ids: dict, folders: str, classes: int) -> tuple:
    """Return ({image: class id}, kind) of a folder, of which `found` is find_images'; raises Failure if it is open."""
    images, names = {image: path for image, (path, _, _) in found[0].items()}, class_folders(source)
    loose = [path for path in images.values() if not class_folder(source, path)]
    if not names or len(loose) == len(images):
        return from_names(source, list(images.values()), ids, classes), "the synsets in the images' names"
    if loose:
        raise Failure(f"{source}: {len(loose)} images are in no class folder: {listing(loose)}; move them into their "
                      "class's folder")
    ids = folder_ids(source, names, ids, folders, classes)
    empty = without_images(source, found[0])
    if empty:
        say(f"{source}: {len(empty)} class folders without an image: {listing(empty)}; each counts as a class")
    return {os.path.basename(path): ids[class_folder(source, path)] for path in images.values()}, "class folders"


def folder_ids(source: Path, names: list, ids: dict, folders: str, classes: int) -> dict:
    """Return {class folder: class id}; raises Failure that says which question is open."""
    numbers = [int(name) for name in names if re.fullmatch("[0-9]{1,9}", name)]
    if ids:
        unknown = [name for name in names if name not in ids]
        if unknown:
            raise Failure(f"{source}: {len(unknown)} folders are not in the class list: {listing(unknown)}; remove "
                          "them, or pass the list that names them")
        return {name: ids[name] for name in names}
    if folders == "number":
        return {name: class_of(name, str(source), {}) for name in names}
    if len(numbers) == len(names) and folders is None:
        return number_ids(source, names, numbers, classes)
    if all(map(SYNSET.fullmatch, names)) and classes in (None, NUM_CLASSES) and len(names) != NUM_CLASSES:
        raise Failure(f"{source}: {len(names)} of ImageNet's {NUM_CLASSES} synsets; pass their class ids with "
                      "--synsets LOC_synset_mapping.txt")
    if classes not in (None, len(names)):
        cure = "remove the folders that are no classes" if len(names) > classes else \
            "make an empty folder for each class that has no image"
        raise Failure(f"{source}: {len(names)} class folders ({listing(names)}), but the network has {classes} "
                      "classes: which folder is which class? Pass the names of all classes, in class order, with "
                      f"--class_list FILE, or {cure}")
    return {name: place for place, name in enumerate(names)}


def number_ids(source: Path, names: list, numbers: list, classes: int) -> dict:
    """Return {class folder: class id} of folders named by numbers: a gapless range from 0 or 1, otherwise Failure."""
    first, size, by_name = min(numbers), classes or len(names), numbers == sorted(numbers)
    if first not in (0, 1) or sorted(numbers) != list(range(first, first + size)) or not (classes or by_name):
        problem = "which sort differently by name" if not by_name else f"but not 0 to {size - 1}"
        raise Failure(f"{source}: {len(names)} folders named by numbers, {problem} ({listing(names)})"
                      f"{f', while the network has {classes} classes' if classes else ''}; write val_label.txt with "
                      "tools/labels.py and --folders number (the names are class ids) or --folders sorted (by name, as "
                      "torchvision's ImageFolder), whichever the network was trained with")
    if first:
        say(f"{source}: the class folders count from 1; folder 1 is taken as class 0")
    if not by_name:
        say(f"{source}: the folders' names are taken as class ids; by name ({listing(names)}), as torchvision's "
            "ImageFolder has it, they would be others (tools/labels.py --folders sorted)")
    return {name: number - first for name, number in zip(names, numbers)}


def from_names(source: Path, paths: list, ids: dict, classes: int) -> dict:
    """Return {image: class id} of images with a synset in each name, as Hugging Face's export has them."""
    synsets = {path: set(SYNSET_IN_NAME.findall(image_name(path))) for path in paths}
    unclear = [path for path, found in synsets.items() if len(found) != 1]
    if len(unclear) == len(paths):
        raise Failure(f"{source}: contains no class folders, and no images with a synset in the name; pass labels with "
                      "--labels FILE")
    if unclear:
        raise Failure(f"{source}: {len(unclear)} of {len(paths)} images have not one synset in the name: "
                      f"{listing(unclear)}; pass labels with --labels FILE")
    names = sorted(set.union(*synsets.values()))
    if not ids and len(names) != (classes or NUM_CLASSES):
        raise Failure(f"{source}: the images' names have {len(names)} of {classes or NUM_CLASSES} synsets; pass their "
                      "class ids with --synsets LOC_synset_mapping.txt")
    ids = ids or {name: place for place, name in enumerate(names)}
    say(f"{source}: no class folders; labels are the synsets in the images' names, such as {names[0]}")
    return {os.path.basename(path): class_of(*found, path, ids) for path, found in synsets.items()}


# --- text -----------------------------------------------------------------------------------------------------------

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


def delimiter_of(first: str) -> str:
    """Return the delimiter of a table by its first row, "" of lines "NAME CLASS"."""
    words = first.split()
    if len(words) == 2 and words[0][-1] not in DELIMITERS and '"' not in first and is_class(words[1]):
        return ""
    return next((mark for mark in DELIMITERS if mark in first), " " if len(words) == 2 else "")


def is_class(text: str) -> bool:
    """Return True if a field holds a class id or a synset, perhaps with boxes behind it, as Kaggle's."""
    return any(SYNSET.fullmatch(word) or re.fullmatch(r"[0-9]+([.,][0-9]*)?([eE]\+?[0-9]+)?", word)
               for word in text.split()[:1])


def columns_of(source: Path, first: list, ids: dict) -> tuple:
    """Return (index of the image column, of the class column, True if the `first` row is a header) of a table."""
    if any(is_class(field) or field in ids for field in first[1:]) or \
            suffix_of(first[0].strip()) in IMAGE_SUFFIXES:
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


def from_table(source: Path, rows: list, mark: str, ids: dict) -> dict:
    """Return {image: class id} of a CSV's rows, [(line number, text)], in the columns that columns_of finds."""
    found, images, columns = {}, set(), None
    reader = csv.reader((text for _, text in rows), delimiter=mark, skipinitialspace=True)
    for fields in reader:
        place = f"{source}:{rows[reader.line_num - 1][0]}"
        if not any(field.strip() for field in fields):
            continue  # a spreadsheet's empty row
        if columns is None:
            columns, width = columns_of(source, fields, ids), len(fields)
            if columns[2]:
                continue
        if len(fields) <= max(columns[:2]) or any(field.strip() for field in fields[width:]):
            raise Failure(f"{place}: not \"image,class\"")
        name, text = bare(fields[columns[0]].strip()), fields[columns[1]].strip()
        if not name or image_name(name) in images:
            raise Failure(f"{place}: " + (f"{name} appears twice" if name else "an image without name"))
        images.add(image_name(name))
        # Kaggle's solution: the synset, then boxes
        found[name] = class_of(text if text in ids else (text.split() or [""])[0], place, ids)
    return found


def from_text(source: Path, ids: dict, devkit: dict) -> tuple:
    """Return ({image: class id}, kind) of a text file; raises Failure naming an invalid line."""
    found = look(source)
    if found.startswith("JSON"):
        return from_json(source, ids), "JSON"
    if found and not found.startswith("text"):
        raise Failure(f"{source}: no labels, but {found}")
    rows = [(number, line) for number, line in lines(source) if line.strip()]
    mark = re.fullmatch("sep=(.)", rows[0][1].strip().strip('"')) if rows else None  # for Excel
    rows = rows[1:] if mark else rows
    if not rows:
        raise Failure(f"{source}: empty")
    if all(re.fullmatch(r"\s*[0-9]{1,9}\s*", text) for _, text in rows):
        return from_numbers(source, [int(text) for _, text in rows], devkit), "ImageNet's ground truth"
    mark = mark.group(1) if mark else delimiter_of(rows[0][1])
    if not mark:
        return read_pairs(source, rows, lambda text, place: class_of(text, place, ids)), "lines of name and class"
    try:
        return from_table(source, rows, mark, ids), "CSV"
    except csv.Error as error:
        raise Failure(f"{source}: not a CSV: {error}") from error


def from_json(source: Path, ids: dict) -> dict:
    """Return {image: class id} of JSON {"NAME": CLASS}; raises Failure on other forms."""
    try:
        content = json.loads(decoded(source, JSON_LIMIT))
        pairs = [(bare(name), str(label)) for name, label in content.items() if isinstance(label, (int, str))]
        if len(pairs) < len(content) or len({image_name(name) for name, _ in pairs}) < len(pairs):
            raise ValueError("a class that is no number or name, or an image twice")
    except (ValueError, AttributeError, RecursionError) as error:
        raise Failure(f"{source}: JSON, but not {{\"NAME.JPEG\": CLASS, ...}} ({error}); write it so, or as lines "
                      "\"NAME CLASS\"") from error
    return {name: class_of(label, str(source), ids) for name, label in pairs}


# --- all of it ------------------------------------------------------------------------------------------------------

def labels_of(source: Path, class_map=None, folders=None, classes=None, images=None, found=None, some=(0, 0, 0),
              allow_missing=False) -> tuple:
    """Return ({image: class id}, kind) of SOURCE, in order of name, checked against network and images.

    class_map: path of MAP; classes: the network's; images: the folder of the run's images, of which `some`, take_some's
    (limit, sample, seed), are run, and `found` what find_images found there. Raises Failure.
    """
    ids, devkit = read_map(class_map) if class_map else ({}, {})
    if ids and classes not in (None, len(set(ids.values()))):
        raise Failure(f"{class_map}: {len(set(ids.values()))} classes, but the network has {classes}; pass the list of "
                      "its own classes")
    if source.is_dir():
        own = found if found and os.path.samefile(source, images) else find_images(source)
        labels, kind = from_folder(source, own, ids, folders, classes)
    else:
        labels, kind = from_text(source, ids, devkit)
    if not labels:
        raise Failure(f"{source}: contains no image")
    blank = [name for name in labels if name.split() != [name]]
    if blank:
        raise Failure(f"{source}: names with white space: {listing(blank)}; rename them")
    above = [name for name, label in labels.items() if classes and label >= classes]
    if above:
        cure = "the labels count from 1: subtract 1 from each" if min(labels.values()) == 1 and \
            max(labels.values()) == classes else "pass the labels of its own classes"
        raise Failure(f"{source}: {above[0]} has class {labels[above[0]]}, but the network's {classes} classes are 0 "
                      f"to {classes - 1}; {cure}")
    if found:
        images, bad = take_some(*found, *some)
        unreadable = {image for image, _, _ in bad}  # labeled or not, img_preprocess.py reports them
        if some[0] or some[1]:
            labels = {name: label for name, label in labels.items() if image_name(name) in images.keys() | unreadable}
        labeled = dict.fromkeys(sorted({image_name(name) for name in labels} - unreadable))
        gone = match({image: path for image, (path, _, _) in images.items()}, labeled, "image", (
            "label them, or remove them",
            "add them, remove these lines, or pass --allow-missing (run_all.sh: --on-error skip)"), allow_missing)
        if gone:
            say(f"{source}: {len(gone)} of {len(labels)} labels have no image ({listing(gone)})")
    return dict(sorted(labels.items())), kind


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("source", metavar="SOURCE", type=Path)
    parser.add_argument("out", metavar="OUT.txt", type=Path)
    parser.add_argument("--synsets", "--class_list", metavar="MAP", type=Path, help="class ids of synsets or names")
    parser.add_argument("--folders", choices=("sorted", "number"), help="class ids from the sorted order of the "
                        "folders (default), or from their names")
    parser.add_argument("--network", metavar="FILE.onnx", type=Path, help="whose number of classes must fit")
    parser.add_argument("--images", metavar="DIR", type=Path, help="the images must be those that have labels")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--limit", type=positive, default=0, metavar="N", help="only the first N images of DIR")
    some.add_argument("--sample", type=positive, default=0, metavar="N", help="only N images of DIR, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="for --sample (default: %(default)s)")
    parser.add_argument("--allow-missing", action="store_true", help="labels may lack their image")
    parser.add_argument("--of", metavar="BINS", type=Path, help="only images that have a .bin in this folder")
    parser.add_argument("--names", metavar="NAMES.txt", type=Path, help="write the names of class folders")
    args = parser.parse_args()
    if not args.images and (args.limit or args.sample or args.allow_missing):
        parser.error("--limit, --sample and --allow-missing need --images")

    labels, kind = labels_of(args.source, args.synsets, args.folders,
                             network_classes(args.network) if args.network else None, args.images,
                             find_images(args.images) if args.images else None,
                             (args.limit, args.sample, args.seed), args.allow_missing)
    if args.of:
        taken = set(bins_of(args.of))
        labels = {name: label for name, label in labels.items() if image_name(name) in taken}
    if not labels:
        raise Failure(f"{args.source}: contains no image{f' that has a .bin in {args.of}' if args.of else ''}")
    names = class_folders(args.source) if kind == "class folders" and not args.synsets else []
    if args.names:
        with contextlib.suppress(FileNotFoundError):
            args.names.unlink()  # of other labels
        if not all(name.isdecimal() for name in names):
            write(args.names, "".join(f"{printable(name)}\n" for name in names))
    write(args.out, "".join(f"{name} {label}\n" for name, label in labels.items()))
    print(f"{len(labels)} labels in {args.out}, {len(set(labels.values()))} classes, from {kind}")
    return 0


if __name__ == "__main__":
    run(main)

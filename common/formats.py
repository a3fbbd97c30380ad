"""Read and write the files between the steps: manifest, info file, labels, dumps (docs/formats.md).

Imported only. Runs on the NPU host: Python 3.7; numpy is imported where a dump is parsed.
"""
import io
import os
import re
import warnings
from pathlib import Path

from common.cli import Failure, listing, say
from common.files import lines, read, read_json
from common.images import image_name, is_leftover, suffix_of

MANIFEST = "manifest.json"  # img_preprocess.py writes it next to the tensors
DUMP_SUFFIXES = (".txt", ".bin", ".npy")
DUMP_LIMIT = 16 << 20  # bytes of a dump; those of 1000 classes have about 10,000
CHANGED = "a spreadsheet may have changed it: format its column as whole numbers"
NUMBER = re.compile(r"[0-9]{1,18}")


def bins_of(folder) -> list:
    """Return the image names of the tensors in a folder, NAME.bin, in no order."""
    return [name[:-len(".bin")] for name in os.listdir(folder) if name.endswith(".bin") and not is_leftover(name)]


def read_manifest(folder):
    """Return the content of a folder's manifest.json, None without one; raises Failure if it is not a manifest."""
    path = Path(folder, MANIFEST)
    try:
        manifest = read_json(path)
        if not isinstance(manifest, dict):
            raise TypeError(type(manifest).__name__)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Failure(f"{path}: not a manifest of img_preprocess.py; use another folder") from error
    return manifest


def check_tensors(folder, om, takes: dict):
    """Raise Failure if a folder's manifest records other tensors than an om takes, {dtype, layout, aipp}.

    Equal sizes hide it: float32 CHW, uint8 CHW and uint8 HWC, of which an om reads whatever it is given.
    """
    recipe = (read_manifest(folder) or {}).get("recipe")
    if not isinstance(recipe, dict) or not takes or not {"dtype", "layout"} <= recipe.keys():
        return
    has, wants = ((one["dtype"], one["layout"]) for one in (recipe, takes))
    if has == wants:
        return
    by = "by AIPP" if takes["aipp"] else "without AIPP"
    if takes["aipp"] or wants == ("float32", "CHW"):
        kind = "with" if takes["aipp"] else "without"
        cure = f"rerun img_preprocess.py {kind} --aipp, or compile the om again"
    else:
        cure = "export the network with a float32 input in NCHW, or with one that AIPP feeds"
    raise Failure(f"{folder}: holds {has[0]} tensors, {has[1]}, but {om} takes {wants[0]}, {wants[1]}, {by}; {cure}")


# --- labels ---------------------------------------------------------------------------------------------------------

def whole_number(text: str) -> int:
    """Return a class id, also as spreadsheets write it: 65, 65.0, "65,0", 6.5E+01; raises ValueError on others.

    Three zeros after the mark may be thousands, and 1E+02 may have been 103: both are refused.
    """
    found = re.fullmatch(r"([0-9]{1,9})(?:[.,](?:0{0,2}|0{4,9}))?", text)
    if found:
        return int(found.group(1))
    found = re.fullmatch(r"([0-9])[.,]([0-9]{1,9})[eE]\+?0{0,2}([0-9])", text)
    if found:
        digits, places = found.group(2), int(found.group(3))
        if len(digits) >= places and not digits[places:].strip("0"):
            return int(found.group(1) + digits[:places])
    raise ValueError(text)


def looks_changed(text: str) -> bool:
    """Return True if a text that is no whole_number may have been one before a spreadsheet saved it."""
    return bool(re.fullmatch(r"[0-9.,]+([eE]\+?[0-9]+)?", text))


def class_id(text: str, place: str) -> int:
    """Return a class id; raises Failure that starts with `place`."""
    try:
        return whole_number(text)
    except ValueError as error:
        cure = f" ({CHANGED})" if looks_changed(text) else "; tools/labels.py converts synsets and other forms"
        raise Failure(f"{place}: {text[:40]!r} is not a class id{cure}") from error


def bare(name: str) -> str:
    """Return a name without its folder, written on whichever system."""
    return re.split(r"[\\/]", name)[-1]


def read_pairs(path, rows, class_of=class_id) -> dict:
    """Return {NAME: class id} of `rows`, (line number, "NAME CLASS") of file `path`; blank ones are skipped.

    NAME is without its folder. class_of(text, place) parses CLASS. Raises Failure, naming the line, on a malformed
    line or a duplicate image.
    """
    found, images = {}, set()
    for number, line in rows:
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise Failure(f"{path}:{number}: {line[:80]!r} is not \"NAME CLASS\"; tools/labels.py converts other forms")
        name = bare(fields[0])
        found[name] = class_of(fields[1], f"{path}:{number}")
        image = image_name(name)
        if image in images:
            raise Failure(f"{path}:{number}: {image} appears twice")
        images.add(image)
    return found


def read_labels(path) -> dict:
    """Return {image name: class id} of val_label.txt; raises Failure on a malformed line, or without a label."""
    labels = {image_name(name): label for name, label in read_pairs(path, lines(path)).items()}
    if not labels:
        raise Failure(f"{path}: contains no label")
    return labels


def match(things: dict, labels: dict, thing: str, cures: tuple, allow_missing: bool) -> list:
    """Return the images of `labels`, sorted, that are not in `things` ({image: path} of a `thing`, dump for instance).

    Raises Failure, with one of `cures`, on a thing without a label and, without `allow_missing`, the reverse.
    """
    unlabeled = [path for image, path in things.items() if image not in labels]
    if unlabeled and len(unlabeled) == len(things):
        raise Failure(f"none of the {len(things)} {thing}s has a label: {unlabeled[0]} is of image "
                      f"{next(iter(things))!r}, a label of {next(iter(labels))!r}; a line of the labels is "
                      "\"NAME.JPEG CLASS\" with the image's own name, compared up to its first dot")
    if unlabeled:
        raise Failure(f"{len(unlabeled)} of {len(things)} {thing}s have no label: {listing(unlabeled)}; {cures[0]}")
    missing = sorted(labels.keys() - things.keys())
    if missing and not allow_missing:
        raise Failure(f"{len(missing)} of {len(labels)} labels have no {thing}: {listing(missing)}; {cures[1]}")
    return missing


# --- info file ------------------------------------------------------------------------------------------------------

def info_text(rows: list) -> str:
    """Return an info file of rows (path, width, height), numbered from 0."""
    return "".join(f"{i} {path} {width} {height}\n" for i, (path, width, height) in enumerate(rows))


def read_info(path) -> list:
    """Return [(id, path, width, height)] of an info file, all text.

    Raises Failure on a malformed line, or on a duplicate id, on which the benchmark binary fails.
    """
    samples, ids = [], set()
    for number, line in lines(path):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4 or "\0" in line or not all(NUMBER.fullmatch(fields[i]) for i in (0, 2, 3)):
            raise Failure(f"{path}:{number}: not \"id path width height\"; rerun gen_dataset_info.py")
        if int(fields[0]) in ids:
            raise Failure(f"{path}:{number}: id {int(fields[0])} appears twice; rerun gen_dataset_info.py")
        ids.add(int(fields[0]))
        samples.append(tuple(fields))
    if not samples:
        raise Failure(f"{path}: contains no sample; rerun gen_dataset_info.py")
    return samples


# --- dumps ----------------------------------------------------------------------------------------------------------

def dump_of(name: str) -> tuple:
    """Return (image name, output number as text) of a dump's file name, IMAGE_1.txt for instance."""
    image, _, output = os.path.splitext(os.path.basename(name))[0].rpartition("_")
    return image_name(image), output


def find_dumps(folder: Path) -> dict:
    """Return {image name: path of its dump} sorted by image; raises Failure on two dumps for one image.

    Takes IMAGE_1 (benchmark) and IMAGE_0 (ais_bench), of DUMP_SUFFIXES, of `folder` and its folders shareRofW, or of
    the one folder in it that holds dumps, as ais_bench makes one per run.
    """
    shares = sorted(path.name for path in folder.glob("share*of*") if path.is_dir())
    found = sorted(os.path.join(share, name) for share in ["", *shares] for name in os.listdir(folder / share))
    names = [name for name in found if is_dump(name)]
    if not names:
        inner = sorted({path.parent for path in folder.glob("*/*") if is_dump(path.name)})
        if len(inner) > 1:
            raise Failure(f"{folder}: dumps of {len(inner)} runs ({listing(path.name for path in inner)}); pass the "
                          "folder of one")
        if not inner:
            raise Failure(f"{folder}: contains no dump ({', '.join(DUMP_SUFFIXES)}); run the benchmark first")
        say(f"{folder}: the dumps are in {inner[0].name}")
        return find_dumps(inner[0])
    others = [name for name in found if not is_dump(name) and image_name(name) not in shares]
    if others:  # ais_bench of 2022 writes sumary.json here
        say(f"{folder}: {len(others)} other files ignored ({listing(others)})")
    dumps, second = {}, []
    for name in names:
        path = os.path.join(folder, name)
        image, output = dump_of(name)
        if output not in ("0", "1") or not image:
            raise Failure(f"{path}: not IMAGE_1 or IMAGE_0, so a second output or not a dump; remove it")
        if image in dumps:
            if (dump_of(dumps[image])[1], output) != ("0", "1") or suffix_of(dumps[image]) != suffix_of(path):
                raise Failure(f"{dumps[image]} and {path}: two dumps for one image; remove the stale one")
            second.append(path)
            continue
        dumps[image] = path
    if second:
        raise Failure(f"{dumps[dump_of(second[0])[0]]} and {second[0]}: two dumps for one image, {len(second)} times: "
                      "remove the stale ones, or those of a second output (*_1, where ais_bench wrote *_0)")
    return dumps


def is_dump(name: str) -> bool:
    """Return True if a file's name has a dump's suffix."""
    return os.path.splitext(name)[1] in DUMP_SUFFIXES and not is_leftover(os.path.basename(name))


def parse_dump(path: str, classes=None):
    """Return one dump as a float vector, a value per class; raises Failure unless it is one line of numbers.

    .txt becomes float64. .bin (little-endian, no header) holds `classes` values of 2, 4 or 8 bytes; without `classes`
    float32 ones. .npy has its own header. NaN and infinite values pass.
    """
    import numpy as np

    data = read(path, DUMP_LIMIT)
    if path.endswith(".bin"):
        kinds = {size * classes: f"<f{size}" for size in (2, 4, 8)} if classes else {len(data) - len(data) % 4: "<f4"}
        if len(data) not in kinds:
            raise Failure(f"{path}: {len(data)} bytes are not " + (
                f"{classes} values of 2, 4 or 8 bytes; truncated, or another model's" if classes else "float32 values"))
        return np.frombuffer(data, dtype=kinds[len(data)])
    if path.endswith(".npy"):
        try:
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError) as error:
            raise Failure(f"{path}: not a NumPy array ({error})") from error
        if values.dtype.kind != "f" or values.size != max(values.shape, default=0):
            raise Failure(f"{path}: {values.dtype} {list(values.shape[:8])}; a dump is one row of floats")
        return values.ravel()
    line, newline, more = data.partition(b"\n")
    if not newline:
        raise Failure(f"{path}: truncated: its line has no end")  # perhaps within the last number
    if more.strip():
        raise Failure(f"{path}: more than one line, so not the dump of one image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns about text that it cannot parse, and returns what came before
        try:
            return np.fromstring(line, dtype=np.float64, sep=" ")
        except (DeprecationWarning, ValueError) as error:
            raise Failure(f"{path}: not one line of numbers") from error


def read_dump(path: str, classes=None):
    """Return parse_dump(path, classes); raises Failure also on NaN and infinite values."""
    import numpy as np

    values = parse_dump(path, classes)
    if not np.isfinite(values).all():
        raise Failure(f"{path}: {int((~np.isfinite(values)).sum())} values are NaN or infinite")
    return values

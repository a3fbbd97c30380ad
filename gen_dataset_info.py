#!/usr/bin/env python3
"""List tensors or photos in the info file that the benchmark binary reads.

Usage:    python3 gen_dataset_info.py bin DIR OUT.info WIDTH HEIGHT
          python3 gen_dataset_info.py jpg DIR OUT.info
Example:  python3 gen_dataset_info.py bin ./prep_dataset ./xception.info 299 299
          50000 lines in ./xception.info

bin lists DIR/*.bin: float32 tensors of 3 x HEIGHT x WIDTH, or uint8 ones (img_preprocess.py --aipp), never both.
jpg lists the JPEGs of DIR, each with its size, for -useDvpp=true.

OUT.info: text, one line per file in order of name, four fields separated by one space,
width before height, "\\n" after each line:
    0 ./prep_dataset/ILSVRC2012_val_00000001.bin 299 299
    1 ./prep_dataset/ILSVRC2012_val_00000002.bin 299 299
The path is DIR as given, joined with the name, so a relative one is valid only in the folder where
the benchmark will run.
"""
import os
from pathlib import Path

from common.cli import Failure, parser_of, positive, run
from common.files import size_of, write
from common.formats import info_text, read_manifest
from common.images import check_pillow, image_name, is_leftover, open_image, report_leftovers

KINDS = {"float32": 3 * 4, "uint8": 3}  # bytes a pixel: three channels
JPEG_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif"}  # in any case


def find(folder: str, suffixes: set) -> list:
    """Return the sorted names in `folder` with one of these suffixes; raises Failure if none, or on an invalid one.

    The benchmark splits the info file's lines at white space, and the scoring identifies an image by its name up to
    the first dot. So a name must not contain white space, and two must not share a stem.
    """
    found = sorted(name for name in os.listdir(folder) if Path(name).suffix.lower() in suffixes)
    names = [name for name in found if not is_leftover(name)]
    report_leftovers(folder, sorted(set(found) - set(names)))
    if not names:
        raise Failure(f"{folder}: contains no {' or '.join(sorted(suffixes))} file")
    if folder.split() != [folder]:
        raise Failure(f"{folder!r}: white space in the path, at which the benchmark splits it; rename the folder")
    stems = {}
    for name in names:
        if name.split() != [name]:
            raise Failure(f"{os.path.join(folder, name)!r}: white space in the name, at which the benchmark splits "
                          "it; rename the file")
        stem = image_name(name)
        if stem in stems:
            raise Failure(f"{folder}: {stems[stem]} and {name} have the same name up to the first dot; rename one")
        stems[stem] = name
    return names


def check_manifest(folder: str, count: int):
    """Return the bins' dtype as img_preprocess.py recorded it, None without a record.

    Raises Failure if img_preprocess.py did not finish, or recorded another count.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None  # bins of another tool: their size is all that can be checked
    try:
        complete, expected, dtype = manifest["complete"], manifest.get("count"), manifest["recipe"]["dtype"]
        if dtype not in KINDS:
            raise ValueError(dtype)
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{folder}/manifest.json: not a manifest of img_preprocess.py; use another folder") from error
    if not complete:
        raise Failure(f"{folder}: img_preprocess.py did not finish here; rerun it")
    if count != expected:
        raise Failure(f"{folder}: {count} .bin files, but img_preprocess.py made {expected}; rerun it")
    return dtype


def list_bins(folder: str, width: int, height: int) -> list:
    """Return (path, width, height) of each .bin in `folder`; raises Failure on one of another size."""
    names = find(folder, {".bin"})
    sizes = {name: os.stat(os.path.join(folder, name)).st_size for name in names}
    noted = check_manifest(folder, len(names))
    allowed = {width * height * pixel: kind for kind, pixel in KINDS.items() if noted in (None, kind)}
    allowed = {size: kind for size, kind in allowed.items() if size == sizes[names[0]]} or allowed
    for name, size in sizes.items():
        if size not in allowed:
            wanted = " or ".join(f"{size} (3 x {height} x {width} {kind})" for size, kind in allowed.items())
            raise Failure(f"{os.path.join(folder, name)}: {size} bytes, expected {wanted}; rerun img_preprocess.py")
    return [(os.path.join(folder, name), width, height) for name in names]


def list_jpegs(folder: str) -> list:
    """Return (path, width, height) of each JPEG in `folder`, from its header."""
    rows = []
    for name in find(folder, JPEG_SUFFIXES):
        path = os.path.join(folder, name)
        size_of(path)
        try:
            with open_image(path, ["JPEG"]) as image:
                rows.append((path, image.width, image.height))
        except Exception as error:  # any: Pillow raises nearly every type on a damaged file
            raise Failure(f"{path}: not a readable JPEG ({error or type(error).__name__})") from error
    return rows


def main() -> int:
    parser = parser_of(__doc__)
    kinds = parser.add_subparsers(dest="kind", metavar="bin|jpg", required=True)
    bins = kinds.add_parser("bin", help="DIR OUT.info WIDTH HEIGHT: list tensors")
    jpegs = kinds.add_parser("jpg", help="DIR OUT.info: list photos")
    for kind in (bins, jpegs):
        kind.add_argument("folder", metavar="DIR", help="as the benchmark will see it from where it runs")
        kind.add_argument("info", metavar="OUT.info", type=Path)
    bins.add_argument("width", metavar="WIDTH", type=positive, help="pixels")
    bins.add_argument("height", metavar="HEIGHT", type=positive, help="pixels")
    args = parser.parse_args()

    if args.kind == "jpg":
        check_pillow()
    rows = list_bins(args.folder, args.width, args.height) if args.kind == "bin" else list_jpegs(args.folder)
    write(args.info, info_text(rows))
    print(f"{len(rows)} lines in {args.info}")
    return 0


if __name__ == "__main__":
    run(main)

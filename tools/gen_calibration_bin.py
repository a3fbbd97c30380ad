#!/usr/bin/env python3
"""Make the calibration files that amct_onnx reads, from tensors of img_preprocess.py (docs/precision.md).

Usage:    python3 tools/gen_calibration_bin.py PREP_DIR DST BATCH COUNT [--labels val_label.txt] [--seed S]
Example:  python3 tools/gen_calibration_bin.py ./prep_dataset ./calibration_bin 16 1 --labels val_label.txt
          1 files of 16 tensors in calibration_bin: 16 of 45 images, of 14 classes

DST/img_bs16_0.bin, img_bs16_1.bin and so on, COUNT files: the bytes of BATCH tensors of PREP_DIR one after the other,
float32, 3 x 299 x 299 each. amct_onnx reads every file in the folder, so DST holds no others.
The images are drawn by --seed (default 0), evenly over the classes of --labels if it is given; the same ones at every
run with the same names, labels and seed.
DST.txt: a line "FILE NAME" for each image, in the order of the bytes.
"""
import contextlib
import os
import random
import re
import shutil
from pathlib import Path

import _root

from common import model
from common.cli import Failure, listing, parser_of, positive, run
from common.files import replacing, size_of, write
from common.formats import bins_of, match, read_labels
from gen_dataset_info import check_manifest

BYTES = 12 * model.SIDE ** 2  # of a tensor
NAME = re.compile(r"img_bs[0-9]+_[0-9]+\.bin")


def draw(names: list, labels, number: int, seed: int) -> list:
    """Return `number` of the sorted `names`, at random; with labels, {name: class}, as many of each class as it has."""
    generator = random.Random(seed)
    if not labels:
        return generator.sample(names, number)
    classes = {}
    for name in names:
        classes.setdefault(labels[name], []).append(name)
    queues = [generator.sample(classes[label], len(classes[label])) for label in sorted(classes)]
    generator.shuffle(queues)  # or the first classes would always have one more
    drawn = []
    while len(drawn) < number:
        queues = [queue for queue in queues if queue]
        drawn += [queue.pop() for queue in queues[:number - len(drawn)]]
    return drawn


def clear(dst: Path):
    """Remove an earlier run's files from DST; raises Failure on others, which amct_onnx would read too."""
    others = sorted(name for name in os.listdir(dst) if not NAME.fullmatch(name))
    if others:
        raise Failure(f"{dst}: holds other files ({listing(others)}), which amct_onnx would read; use an empty folder")
    for name in os.listdir(dst):
        os.unlink(dst / name)


def join(paths: list, target: Path):
    """Write the content of `paths`, one after the other, to `target`."""
    with replacing(target, sum(map(size_of, paths))) as part, open(part, "wb") as file:
        for path in paths:
            with open(path, "rb") as tensor:
                shutil.copyfileobj(tensor, file)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("prep", metavar="PREP_DIR", type=Path, help="tensors of img_preprocess.py")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder for the files, made if missing")
    parser.add_argument("batch", metavar="BATCH", type=positive, help="tensors in a file")
    parser.add_argument("count", metavar="COUNT", type=positive, help="files, amct_onnx's --batch_num")
    parser.add_argument("--labels", metavar="val_label.txt", type=Path, help="draw evenly over the classes")
    parser.add_argument("--seed", type=int, default=0, help="another draw (default: %(default)s)")
    args = parser.parse_args()

    names = sorted(bins_of(args.prep))
    number = args.batch * args.count
    if check_manifest(args.prep, len(names)) == "uint8":
        raise Failure(f"{args.prep}: holds uint8 tensors; calibration takes those of the network itself: run "
                      "img_preprocess.py without --aipp, into another folder")
    if len(names) < number:
        raise Failure(f"{args.prep}: {len(names)} tensors, fewer than {args.count} files of {args.batch}; lower BATCH "
                      "or COUNT, or make more tensors")
    paths = {name: args.prep / f"{name}.bin" for name in names}
    other = next((path for path in paths.values() if size_of(path) != BYTES), None)
    if other:
        raise Failure(f"{other}: {size_of(other):,} bytes, expected {BYTES:,} (3 x {model.SIDE} x {model.SIDE} "
                      "float32); rerun img_preprocess.py")
    labels = read_labels(args.labels) if args.labels else None
    if labels:
        match(paths, labels, "tensor", ("label them, or leave --labels out", ""), True)
    drawn = draw(names, labels, number, args.seed)
    args.dst.mkdir(parents=True, exist_ok=True)
    listed, rows = args.dst.with_name(f"{args.dst.name}.txt"), []
    with contextlib.suppress(FileNotFoundError):
        listed.unlink()  # written last: without it the folder is incomplete
    clear(args.dst)
    for place in range(args.count):
        some = drawn[place * args.batch:(place + 1) * args.batch]
        file = f"img_bs{args.batch}_{place}.bin"
        join([paths[name] for name in some], args.dst / file)
        rows += [f"{file} {name}\n" for name in some]
    write(listed, "".join(rows))
    classes = f", of {len({labels[name] for name in drawn})} classes" if labels else ""
    print(f"{args.count} files of {args.batch} tensors in {args.dst}: {number} of {len(names)} images{classes}")
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Run one photo through an om: print the five likeliest classes, and draw them in photo.html.

Usage:    python3 tools/photo.py PHOTO --om OM [--batch_size 1] [--resize 333] [--aipp] [--device_id 0]
                  [--classes NAMES.txt] [--out photo.html]
Example:  python3 tools/photo.py cat.jpg --om xception_bs1.om
          47.52 %  281 tabby
          ...
          /home/me/photo.html: cat.jpg, 27,531 bytes

It calls the suite's own steps: img_preprocess.py, gen_dataset_info.py and tools/infer.py, in a temporary folder.
NAMES.txt: as for report.py; by default classes.txt next to the om, or ImageNet's.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _root import ROOT

import charts
from common import model, runs
from common.cli import Failure, parser_of, positive, printable, run, say
from common.files import read_json, size_of
from common.formats import find_dumps, parse_dump, read_manifest
from common.stats import highest

import numpy as np

OM_START = 1 << 20  # bytes in which a host om notes demo weights


def call(script: str, *arguments, cwd):
    """Run one of the suite's scripts; show its output only if it fails."""
    # so that the tools' python3 is this one
    path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], cwd=cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PATH": path}, text=True, errors="replace", check=False)
    if done.returncode:
        for line in done.stdout.splitlines():
            say(line)
        raise Failure(f"{script} failed (see above)", done.returncode)


def make_photo(args) -> int:
    """Write photo.html: the five likeliest classes of one photo."""
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
        call("gen_dataset_info.py", "bin", "./prep_dataset", "./photo.info", model.SIDE, model.SIDE, cwd=folder)
        call("tools/infer.py", args.om.resolve(), "result/dumps", "--info=./photo.info",
             f"--batch_size={args.batch_size}", f"--device_ids={args.device_id}", cwd=folder)
        dump = next(iter(find_dumps(folder / "result/dumps").values()))
        values = np.asarray(parse_dump(dump), dtype=np.float64)
        recipe = read_manifest(folder / "prep_dataset")["recipe"]
        seen = charts.picture([folder / "prep_dataset"], recipe, "photo")
        record = read_json(folder / "result/dumps.json")
    names = runs.class_names(args.classes, args.om.parent, len(values))
    top = highest(values[np.newaxis], min(5, len(values)))[0]
    chances = np.exp(values - values.max())
    chances /= chances.sum()
    found = charts.answer(names, top, chances[top])
    if demo:
        print("Demo weights, fitted to the suite's photos: they cannot classify ImageNet.")
    for row in found:
        print(f"{100 * row['chance']:6.2f} %  {row['id']} {printable(row['name'])}")
    out = args.out or Path("photo.html")
    device = record["device"] if record["engine"] == "host" else f"device {args.device_id} ({record['engine']})"
    size = charts.write_page("photo.html", out, image=args.photo.name, om=str(args.om), picture=seen, top=found,
                             demo=demo, device=device)
    print(f"{out.resolve()}: {printable(args.photo.name)}, {size:,} bytes")
    return 0


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("photo", metavar="PHOTO", type=Path)
    parser.add_argument("--om", type=Path, required=True, help="compiled by CANN's atc or the stand-in")
    parser.add_argument("--batch_size", type=positive, default=1, help="the om's (default: %(default)s)")
    parser.add_argument("--resize", type=positive, default=model.SHORT_SIDE,
                        help="short side before the crop, pixels (default: %(default)s)")
    parser.add_argument("--aipp", action="store_true", help="for an om that takes uint8 tensors")
    parser.add_argument("--device_id", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--classes", metavar="NAMES.txt", type=Path, help="a class name per line")
    parser.add_argument("--out", metavar="PAGE.html", type=Path, help="default: photo.html")
    args = parser.parse_args()
    with charts.fonts_elsewhere():
        return make_photo(args)


if __name__ == "__main__":
    run(main)

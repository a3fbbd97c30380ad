#!/usr/bin/env python3
"""Turn a folder of images into raw tensors for the benchmark binary.

Usage:    python3 img_preprocess.py SRC DST [--resize 333] [--crop 299]
                  [--interpolation bilinear|bicubic] [--aipp] [--on-error fail|skip] [--share R/W]
                  [--limit N | --sample N [--seed 0]] [--jobs N] [--verify N]
Example:  python3 img_preprocess.py /data/imagenet/val ./prep_dataset
          50000 tensors in ./prep_dataset (50000 made, 0 kept)

--resize: 333 is the recipe of the weights' author (78.892 / 94.292 in PyTorch). The
ModelZoo port used 342 (78.35 / 94.31 on Ascend 310, 78.8 / 94.33 on 310P3).

SRC is flat or has class folders. SRC/NAME.JPEG becomes DST/NAME.bin, NAME up to its first
dot: 3 x 299 x 299 little-endian float32 (planes R, G, B; rows from the top; values
(x / 255 - 0.5) / 0.5), no header, 1,072,812 bytes. The result equals, bit for bit, that of
torchvision's Resize, CenterCrop, ToTensor and Normalize on a PIL image converted to RGB; as in
torchvision, EXIF rotation is not applied. --verify N compares N random images with torchvision.

--aipp, for an om whose AIPP normalizes on the chip (docs/formats.md): 299 x 299 x 3 uint8 (rows
from the top; R, G, B of each pixel), no header, 268,203 bytes, the output of CenterCrop.

--limit N takes the first N images in order of name, --sample N takes N at random, the same ones
for the same seed and names: a quick look, in a separate folder.

--share R/W takes share R (from 0) of W: the images for which CRC-32 of NAME modulo W is R,
whatever else is in the folder (docs/multi-chip.md).

A .bin is complete or absent and carries its image's modification time, so an interrupted run
resumes and a changed image is processed again. DST/manifest.json records the recipe; bins of
another recipe are removed first.

Unreadable images are listed with reasons after all others are done: exit 3. With --on-error skip
the list goes to DST/skipped.txt (PATH, tab, reason) and the exit status is 0; pass --allow-missing
to the scoring then. Images that libjpeg reads with warnings are accepted, as in torchvision.
"""
import argparse
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import random
import re
import warnings
import zlib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from common import model
from common.cli import Failure, listing, parser_of, positive, printable, progress, run, say
from common.files import free_space, hold, replacing, write
from common.formats import MANIFEST, bins_of, read_manifest
from common.images import (
    check_pillow,
    eight_bits,
    find_images,
    is_deep,
    open_image,
    reason_of,
    take_some,
    without_images,
)
from common.jobs import start_worker, workers

import numpy as np
import PIL
from PIL import Image, features

CHUNK = 16  # images handed to a worker at a time: about 0.1 s of work
PIXEL_LIMIT = 89_478_485  # of an image, read or resized: Pillow's own limit, 256 MiB of RGB
SKIPPED = "skipped.txt"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
MALLOC_KEEPS = 32 << 20  # bytes: the most that glibc takes for M_MMAP_THRESHOLD; an image of 11 million pixels, as RGB

# float32 value of each byte: the same three float32 operations, in the same order, as ToTensor and Normalize
TABLE = (np.arange(256, dtype="<f4") / np.float32(255) - np.float32(model.MEAN)) / np.float32(model.STD)


def resized_size(width: int, height: int, short_side: int) -> tuple:
    """Return (width, height) in pixels after torchvision's Resize(short_side): the long side is rounded down."""
    short, long = sorted((width, height))
    new_long = int(short_side * long / short)
    return (short_side, new_long) if width <= height else (new_long, short_side)


def load_crop(path: Path, recipe: dict) -> tuple:
    """Decode, resize and crop one image: uint8 (crop, crop, 3), RGB, as torchvision's Resize and CenterCrop.

    Returns it, and whether it had more than 8 bits and so was scaled. Raises whatever Pillow raises on an unreadable
    file, and ValueError beyond PIXEL_LIMIT.
    """
    resample = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[recipe["interpolation"]]
    with open_image(path) as image:
        size = resized_size(image.width, image.height, recipe["resize"])
        if max(image.width * image.height, size[0] * size[1]) > PIXEL_LIMIT:
            raise ValueError(f"{image.width}x{image.height} is over the limit of {PIXEL_LIMIT} pixels, read or resized")
        tile = getattr(image, "tag_v2", {})
        if tile.get(322, 0) * tile.get(323, 0) > PIXEL_LIMIT:  # TileWidth and TileLength of a TIFF
            raise ValueError(f"a tile of {tile[322]}x{tile[323]} is over the limit of {PIXEL_LIMIT} pixels")
        # In one call: with box, or height and width apart (Pillow 13 may take either first), some bits would differ
        resized, scaled = decode(image, path).resize(size, resample), is_deep(image)
    left, top = (int(round((side - recipe["crop"]) / 2.0)) for side in size)
    return np.asarray(resized.crop((left, top, left + recipe["crop"], top + recipe["crop"]))), scaled


def decode(image, path: Path):
    """Return Pillow's `image` of `path` as RGB; its pixels are libjpeg-turbo's, if Pillow or OpenCV has that."""
    if opencv_decodes() and image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        image.load()  # raises on a damaged file, which OpenCV would complete in gray
        cv2 = opencv()
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None or pixels.shape != (image.height, image.width, 3):
            raise ValueError("OpenCV cannot decode it")
        return Image.fromarray(pixels[:, :, ::-1])
    if is_deep(image):
        image = eight_bits(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=None)
def opencv():
    """Return the module cv2, or None where it cannot be imported (servers often lack its libGL)."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)  # the workers use the cores
    return cv2


@functools.lru_cache(maxsize=None)
def pillow_turbo() -> str:
    """Return the version of Pillow's libjpeg-turbo, "" if it has another libjpeg, as older wheels have."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of releases that do not know the feature
            return (features.version("libjpeg_turbo") or "?") if features.check("libjpeg_turbo") else ""
    except ValueError:  # of older ones
        return ""


@functools.lru_cache(maxsize=None)
def opencv_turbo() -> str:
    """Return the version of OpenCV's libjpeg-turbo, "" if it has none."""
    found = opencv() and re.search(r"^ +JPEG: .*libjpeg-turbo \(ver ([0-9.]+)", opencv().getBuildInformation(), re.M)
    return found.group(1) if found else ""


def opencv_decodes() -> bool:
    """Return True if JPEGs are decoded by OpenCV: torchvision's pixels come from libjpeg-turbo, which Pillow lacks."""
    return not pillow_turbo() and bool(opencv_turbo())


def decoder() -> str:
    """Return the library and version that decodes JPEGs, for the manifest."""
    turbo = pillow_turbo() or opencv_turbo()
    return f"libjpeg-turbo {turbo}" if turbo else f"libjpeg of Pillow {PIL.__version__}"


def normalize(crop: np.ndarray) -> np.ndarray:
    """Return (x / 255 - 0.5) / 0.5, uint8 (H, W, 3) -> float32 (3, H, W), as ToTensor and Normalize of torchvision."""
    planes = np.ascontiguousarray(crop.transpose(2, 0, 1))
    if opencv() is None:
        return TABLE.take(planes)
    return opencv().LUT(planes.reshape(-1, crop.shape[1]), TABLE).reshape(planes.shape)


def start_decoder():
    """Set up a worker: keep freed memory, and silence Pillow's warnings about unusual files."""
    start_worker()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # Reuse an image's memory for the next one: returning it to the kernel and fetching it page by page took a
        # third of the time
        libc.mallopt(M_MMAP_THRESHOLD, MALLOC_KEEPS)
        libc.mallopt(M_TRIM_THRESHOLD, MALLOC_KEEPS)
    warnings.simplefilter("ignore")


def make_bin(task: tuple, dst: Path, recipe: dict):
    """Write one image's .bin; return True if its bits were scaled, or (name, path, reason) if unreadable.

    Raises disk errors.
    """
    name, source, mtime_ns = task
    try:
        crop, scaled = load_crop(source, recipe)
        tensor = crop if recipe["dtype"] == "uint8" else normalize(crop)
    except Exception as error:  # any: Pillow's decoders raise nearly every type on a damaged file
        return name, source, reason_of(error, source)
    with replacing(dst / f"{name}.bin", tensor.nbytes, lasting=False) as part:
        part.write_bytes(tensor)
        os.utime(part, ns=(mtime_ns, mtime_ns))
    return scaled


def take_share(images: dict, bad: list, share: tuple) -> tuple:
    """Return those of `images` and `bad` that belong to share (r, w); raises Failure if it is empty."""
    def ours(name):
        return zlib.crc32(os.fsencode(name)) % share[1] == share[0]

    taken = {name: image for name, image in images.items() if ours(name)}
    if images and not taken:
        raise Failure(f"share {share[0]} of {share[1]} holds none of the {len(images)} images; use fewer shares")
    return taken, [image for image in bad if ours(image[0])]


def prepare_target(dst: Path, images: dict, wanted: dict) -> set:
    """Prepare DST for `wanted` (recipe and source); return the names whose .bin is up to date.

    Removes and reports bins of another recipe or source, and of removed images; also removes the partial files of a
    killed run. Raises Failure if DST holds bins that this script did not make.
    """
    remove_parts(dst)
    found = bins_of(dst)
    manifest = read_manifest(dst) or {}
    if found and not {"recipe", "source", "bytes"} <= manifest.keys():
        raise Failure(f"{dst}: holds {len(found)} .bin files but no {MANIFEST} of this script, so they were not made "
                      "here; use an empty folder")
    same = all(manifest.get(key) == value for key, value in wanted.items())
    size = wanted["bytes"]
    kept = set()
    for name in found:
        status = os.stat(dst / f"{name}.bin")
        current = name in images and images[name][2] == status.st_mtime_ns and status.st_size == size
        if same and current:
            kept.add(name)
        else:
            os.unlink(dst / f"{name}.bin")
    if len(kept) < len(found):
        reason = "of changed or removed images" if same else "of another recipe, source or decoder"
        say(f"{dst}: {len(found) - len(kept)} bins {reason} removed")
    write(dst / MANIFEST, json.dumps(dict(wanted, complete=False), indent=1) + "\n")
    return kept


def remove_parts(dst: Path):
    """Remove partially written bins; DST is locked, so no other process is writing them."""
    for name in os.listdir(dst):
        if name.endswith(".bin.part"):
            os.unlink(dst / name)


def check_space(dst: Path, count: int, size: int):
    """Raise Failure if `count` files of `size` bytes do not fit on the disk of DST."""
    block = os.statvfs(dst).f_frsize
    needed, free = count * -(-size // block) * block, free_space(dst)
    if needed > free:
        raise Failure(f"{dst}: {count} tensors need {needed:,} bytes, but only {free:,} are free on its disk; free "
                      "space, or use another folder (--aipp needs a quarter)", 4)


def preprocess(images: dict, dst: Path, names: list, recipe: dict, jobs: int) -> list:
    """Write DST/NAME.bin for each of `names`; return the unreadable ones, [(name, path, reason)], in order of name."""
    tasks = [(name, images[name][0], images[name][2]) for name in names]
    bad, scaled = [], 0
    jobs = min(jobs, -(-len(tasks) // CHUNK)) or 1
    try:
        with workers(jobs, start_decoder) as executor, progress(len(tasks), "images") as advance:
            results = executor.map(functools.partial(make_bin, dst=dst, recipe=recipe), tasks, chunksize=CHUNK)
            for result in results:
                advance()
                if isinstance(result, tuple):
                    bad.append(result)
                else:
                    scaled += result
    except BrokenProcessPool as error:
        raise Failure("a worker process died (out of memory?); rerun with fewer --jobs", 4) from error
    finally:
        remove_parts(dst)  # left by workers that were killed
    if scaled:
        say(f"{scaled} images of 16 bits or of floats were scaled to 8 bits by their full range (docs/formats.md)")
    return bad


def verify(images: dict, dst: Path, recipe: dict, count: int):
    """Compare `count` random bins with torchvision's tensors of the same images, bit for bit; raises Failure."""
    try:
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode
    except ImportError as error:
        raise Failure(f"--verify needs torchvision ({error}); the tensors are done, only unverified", 4) from error

    steps = [transforms.Resize(recipe["resize"], interpolation=InterpolationMode(recipe["interpolation"])),
             transforms.CenterCrop(recipe["crop"])]
    if recipe["dtype"] == "float32":
        steps += [transforms.ToTensor(), transforms.Normalize([model.MEAN] * 3, [model.STD] * 3)]
    reference = transforms.Compose(steps)
    drawn, scaled = random.sample(sorted(images), min(count, len(images))), 0
    for name in drawn:
        with open_image(images[name][0]) as image:
            if is_deep(image):
                scaled += 1
                continue
            expected = np.asarray(reference(decode(image, images[name][0]))).ravel()
        actual = np.fromfile(dst / f"{name}.bin", dtype=expected.dtype)
        bits = f"u{expected.itemsize}"  # compared as integers: 0.0 and -0.0 differ in their bits
        different = int((actual.view(bits) != expected.view(bits)).sum()) if actual.size == expected.size else "all"
        if different:
            raise Failure(f"{dst / name}.bin: {different} of {expected.size} values differ from torchvision's", 1)
    print(f"{len(drawn) - scaled} of {len(images)} tensors compared with torchvision: every bit equal"
          f"{f'; {scaled} left out, of 16 bits or floats, which it clips' if scaled else ''}")


def share_of(text: str) -> tuple:
    """For argparse: '1/4' -> (1, 4)."""
    r, w = (int(part) for part in text.split("/"))
    if not 0 <= r < w:
        raise ValueError
    return r, w


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("src", metavar="SRC", type=Path, help="folder of images, flat or with class folders")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder for the .bin files, made if missing")
    parser.add_argument("--resize", type=positive, default=model.SHORT_SIDE, help="short side before the crop, pixels "
                        f"(default: %(default)s; the ModelZoo port used {model.PORT_SHORT_SIDE})")
    parser.add_argument("--crop", type=positive, default=model.SIDE, help="pixels (default: %(default)s)")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear",
                        help="default: %(default)s, as torchvision's Resize")
    parser.add_argument("--aipp", action="store_true", help="uint8 HWC bins, for an om compiled with xception_aipp.cfg")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", dest="on_error",
                        help=f"on unreadable images: exit with 3 (default), or list them in DST/{SKIPPED} and exit 0")
    parser.add_argument("--share", type=share_of, default=(0, 1), metavar="R/W", help="only share R (from 0) of W")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--limit", type=positive, default=0, metavar="N", help="only the first N images")
    some.add_argument("--sample", type=positive, default=0, metavar="N", help="only N images, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="for --sample (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=len(os.sched_getaffinity(0)),
                        help="worker processes (default: the cores this process may use, here %(default)s)")
    parser.add_argument("--verify", type=positive, metavar="N",
                        help="afterwards compare N random tensors with torchvision's (needs torchvision)")
    args = parser.parse_args()
    if args.resize < args.crop:
        parser.error(f"--resize {args.resize} is smaller than --crop {args.crop}: the crop would run over the edge")
    return args


def report_bad(args, bad: list, total: int):
    """Print the unreadable images, [(name, path, reason)]; then raise Failure, or list them in a file (skip)."""
    with contextlib.suppress(FileNotFoundError):
        (args.dst / SKIPPED).unlink()
    if not bad:
        return
    bad = sorted(bad, key=lambda image: image[1])
    for _, path, reason in bad:
        say(f"{path}: {reason}")
    if args.on_error == "fail":
        raise Failure(f"{len(bad)} of {total} images are unreadable (listed above); fix or remove them and "
                      "rerun, or pass --on-error skip")
    if len(bad) == total:
        raise Failure(f"{args.src}: all {total} images are unreadable (listed above)")
    write(args.dst / SKIPPED, "".join(f"{printable(path)}\t{printable(reason)}\n" for _, path, reason in bad))
    say(f"{len(bad)} of {total} images were left out and are listed in {args.dst / SKIPPED}; score with "
        "--allow-missing")


def main() -> int:
    args = parse_arguments()
    check_pillow()
    if not args.src.is_dir():
        raise Failure(f"{args.src}: no such folder")
    found, bad = find_images(args.src)
    empty = without_images(args.src, found)
    if empty:
        say(f"{args.src}: {len(empty)} folders without a readable image: {listing(empty)}")
    images, bad = take_share(*take_some(found, bad, args.limit, args.sample, args.seed), args.share)
    recipe = {"resize": args.resize, "crop": args.crop, "interpolation": args.interpolation,
              "dtype": "uint8", "layout": "HWC"}
    if not args.aipp:
        recipe.update(dtype="float32", layout="CHW", mean=model.MEAN, std=model.STD)
    size = 3 * args.crop * args.crop * np.dtype(recipe["dtype"]).itemsize
    wanted = {"recipe": recipe, "bytes": size, "source": str(args.src.resolve()), "decoder": decoder()}
    args.dst.mkdir(parents=True, exist_ok=True)
    lock = hold(args.dst / ".lock", args.dst)  # noqa: F841 (until this function returns)
    kept = prepare_target(args.dst, images, wanted)
    todo = [name for name in images if name not in kept]
    if todo and "turbo" not in decoder():
        say("warning: neither Pillow nor OpenCV has libjpeg-turbo, from which torchvision's pixels come: most JPEGs "
            "will differ, by up to 34 of 255 levels; install opencv-python or a newer Pillow (docs/formats.md)")
    elif todo and opencv() is None:
        say("OpenCV cannot be imported (is libGL missing?); numpy is used instead: same result, slightly slower")
    check_space(args.dst, len(todo), size)
    total = len(images) + len(bad)
    if todo:
        bad += preprocess(images, args.dst, todo, recipe, args.jobs)
    report_bad(args, bad, total)
    for name, _, _ in bad:
        images.pop(name, None)
        found.pop(name, None)
    lost = sorted(set(without_images(args.src, found)) - set(empty))
    if lost:
        say(f"{args.src}: {len(lost)} folders of which no image could be read: {listing(lost)}")
    digest = hashlib.sha256()
    for name, (_, size, mtime_ns) in images.items():
        digest.update(f"{name} {size} {mtime_ns}\n".encode(errors="surrogateescape"))
    write(args.dst / MANIFEST, json.dumps(dict(wanted, complete=True, count=len(images),
                                               listing_sha256=digest.hexdigest()), indent=1) + "\n")
    print(f"{len(images)} tensors in {args.dst} ({len(images) - len(kept)} made, {len(kept)} kept)")
    if args.verify:
        verify(images, args.dst, recipe, args.verify)
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Turn a folder of images into raw tensors for the benchmark binary.

Usage:    python3 img_preprocess.py SRC DST [--resize 333] [--crop 299]
                  [--interpolation bilinear|bicubic] [--aipp] [--share R/W] [--jobs N] [--verify N]
Example:  python3 img_preprocess.py /data/imagenet/val ./prep_dataset
          50000 tensors in ./prep_dataset (50000 made, 0 kept)

--resize: 333 is the recipe of the weights' author (78.892 / 94.292 in PyTorch). The
ModelZoo port used 342 (78.35 / 94.31 on Ascend 310, 78.8 / 94.33 on 310P3).

SRC is flat or has class folders. SRC/NAME.JPEG becomes DST/NAME.bin, NAME up to its first
dot: 3 x 299 x 299 little-endian float32 (planes R, G, B; rows from the top; values
(x / 255 - 0.5) / 0.5), no header, 1,072,812 bytes. The bits are those that torchvision's
Resize, CenterCrop, ToTensor and Normalize give on a PIL image converted to RGB; like
torchvision, EXIF rotation is not applied. --verify N proves it on N images drawn at random.

With --aipp, for an om whose AIPP normalises on the chip (README 4): 299 x 299 x 3 uint8 (rows from
the top; R, G, B of each pixel), no header, 268,203 bytes: what CenterCrop gives.

--share R/W takes share R (from 0) of W: the images for which CRC-32 of NAME modulo W is R, whatever
else is in the folder (README 5.2).

A .bin is complete or absent and carries its image's modification time; so a run that was
interrupted goes on where it stopped, and a changed image is done again. DST/manifest.json
tells the recipe; bins of another recipe are removed first. Bad images are listed with
reasons after all good ones are done: exit 3.
"""
import argparse
import ctypes
import functools
import hashlib
import json
import os
import random
import stat
import warnings
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common import Failure, listing, replacing, run, say, start_worker, write

SHORT_SIDE = 333  # pixels before the crop (tstandley/Xception-PyTorch, xception.py); the ModelZoo port used 342
CROP_SIDE = 299  # pixels, the network's input (same file)
MEAN = STD = 0.5  # per channel, on a scale of 0 to 1 (same file)
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
CHUNK = 16  # images handed to a worker at a time: about 0.1 s of work
PIXEL_LIMIT = 89_478_485  # of an image, read or resized: Pillow's own limit, 256 MiB of RGB
MANIFEST = "manifest.json"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
MALLOC_KEEPS = 32 << 20  # bytes: the most that glibc takes for M_MMAP_THRESHOLD; an image of 11 million pixels, as RGB

# float32 value of each byte: the same three float32 operations, in the same order, as ToTensor and Normalize
TABLE = (np.arange(256, dtype="<f4") / np.float32(255) - np.float32(MEAN)) / np.float32(STD)


def resized_size(width: int, height: int, short_side: int) -> tuple:
    """(width, height) in pixels after torchvision's Resize(short_side): the long side is rounded down."""
    short, long = sorted((width, height))
    new_long = int(short_side * long / short)
    return (short_side, new_long) if width <= height else (new_long, short_side)


def load_crop(path: Path, recipe: dict) -> np.ndarray:
    """Decode, resize and crop one image: uint8 (crop, crop, 3), RGB, as torchvision's Resize and CenterCrop.

    Raises whatever Pillow raises on a file that it cannot read, ValueError on one beyond PIXEL_LIMIT.
    """
    resample = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[recipe["interpolation"]]
    with Image.open(path) as image:
        size = resized_size(image.width, image.height, recipe["resize"])
        if max(image.width * image.height, size[0] * size[1]) > PIXEL_LIMIT:
            raise ValueError(f"{image.width}x{image.height} is over the limit of {PIXEL_LIMIT} pixels, read or resized")
        # In one call: with box, or height and width apart (Pillow 13 may take either first), some bits would differ
        resized = (image if image.mode == "RGB" else image.convert("RGB")).resize(size, resample)
    left, top = (int(round((side - recipe["crop"]) / 2.0)) for side in size)
    return np.asarray(resized.crop((left, top, left + recipe["crop"], top + recipe["crop"])))


@functools.lru_cache(maxsize=None)
def fast_lookup():
    """cv2.LUT, or None where OpenCV cannot be imported (servers often lack its libGL)."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)  # the workers use the cores
    return cv2.LUT


def normalise(crop: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 (3, H, W), (x / 255 - 0.5) / 0.5, as torchvision's ToTensor and Normalize."""
    planes = np.ascontiguousarray(crop.transpose(2, 0, 1))
    lookup = fast_lookup()
    if lookup is None:
        return TABLE.take(planes)
    return lookup(planes.reshape(-1, crop.shape[1]), TABLE).reshape(planes.shape)


def start_decoder():
    """In a worker: keep freed memory; Pillow's remarks on odd files are not for the user."""
    start_worker()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # An image's memory is kept for the next one: given back to the kernel and fetched anew, page by page, it
        # took a third of the time
        libc.mallopt(M_MMAP_THRESHOLD, MALLOC_KEEPS)
        libc.mallopt(M_TRIM_THRESHOLD, MALLOC_KEEPS)
    warnings.simplefilter("ignore")


def make_bin(task: tuple, dst: Path, recipe: dict):
    """Write one image's .bin; return None, or the reason why the image is bad. Disk errors are raised."""
    name, source, mtime_ns = task
    try:
        crop = load_crop(source, recipe)
        tensor = crop if recipe["dtype"] == "uint8" else normalise(crop)
    except Exception as error:  # any: Pillow's decoders raise nearly every type on a damaged file
        return f"{source}: {error or type(error).__name__}"
    with replacing(dst / f"{name}.bin") as part:
        part.write_bytes(tensor)
        os.utime(part, ns=(mtime_ns, mtime_ns))
    return None


def reraise(error: OSError):
    """For os.walk, which would pass over a folder that it cannot read."""
    raise error


def find_images(src: Path) -> dict:
    """{output name: (path, bytes, mtime in ns)} of the images below `src`, in order of output name.

    Raises Failure if there is none, if two would share an output name, or if a name
    holds white space, at which the benchmark binary would cut it.
    """
    images, others = {}, []
    for folder, folders, names in os.walk(src, onerror=reraise):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in names + linked:
            path = os.path.join(folder, name)
            if os.path.splitext(name)[1].lower() not in SUFFIXES:
                others.append(path)
                continue
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise Failure(f"{path}: not a regular file: remove it from the folder")
            stem = name.split(".")[0]
            if not stem or stem.split() != [stem]:
                raise Failure(f"{path}: a name with white space, or none before the first dot: rename it")
            if stem in images:
                pair = sorted((images[stem][0], path))
                raise Failure(f"{pair[0]} and {pair[1]} would both become {stem}.bin: rename one")
            images[stem] = (path, status.st_size, status.st_mtime_ns)
    if others:
        say(f"{src}: {len(others)} other files ignored ({listing(sorted(others))})")
    if not images:
        raise Failure(f"{src}: no image in it ({' '.join(sorted(SUFFIXES))})")
    return dict(sorted(images.items()))


def take_share(images: dict, share: tuple) -> dict:
    """Those of `images` that belong to share (r, w); raises Failure if none does."""
    r, w = share
    taken = {name: image for name, image in images.items() if zlib.crc32(os.fsencode(name)) % w == r}
    if not taken:
        raise Failure(f"share {r} of {w} holds none of the {len(images)} images: use fewer shares")
    return taken


def read_manifest(dst: Path) -> dict:
    """What an earlier run left in DST/manifest.json; empty if there is none."""
    try:
        manifest = json.loads((dst / MANIFEST).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Failure(f"{dst / MANIFEST}: not a manifest of img_preprocess.py ({error}): use another folder") from error
    return manifest if isinstance(manifest, dict) else {}


def prepare_target(dst: Path, images: dict, wanted: dict) -> set:
    """Make DST fit for `wanted` (recipe and source); return the names whose .bin is there and right.

    Removes bins of another recipe or source, and of images that are gone, and says so.
    Raises Failure if DST holds bins that this script did not make.
    """
    dst.mkdir(parents=True, exist_ok=True)
    found = [name[:-len(".bin")] for name in os.listdir(dst) if name.endswith(".bin")]
    manifest = read_manifest(dst)
    if found and not manifest:
        raise Failure(f"{dst}: holds {len(found)} .bin files but no {MANIFEST}: not made here; use an empty folder")
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
        reason = "of changed or removed images" if same else "of another recipe or source"
        say(f"{dst}: {len(found) - len(kept)} bins {reason} removed")
    write(dst / MANIFEST, json.dumps(dict(wanted, complete=False), indent=1) + "\n")
    return kept


def preprocess(images: dict, dst: Path, names: list, recipe: dict, jobs: int) -> list:
    """Write DST/NAME.bin for each of `names`; return the reasons of those that are bad, in name order."""
    tasks = [(name, images[name][0], images[name][2]) for name in names]
    bad = []
    jobs = min(jobs, -(-len(tasks) // CHUNK)) or 1
    with ProcessPoolExecutor(jobs, initializer=start_decoder) as executor:
        results = executor.map(functools.partial(make_bin, dst=dst, recipe=recipe), tasks, chunksize=CHUNK)
        try:
            for reason in tqdm(results, total=len(tasks), unit="img", disable=None):  # None: only on a terminal
                if reason is not None:
                    bad.append(reason)
        except BrokenProcessPool as error:
            raise Failure("a worker process died (out of memory?): run again, with fewer --jobs", 4) from error
        finally:
            results.close()  # cancels what has not begun, so that an interrupt ends the run at once
    return bad


def verify(images: dict, dst: Path, recipe: dict, count: int):
    """Compare `count` bins, drawn at random, with what torchvision makes of their images, bit for bit."""
    try:
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode
    except ImportError as error:
        raise Failure(f"--verify needs torchvision ({error}); the tensors are done, only unverified", 4) from error

    steps = [transforms.Resize(recipe["resize"], interpolation=InterpolationMode(recipe["interpolation"])),
             transforms.CenterCrop(recipe["crop"])]
    if recipe["dtype"] == "float32":
        steps += [transforms.ToTensor(), transforms.Normalize([MEAN] * 3, [STD] * 3)]
    reference = transforms.Compose(steps)
    drawn = random.sample(sorted(images), min(count, len(images)))
    for name in drawn:
        with Image.open(images[name][0]) as image:
            expected = np.asarray(reference(image.convert("RGB"))).ravel()
        actual = np.fromfile(dst / f"{name}.bin", dtype=expected.dtype)
        bits = f"u{expected.itemsize}"  # compared as whole numbers: 0.0 and -0.0 are not the same bits
        different = int((actual.view(bits) != expected.view(bits)).sum()) if actual.size == expected.size else "all"
        if different:
            raise Failure(f"{dst / name}.bin: {different} of {expected.size} values differ from torchvision's", 1)
    print(f"{len(drawn)} of {len(images)} tensors compared with torchvision: every bit equal")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def share_of(text: str) -> tuple:
    """'1/4' -> (1, 4)."""
    r, w = (int(part) for part in text.split("/"))
    if not 0 <= r < w:
        raise ValueError
    return r, w


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="folder of images, flat or with class folders")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder for the .bin files, made if missing")
    parser.add_argument("--resize", type=positive, default=SHORT_SIDE,
                        help="short side before the crop, pixels (default: %(default)s; the ModelZoo port used 342)")
    parser.add_argument("--crop", type=positive, default=CROP_SIDE, help="pixels (default: %(default)s)")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear",
                        help="default: %(default)s, as torchvision's Resize")
    parser.add_argument("--aipp", action="store_true", help="uint8 HWC bins, for an om compiled with xception_aipp.cfg")
    parser.add_argument("--share", type=share_of, default=(0, 1), metavar="R/W", help="only share R (from 0) of W")
    parser.add_argument("--jobs", type=positive, default=len(os.sched_getaffinity(0)),
                        help="worker processes (default: the cores this process may use, here %(default)s)")
    parser.add_argument("--verify", type=positive, metavar="N",
                        help="afterwards compare N random tensors with torchvision's (needs torchvision)")
    args = parser.parse_args()
    if args.resize < args.crop:
        parser.error(f"--resize {args.resize} is smaller than --crop {args.crop}: the crop would run over the edge")
    return args


def main() -> int:
    args = parse_arguments()
    if not args.src.is_dir():
        raise Failure(f"{args.src}: no such folder")
    images = take_share(find_images(args.src), args.share)
    recipe = {"resize": args.resize, "crop": args.crop, "interpolation": args.interpolation,
              "dtype": "uint8", "layout": "HWC"}
    if not args.aipp:
        recipe.update(dtype="float32", layout="CHW", mean=MEAN, std=STD)
    size = 3 * args.crop * args.crop * np.dtype(recipe["dtype"]).itemsize
    wanted = {"recipe": recipe, "bytes": size, "source": str(args.src.resolve())}
    kept = prepare_target(args.dst, images, wanted)
    todo = [name for name in images if name not in kept]
    if todo and fast_lookup() is None:
        say("OpenCV cannot be imported (is libGL missing?): Pillow and numpy make the same bits, a little slower")
    bad = preprocess(images, args.dst, todo, recipe, args.jobs) if todo else []
    if bad:
        for reason in bad:
            say(reason)
        raise Failure(f"{len(bad)} of {len(images)} images are bad, named above; the others are done. "
                      "Mend or remove them and run again")
    digest = hashlib.sha256()
    for name, (_, size, mtime_ns) in images.items():
        digest.update(f"{name} {size} {mtime_ns}\n".encode(errors="surrogateescape"))
    write(args.dst / MANIFEST, json.dumps(dict(wanted, complete=True, count=len(images),
                                               listing_sha256=digest.hexdigest()), indent=1) + "\n")
    print(f"{len(images)} tensors in {args.dst} ({len(todo)} made, {len(kept)} kept)")
    if args.verify:
        verify(images, args.dst, recipe, args.verify)
    return 0


if __name__ == "__main__":
    run(main)

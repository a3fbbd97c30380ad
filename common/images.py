"""Find and open the images of a data set: which files are images, and which folders are classes. Imported only.

Runs on the NPU host: Python 3.7; Pillow is imported where an image is opened.
"""
import os
import random
import re
import stat
from pathlib import Path

from common.cli import Failure, listing, need, say
from common.filetypes import AGAIN, CONVERT, look

IMAGE_SUFFIXES = {".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}  # in any case
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")  # not EPS: Pillow would start Ghostscript
OLDEST_PILLOW = "7.2"  # the guide's; older ones were not run
NAME_LIMIT = 255 - len("_1.txt.part")  # bytes: the longest file name, less what later steps append
SYNSET_IN_NAME = re.compile(r"(?:^|[_.-])(n[0-9]{8})(?=[_.-]|$)")  # ILSVRC2012_val_00000001_n01440764.JPEG

# What systems and tools leave in folders, in lower case, x for a number at the end. So are names that begin with a
# dot: .ipynb_checkpoints, .DS_Store, ._x.jpg, .Trash-1000, .snapshot, .git
LEFTOVERS = {
    "__macosx", "icon\r", "desktop db", "desktop df", "network trash folder", "temporary items",  # macOS, its archives
    "thevolumesettingsfolder", "thefindbycontentfolder",
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler", "recycled",  # Windows
    "system volume information", "found.x", "msocache",
    "@eadir", "@tmp", "@sharebin", "@database", "@download", "@img_bkp_cache", "#recycle", "#snapshot",  # Synology
    "@recycle", "@recently-snapshot", "@transcode", "@__thumb", "~snapshot", "trashbox",  # QNAP, NetApp, Buffalo
    "paxheader", "paxheaders", "paxheaders.x", "lost+found", "__pycache__",  # tar, Linux, Python
}


def is_leftover(name: str) -> bool:
    """Return True if a file or folder is neither an image nor a class: a hidden one, or one of LEFTOVERS."""
    return name.startswith((".", "~$")) or re.sub(r"(?<=\.)[0-9]+$", "x", name.lower()) in LEFTOVERS


def report_leftovers(folder, names: list):
    """Say in one line what is_leftover found in a folder."""
    if names:
        say(f"{folder}: {len(names)} hidden or system entries skipped ({listing(sorted(names))})")


def image_name(path) -> str:
    """Return the name that identifies an image in all steps: its file name up to the first dot."""
    return os.path.basename(path).split(".")[0]


def suffix_of(path) -> str:
    """Return a file's suffix in lower case."""
    return os.path.splitext(path)[1].lower()


# --- finding --------------------------------------------------------------------------------------------------------

def is_folder(entry) -> bool:
    """Return True if a directory entry is a folder or a link to one."""
    try:  # a link named as an image is listed as an unreadable one
        return entry.is_dir() and not (entry.is_symlink() and suffix_of(entry.name) in IMAGE_SUFFIXES)
    except OSError:  # a link in a circle
        return False


def class_folders(source) -> list:
    """Return the names of the folders in `source` that are classes, in order of name, also without an image."""
    with os.scandir(source) as entries:
        return sorted(entry.name for entry in entries if is_folder(entry) and not is_leftover(entry.name))


def class_folder(source, path) -> str:
    """Return the class folder of an image below `source`, at any depth in it; "" if it is in none."""
    first, _, rest = os.path.relpath(path, source).partition(os.sep)
    return first if rest else ""


def find_files(source) -> list:
    """Return the paths of all files below `source`, sorted; says what is_leftover found, which is not entered.

    Links to folders are followed. Raises Failure on one that leads to a folder of this tree or above it.
    """
    files, leftovers, folders, seen = [], [], [os.fspath(source)], {}
    for above in Path(os.path.realpath(source)).parents:  # a link to one of them would lead back here
        status = os.stat(above)
        seen[status.st_dev, status.st_ino] = str(above)
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        other = seen.setdefault((status.st_dev, status.st_ino), folder)
        if other != folder:
            raise Failure(f"{folder}: a link to {other}, whose images would count twice; remove it")
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = leftovers if is_leftover(entry.name) else folders if is_folder(entry) else files
                kind.append(entry.path)
    report_leftovers(source, leftovers)
    return sorted(files)


def find_images(src) -> tuple:
    """Return the images below `src`, {output name: (path, bytes, mtime in ns)} in order of name, and the bad ones.

    The bad ones, [(output name, path, reason)], are not regular files, or have a name that breaks a later step.
    Raises Failure if there is no image, or if two would share an output name.
    """
    images, bad, others = {}, [], []
    for path in find_files(src):
        if suffix_of(path) not in IMAGE_SUFFIXES:
            others.append(path)
            continue
        stem, reason, status = image_name(path), None, None
        try:
            status = os.stat(path)
        except OSError as error:  # a link in a circle, or to nothing
            reason = error.strerror
        if status and not stat.S_ISREG(status.st_mode):
            reason = "not a regular file"
        elif stem.split() != [stem]:  # the benchmark binary would cut it there
            reason = "a name with white space; rename it"
        elif len(os.fsencode(stem)) > NAME_LIMIT:
            reason = f"a name of more than {NAME_LIMIT} bytes before the first dot; rename it"
        if reason:
            bad.append((stem, path, reason))
            continue
        if stem in images:
            pair = sorted((images[stem][0], path))
            raise Failure(f"{pair[0]} and {pair[1]} would both become {stem}.bin; rename one")
        images[stem] = (path, status.st_size, status.st_mtime_ns)
    if others:
        say(f"{src}: {len(others)} other files ignored ({listing(others)})")
    if not images and not bad:
        raise Failure(f"{src}: contains no image ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return dict(sorted(images.items())), bad


def without_images(src, images: dict) -> list:
    """Return the class folders below `src` that hold none of `images` (of find_images)."""
    return sorted(set(class_folders(src)) - {class_folder(src, image[0]) for image in images.values()})


def take_some(images: dict, bad: list, limit: int, sample: int, seed: int) -> tuple:
    """Return the first `limit` or a random `sample` of `images` and `bad`, in their form; 0: all of them."""
    names = sorted(images.keys() | {name for name, _, _ in bad})
    if max(limit, sample) > len(names):
        raise Failure(f"there are {len(names)} images, fewer than the {max(limit, sample)} asked for")
    if sample:
        names = random.Random(seed).sample(names, sample)
    taken = set(names[:limit] if limit else names)
    return ({name: image for name, image in images.items() if name in taken},
            [image for image in bad if image[0] in taken])


# --- opening --------------------------------------------------------------------------------------------------------

def check_pillow():
    """Raise Failure (status 4) if Pillow is too old, before each image is reported as unreadable."""
    import PIL

    need("Pillow", PIL.__version__, OLDEST_PILLOW, "install requirements.txt")


def open_image(path, formats=IMAGE_FORMATS):
    """Return Pillow's image of `path`, of which only the header is read.

    Raises whatever Pillow raises on an unreadable file, and ValueError if it has none of `formats`.
    """
    import PIL
    from PIL import Image

    if int(PIL.__version__.split(".")[0]) >= 8:
        return Image.open(path, formats=formats)
    image = Image.open(path)  # without `formats`; nothing is decoded yet
    if image.format not in (*formats, "MPO"):  # several JPEGs in one file; Pillow takes it for a JPEG
        image.close()
        raise ValueError(f"cannot read image format {image.format}")
    return image


def is_deep(image) -> bool:
    """Return True if Pillow's `image` has one channel of more than 8 bits, which convert("RGB") would clip to white."""
    return image.mode == "F" or image.mode.startswith("I")


def eight_bits(image):
    """Return a deep image of Pillow's as 8-bit gray, mode L: the picture that the file shows.

    Whole numbers are scaled by the file's range, 0 to 2^bits - 1, floats from 0 to 1 by 255, rounded to the nearest.
    Raises ValueError if the file has no such range.
    """
    import numpy as np
    from PIL import Image

    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 BitsPerSample, 262 PhotometricInterpretation, 339 SampleFormat
    bits, sign = (int(np.ravel(tags.get(tag, usual))[0]) for tag, usual in ((258, 16), (339, 1)))
    values = np.asarray(image)
    if image.mode == "F":
        if not ((values >= 0) & (values <= 1)).all():  # also NaN
            raise ValueError(f"floats from {values.min():.4g} to {values.max():.4g}: only 0 to 1 are a defined range "
                             "of brightness; convert it to 8 bits")
        values = values.astype(np.float64) * 255
    elif bits > 16 or sign != 1:
        raise ValueError(f"{bits}-bit {'signed ' if sign == 2 else ''}whole numbers, which have no defined range of "
                         "brightness; convert it to 8 bits")
    else:
        values = values * (255.0 / (2 ** bits - 1))
    values = np.floor(values + 0.5).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - values if tags.get(262) == 0 else values)  # 0: WhiteIsZero


def reason_of(error: Exception, path) -> str:
    """Return why an image cannot be read, with a cure where its first bytes show one, without its path."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        found = look(path)
        if found[2:] in IMAGE_FORMATS:  # "a JPEG"
            return f"{found} that cannot be read; {AGAIN}, or convert it"
        return found or f"in none of the formats that are read: {', '.join(IMAGE_FORMATS)}; {CONVERT}"
    text = str(error) or type(error).__name__
    return text.replace(f": {os.fspath(path)!r}", "").replace(os.fspath(path), "it")

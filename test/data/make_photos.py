"""Make the demo photos: 45 crops of 14 public-domain or CC0 photos, in the shape of the ImageNet validation set.

The finished files are in the repository, nothing needs this script to run. It records
how they were made, and makes them again: the same bytes with the same Pillow (13.0.0
and the libjpeg-turbo of its wheel). No number in it is random: each crop is a line of
CROPS below.

The source files, put into one folder:
  pip download --no-deps scikit-image==0.26.0      unzip, from skimage/data/:
      camera.png  chelsea.png  coffee.png
  apt-get download gcompris-qt-data (3.1-2)        dpkg-deb -x, from usr/share/gcompris-qt/rcc/:
      categorization.rcc  erase.rcc  explore_monuments.rcc  explore_world_animals.rcc
Who took each photo and under which licence it is: README.md beside this file.

Usage:    python test/data/make_photos.py SOURCES OUT
Example:  python test/data/make_photos.py sources test/data/imagenet
prints:   45 photos of 14 subjects, 2375953 bytes, in test/data/imagenet/val
          labels in test/data/imagenet/val_label.txt
"""
import argparse
import hashlib
import io
import struct
from pathlib import Path

from PIL import Image, ImageCms

# subject: (ImageNet class index 0..999, file, Qt resource file that holds it or None, sha256 of the file)
SUBJECTS = {
    "bison": (347, "bison.webp", "explore_world_animals.rcc",
              "11f3b2c5b876ee083924ff3ffab233c3e1d161993605b67d4d2ab5a9f1d9cf25"),
    "bucket": (463, "bucket.webp", "categorization.rcc",
               "671363d9d02c12768fa8374287c9a4c175dbf1549481586339274609d1219579"),
    "camera": (872, "camera.png", None,
               "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
    "castle": (483, "chateaudeChambord.webp", "explore_monuments.rcc",
               "a96693bfff66c9a747a066b8d798aaf876427de969603c4125bf881f8af0ac2d"),
    "cat": (281, "chelsea.png", None,
            "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "coffee": (967, "coffee.png", None,
               "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "crab": (119, "crab.webp", "erase.rcc",
             "822be2d08adc89a71e6eeff1500eea684c6f0961c98ddb1b23f0e66bbae4f987"),
    "jaguar": (290, "jaguar.webp", "explore_world_animals.rcc",
               "22704727b6643480c62487ffb2d9fd618a3f499dde84b1eb789d4b0b11477e85"),
    "koala": (105, "koala.webp", "explore_world_animals.rcc",
              "77b243c27d79f3f5706497af5c1e8e9134f87d634def2b81e2074b572b575d18"),
    "lemur": (383, "lemur.webp", "explore_world_animals.rcc",
              "4fccf91dd5e6a749d9eb621f982e6a0d7072830db91ba0daabcd86b1de7a9747"),
    "macaw": (88, "scarlet_macaw.webp", "explore_world_animals.rcc",
              "8b088ed71a87e7e929cf08b49a1e1c977c47544307d348e52a0f4a85128662a0"),
    "panda": (388, "panda.webp", "explore_world_animals.rcc",
              "70ccf9a9db5008100eb6955ae25fabd4f7769427be784d627cf6315f6dfce692"),
    "red_panda": (387, "red_panda.webp", "erase.rcc",
                  "ec755f7b9d8953037161a7cf4f01270fdc92382913b33d987ceb27c1dfa6ded1"),
    "viaduct": (888, "pontduGard.webp", "explore_monuments.rcc",
                "b9e560a9ae2fd919baec7f5ceb08877d57194e614481b25058693a88c232897f"),
}

# One line per file: subject, number, the crop's centre (fraction of the source's width and
# height; moved inward where the crop would reach over the edge), source pixels per pixel of
# the file, the file's width and height in pixels, JPEG quality, chroma subsampling, speciality.
# A grey JPEG has no chroma, and Pillow's CMYK JPEG does not subsample: None.
CROPS = [
    ("bison", 1, 0.46, 0.42, 1.90, 500, 375, 88, "4:2:0", ""),
    ("bison", 2, 0.55, 0.50, 1.40, 640, 480, 75, "4:2:0", ""),
    ("bison", 3, 0.48, 0.42, 1.75, 375, 420, 86, "4:2:0", ""),
    ("bucket", 1, 0.50, 0.50, 1.00, 245, 320, 90, "4:4:4", ""),
    ("bucket", 2, 0.50, 0.65, 1.10, 200, 260, 85, "4:2:0", ""),
    ("bucket", 3, 0.45, 0.70, 1.05, 223, 231, 90, "4:4:4", ""),
    ("camera", 1, 0.50, 0.30, 1.00, 500, 375, 90, None, ""),
    ("camera", 2, 0.60, 0.50, 1.00, 375, 500, 90, None, ""),
    ("camera", 3, 0.55, 0.55, 1.15, 400, 400, 86, None, ""),
    ("camera", 4, 0.60, 0.75, 1.05, 480, 360, 90, None, "progressive"),
    ("castle", 1, 0.50, 0.40, 2.00, 500, 375, 90, "4:2:0", ""),
    ("castle", 2, 0.40, 0.40, 1.60, 500, 333, 90, "4:4:4", "progressive"),
    ("castle", 3, 0.55, 0.45, 1.50, 640, 427, 90, "4:2:0", ""),
    ("cat", 1, 0.50, 0.50, 0.90, 500, 333, 90, "4:4:4", ""),
    ("cat", 2, 0.40, 0.50, 1.00, 400, 300, 90, "4:4:4", ""),
    ("cat", 3, 0.52, 0.50, 1.20, 250, 250, 83, "4:2:0", ""),
    ("cat", 4, 0.60, 0.55, 0.80, 375, 350, 86, "4:2:0", ""),
    ("coffee", 1, 0.45, 0.50, 1.05, 500, 375, 90, "4:2:0", ""),
    ("coffee", 2, 0.55, 0.50, 1.15, 500, 333, 90, "4:4:4", ""),
    ("coffee", 3, 0.42, 0.45, 1.00, 375, 375, 86, "4:4:4", ""),
    ("coffee", 4, 0.48, 0.50, 0.80, 375, 500, 90, "4:2:0", "orientation 6"),
    ("crab", 1, 0.49, 0.50, 2.80, 500, 375, 90, "4:4:4", "ICC profile"),
    ("crab", 2, 0.50, 0.52, 2.75, 640, 360, 82, "4:2:0", ""),
    ("crab", 3, 0.50, 0.50, 2.20, 501, 377, 86, "4:2:0", ""),
    ("jaguar", 1, 0.50, 0.50, 1.75, 500, 375, 75, "4:2:0", ""),
    ("jaguar", 2, 0.48, 0.52, 1.90, 500, 334, 86, "4:2:0", ""),
    ("jaguar", 3, 0.47, 0.48, 1.35, 400, 505, 86, "4:2:0", ""),
    ("koala", 1, 0.50, 0.55, 2.00, 375, 500, 86, "4:4:4", ""),
    ("koala", 2, 0.50, 0.60, 1.80, 333, 500, 75, "4:2:0", ""),
    ("koala", 3, 0.52, 0.50, 1.40, 500, 480, 86, "4:2:0", ""),
    ("lemur", 1, 0.55, 0.50, 1.80, 500, 375, 86, "4:4:4", ""),
    ("lemur", 2, 0.50, 0.50, 2.00, 500, 333, 90, "4:2:0", ""),
    ("lemur", 3, 0.48, 0.55, 1.60, 426, 341, 83, "4:4:4", ""),
    ("macaw", 1, 0.60, 0.50, 1.90, 500, 375, 90, "4:4:4", ""),
    ("macaw", 2, 0.50, 0.50, 1.55, 375, 500, 90, "4:2:0", ""),
    ("macaw", 3, 0.52, 0.45, 1.60, 427, 427, 90, None, "CMYK"),
    ("panda", 1, 0.50, 0.50, 1.80, 500, 375, 90, "4:4:4", ""),
    ("panda", 2, 0.55, 0.48, 1.70, 500, 332, 90, "4:4:4", ""),
    ("panda", 3, 0.48, 0.48, 1.70, 389, 389, 86, "4:2:0", ""),
    ("red_panda", 1, 0.58, 0.50, 2.80, 500, 375, 90, "4:4:4", ""),
    ("red_panda", 2, 0.62, 0.48, 2.20, 640, 480, 86, "4:2:0", ""),
    ("red_panda", 3, 0.58, 0.50, 2.00, 480, 500, 90, "4:2:0", ""),
    ("viaduct", 1, 0.45, 0.45, 1.80, 500, 375, 86, "4:2:0", ""),
    ("viaduct", 2, 0.60, 0.42, 1.60, 500, 333, 84, "4:2:0", ""),
    ("viaduct", 3, 0.50, 0.45, 1.70, 600, 345, 80, "4:2:0", ""),
]

RCC_NODE = ">IHHHIQ"  # Qt resource file version 3: name offset, flags, language, country, data offset, time
RCC_FLAGS = 0x07  # a node's flags: compressed, directory, compressed with zstd; 0: a file kept as it is
EXIF_ORIENTATION = 0x0112  # EXIF 2.3, table 4
ICC_DATE = slice(24, 36)  # ICC.1:2010, table 17: date and time in the profile header


def read_resources(path: Path) -> dict:
    """Return {file name: content} of the files kept uncompressed in a Qt resource file."""
    content = path.read_bytes()
    magic, version, tree, data, names = struct.unpack(">4s4I", content[:20])
    if magic != b"qres" or version != 3:
        raise SystemExit(f"{path}: not a Qt resource file of version 3")
    files = {}
    for name, flags, _, _, start, _ in struct.iter_unpack(RCC_NODE, content[tree:]):
        if flags & RCC_FLAGS == 0:
            length, = struct.unpack_from(">H", content, names + name)  # UTF-16 characters, after them 4 bytes of hash
            text = content[names + name + 6:names + name + 6 + 2 * length].decode("utf-16-be")
            size, = struct.unpack_from(">I", content, data + start)
            files[text] = content[data + start + 4:data + start + 4 + size]
    return files


def crop(photo: Image.Image, x: float, y: float, zoom: float, width: int, height: int) -> Image.Image:
    """Cut zoom * (width, height) pixels around the fraction (x, y) of the photo, resized to (width, height)."""
    box_width, box_height = width * zoom, height * zoom
    if box_width > photo.width + 1 or box_height > photo.height + 1:
        raise SystemExit(f"crop of {box_width:.0f} x {box_height:.0f} from a photo of {photo.size}")
    left = min(max(x * photo.width - box_width / 2, 0), max(photo.width - box_width, 0))
    top = min(max(y * photo.height - box_height / 2, 0), max(photo.height - box_height, 0))
    box = (left, top, min(left + box_width, photo.width), min(top + box_height, photo.height))
    return photo.resize((width, height), Image.Resampling.LANCZOS, box=box)


def srgb_profile() -> bytes:
    """Return the sRGB profile of Little CMS, with a fixed date so that it is the same on every run."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[ICC_DATE] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="folder with the source files named above")
    parser.add_argument("out", type=Path, help="folder for val/ and val_label.txt")
    arguments = parser.parse_args()

    photos = {}
    for subject, (_, name, resources, sha256) in SUBJECTS.items():
        if resources:
            content = read_resources(arguments.sources / resources)[name]
        else:
            content = (arguments.sources / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SystemExit(f"{name} is not the file that the photos were made from: sha256 differs")
        photo = Image.open(io.BytesIO(content))
        photo.load()
        photo.info.clear()  # no metadata of the source goes into the crops
        photos[subject] = photo

    folder = arguments.out / "val"
    folder.mkdir(parents=True, exist_ok=True)
    labels = {}
    for subject, number, x, y, zoom, width, height, quality, subsampling, speciality in CROPS:
        image = crop(photos[subject], x, y, zoom, width, height)
        options = {"quality": quality, "optimize": True}
        if subsampling:
            options["subsampling"] = subsampling
        if speciality == "progressive":
            options["progressive"] = True
        if speciality == "CMYK":
            image = image.convert("CMYK")
        if speciality == "ICC profile":
            options["icc_profile"] = srgb_profile()
        if speciality == "orientation 6":
            # As from a camera held upright: the picture lies on its side in the file,
            # the tag asks the viewer to turn it 90 degrees clockwise.
            image = image.transpose(Image.Transpose.ROTATE_90)
            exif = Image.Exif()
            exif[EXIF_ORIENTATION] = 6
            options["exif"] = exif
        name = f"{subject}_{number}.JPEG"
        image.save(folder / name, "JPEG", **options)
        labels[name] = SUBJECTS[subject][0]

    label_file = arguments.out / "val_label.txt"
    label_file.write_text("".join(f"{name} {labels[name]}\n" for name in sorted(labels)), newline="\n")
    size = sum((folder / name).stat().st_size for name in labels)
    print(f"{len(labels)} photos of {len(SUBJECTS)} subjects, {size} bytes, in {folder}")
    print(f"labels in {label_file}")


if __name__ == "__main__":
    main()

"""How img_preprocess.py treats each kind of image that a data set may hold.

CASES is the table. One run with --on-error skip reads all files: one is GOOD (its bin equals torchvision's output bit
for bit), or it is listed as unreadable with the text given here.
"""
import io
import os
import struct
import subprocess
import sys
import zlib

from conftest import SUITE, run
from test_img_preprocess import noise, reference

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

SCRIPT = SUITE / "img_preprocess.py"
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
SIDES = (30, 24)  # pixels, of the images and of their crops
GOOD = "good"
LONG_NAME = "n" * 239


def encoded(image=None, kind="JPEG", **options) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    (image or noise("RGB", 60, 50)).save(file, kind, **options)
    return file.getvalue()


def cut(data: bytes, share: float) -> bytes:
    return data[:int(len(data) * share)]


def with_bad_huffman_data() -> bytes:
    """A JPEG whose scan is random from the middle on; libjpeg warns and continues."""
    data = bytearray(encoded(quality=90))
    scan = data.index(b"\xff\xda") + 14
    middle = (scan + len(data)) // 2
    data[middle:-2] = np.random.default_rng(0).integers(0, 255, len(data) - 2 - middle, dtype=np.uint8).tobytes()
    return bytes(data)


def without_huffman_tables() -> bytes:
    """A JPEG whose Huffman tables are overwritten, so that no code can be decoded."""
    data = bytearray(encoded())
    table = data.index(b"\xff\xc4") + 5
    data[table:table + 16] = b"\xff" * 16
    return bytes(data)


def adobe(mode: str, transform: int) -> bytes:
    """A four-channel JPEG with an Adobe marker: 0 is CMYK, 2 is YCCK; values are inverted, as Photoshop writes them."""
    data = encoded(noise(mode, 60, 50))
    marker = data.index(b"Adobe")
    return data[:marker + 11] + bytes([transform]) + data[marker + 12:]


def without_adobe_marker() -> bytes:
    data = encoded(noise("CMYK", 60, 50))
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2:start + 4])[0]
    return data[:start] + data[start + 2 + length:]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


def jpeg_header(width: int, height: int) -> bytes:
    data = encoded()
    frame = data.index(b"\xff\xc0")
    return data[:frame + 5] + struct.pack(">HH", height, width) + data[frame + 9:]


def transparent_palette() -> bytes:
    return encoded(noise("P", 60, 50), "PNG", transparency=bytes(range(256)))


def animated(kind: str) -> bytes:
    frames = [noise("RGB", 60, 50, seed) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(exif=exif)


def with_text_bomb() -> bytes:
    """A PNG whose comment of some kilobytes grows to 100 MB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 100_000_000, zip=True)
    return encoded(kind="PNG", pnginfo=info)


def with_many_segments() -> bytes:
    """A JPEG with 20 MB of application data before its image."""
    data = encoded()
    return data[:2] + (b"\xff\xe5\xff\xff" + b"\0" * 65533) * 320 + data[2:]


def tiff(values, photometric=1, sample_format=1, bits=None, order="<") -> bytes:
    """An uncompressed gray TIFF of these values, its tags written one by one; 12 bits are packed."""
    height, width = values.shape
    bits = bits or values.dtype.itemsize * 8
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255],
                        axis=1).astype("u1").tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
            (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]
    packed = b"".join(struct.pack(f"{order}HHI", tag, kind, 1) + (struct.pack(f"{order}HH", value, 0) if kind == 3 else
                                                                  struct.pack(f"{order}I", value))
                      for tag, kind, value in tags)
    start = b"II*\0" if order == "<" else b"MM\0*"
    start += struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + packed + bytes(4)


RAMP = np.linspace(0, 65535, 60 * 50).reshape(50, 60).astype("u2")  # as 8 bits: RAMP_8
RAMP_8 = np.array([[(2 * int(value) + 257) // 514 for value in row] for row in RAMP], "u1")  # to the nearest
DEEP = {  # name: the file; each shows RAMP_8
    "png": encoded(Image.fromarray(RAMP), "PNG"), "tif": encoded(Image.fromarray(RAMP), "TIFF"),
    "float.tif": encoded(Image.fromarray((RAMP / 65535).astype("f4")), "TIFF"), "big_endian.tif": tiff(RAMP, order=">"),
    "white_is_0.tif": tiff(65535 - RAMP, photometric=0), "12_bits.tif": tiff(RAMP // 16, bits=12),
}


def test_more_than_8_bits_show_the_picture_that_the_file_shows(tmp_path):
    twelve = np.floor(RAMP // 16 * (255 / 4095) + 0.5).astype("u1")
    (tmp_path / "src").mkdir()
    (tmp_path / "right").mkdir()
    (tmp_path / "src/other.JPEG").write_bytes(encoded())
    for kind, data in DEEP.items():
        name = kind.replace(".", "_")
        (tmp_path / f"src/{name}.{kind[-3:]}").write_bytes(data)
        expected = Image.fromarray(twelve if "12" in kind else RAMP_8)
        (tmp_path / f"right/{name}.png").write_bytes(encoded(expected, "PNG"))
    words = ["--resize=30", "--crop=24"]
    done = run(sys.executable, SCRIPT, "src", "dst", "--verify=9", *words, cwd=tmp_path)
    assert f"{len(DEEP)} images of 16 bits or of floats were scaled to 8 bits" in done.stderr
    assert f"1 of {len(DEEP) + 1} tensors compared with torchvision: every bit equal; {len(DEEP)} left" in done.stdout
    run(sys.executable, SCRIPT, "right", "expected", *words, cwd=tmp_path)
    for path in (tmp_path / "expected").glob("*.bin"):
        assert (tmp_path / "dst" / path.name).read_bytes() == path.read_bytes(), path.name


ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 50\n(TRACE) (w) file closefile showpage\n%%EOF\n"
CASES = {  # name: (content, or a function of the path that makes it; the answer)
    # no image, or part of one
    "empty.JPEG": (b"", "empty; download or copy it again"),
    "text.JPEG": (b"404 Not Found\n", "text ('404 Not Found\\n'...); download or copy it again"),
    "start_only.JPEG": (b"\xff\xd8\xff", "a JPEG that cannot be read; download or copy it again"),
    "lfs.JPEG": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "run: git lfs pull"),
    "page.png": (b"<html><body>404</body></html>", "a web page, as a failed download leaves it"),
    "heic.JPEG": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC, which Pillow cannot read; convert it to JPEG or PNG"),
    "avif.jpg": (b"\0\0\0\x18ftypavif" + bytes(100), "AVIF, which Pillow cannot read; convert it to JPEG or PNG"),
    "drawing.png": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG drawing; convert it to JPEG or PNG"),
    "cut_in_header.JPEG": (encoded()[:100], ""),
    "cut_50.JPEG": (cut(encoded(noise("RGB", 300, 200)), 0.5), "truncated"),
    "cut_progressive.JPEG": (cut(encoded(noise("RGB", 300, 200), progressive=True), 0.5), "truncated"),
    "cut.png": (cut(encoded(kind="PNG"), 0.5), "truncated"),
    "cut.gif": (cut(encoded(noise("P", 60, 50), "GIF"), 0.5), "truncated"),
    "cut.webp": (cut(encoded(kind="WEBP"), 0.5), ""),
    "cut.bmp": (cut(encoded(kind="BMP"), 0.5), "truncated"),
    "cut.tif": (cut(encoded(kind="TIFF"), 0.5), ""),
    "bad_huffman_data.JPEG": (with_bad_huffman_data(), GOOD),
    "bad_huffman_tables.JPEG": (without_huffman_tables(), "broken data stream"),
    "postscript.JPEG": (POSTSCRIPT, "text ('%!PS-Adobe"),
    # an image of another format than its name says
    "a_png.JPEG": (encoded(kind="PNG"), GOOD),
    "a_jpeg.png": (encoded(), GOOD),
    "a_webp.bmp": (encoded(kind="WEBP"), GOOD),
    # sizes
    "1x1.JPEG": (encoded(noise("RGB", 1, 1)), GOOD),
    "1x65500.JPEG": (encoded(noise("RGB", 1, 65_500)), GOOD),
    "10000x1.png": (encoded(noise("RGB", 10_000, 1), "PNG"), GOOD),
    "200000x1.png": (encoded(noise("RGB", 200_000, 1), "PNG"), "over the limit of"),
    "20000x20000.png": (png_header(20_000, 20_000), "decompression bomb"),
    "20000x20000.JPEG": (jpeg_header(20_000, 20_000), "decompression bomb"),
    "9500x9500.png": (png_header(9_500, 9_500), "over the limit of 89478485 pixels"),
    "0x5.png": (png_header(0, 5), ""),
    # colors
    "cmyk.JPEG": (without_adobe_marker(), GOOD),
    "cmyk_inverted.JPEG": (adobe("CMYK", 0), GOOD),
    "ycck.JPEG": (adobe("CMYK", 2), GOOD),
    "grey.JPEG": (encoded(noise("L", 60, 50)), GOOD),
    "one_bit.png": (encoded(noise("1", 60, 50), "PNG"), GOOD),
    "palette_transparent.png": (transparent_palette(), GOOD),
    "grey_alpha.png": (encoded(noise("LA", 60, 50), "PNG"), GOOD),
    "rgba.png": (encoded(noise("RGBA", 60, 50), "PNG"), GOOD),
    "32_bit.tif": (tiff(RAMP.astype("u4")), "32-bit whole numbers, which have no defined range of brightness"),
    "signed.tif": (tiff(RAMP.astype("i4"), sample_format=2), "32-bit signed whole numbers, which have no de"),
    "signed_16.tif": (tiff(RAMP.astype("i2"), sample_format=2), "16-bit signed whole numbers, which have no defined"),
    "float_255.tif": (tiff((RAMP / 257).astype("f4"), sample_format=3), "floats from 0 to 255: only 0 to 1 are a"),
    "double.tif": (tiff(RAMP / 65535, sample_format=3), "a TIFF that cannot be read; download or copy"),
    "nan.tif": (tiff(np.full((9, 9), np.nan, "f4"), sample_format=3), "floats from nan to nan: only 0 to 1 are"),
    "icc.JPEG": (encoded(icc_profile=ICC), GOOD),
    # animations: the first frame
    "animated.gif": (animated("GIF"), GOOD),
    "animated.webp": (animated("WEBP"), GOOD),
    "exif_6.JPEG": (rotated(6), GOOD),
    "progressive.JPEG": (encoded(progressive=True), GOOD),
    # metadata
    "many_segments.JPEG": (with_many_segments(), GOOD),
    "text_bomb.png": (with_text_bomb(), "too large"),
    # names
    "with space.JPEG": (encoded(), "a name with white space"),
    "tab\there.JPEG": (encoded(), "a name with white space"),
    "new\nline.JPEG": (encoded(), "a name with white space"),
    "quote'd\"$(id)`id`.JPEG": (encoded(), GOOD),
    "-rf.JPEG": (encoded(), GOOD),
    "--help.JPEG": (encoded(), GOOD),
    "escape\x1b[2J.JPEG": (encoded(), GOOD),
    os.fsdecode(b"latin1_\xe9.JPEG"): (encoded(), GOOD),
    "Übung_雪.JPEG": (encoded(), GOOD),
    f"{LONG_NAME}nnnnn.JPEG": (encoded(), GOOD),
    f"{LONG_NAME}nnnnnn.JPEG": (encoded(), "a name of more than 244 bytes"),
    f"{LONG_NAME}nnnnnnnnnnn.JPEG": (encoded(), "a name of more than 244 bytes"),  # 255 bytes, as long as may be
    # not a file
    "loop.JPEG": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "dangling.JPEG": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "pipe.JPEG": (os.mkfifo, "not a regular file"),
    "endless.JPEG": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "folder_link.JPEG": (lambda path: path.symlink_to("/"), "not a regular file"),
}
BAD = sorted(name for name, (_, answer) in CASES.items() if answer != GOOD)


def stem_of(name: str) -> str:
    return name.split(".")[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run over all cases: (folder, stdout, stderr, {path: reason} of skipped.txt)."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "src").mkdir()
    for name, (content, _) in CASES.items():
        path = folder / "src" / renamed(name)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
    done = run(sys.executable, SCRIPT, "src", "dst", f"--resize={SIDES[0]}", f"--crop={SIDES[1]}", "--on-error=skip",
               "--jobs=1", cwd=folder, timeout=120)
    lines = (folder / "dst/skipped.txt").read_text().splitlines()
    return folder, done.stdout, done.stderr, dict(line.split("\t") for line in lines)


def renamed(name: str) -> str:
    """The case's file name; some cases differ after the first dot alone, where no two images may."""
    stem, dot, suffix = name.rpartition(".")
    same = [other for other in CASES if other != name and stem_of(other) == stem_of(name)]
    return f"{stem}_{suffix.lower()}{dot}{suffix}" if same else name


@pytest.mark.parametrize("name", sorted(name for name in CASES if name not in BAD))
def test_image_equals_torchvision(name, finished):
    folder = finished[0]
    path = folder / "src" / renamed(name)
    bits = np.fromfile(folder / "dst" / f"{stem_of(renamed(name))}.bin", dtype="<u4")
    np.testing.assert_array_equal(bits.reshape(3, SIDES[1], SIDES[1]), reference(path, *SIDES))


@pytest.mark.parametrize("name", BAD)
def test_unreadable_image_is_listed_with_its_reason_and_has_no_bin(name, finished):
    folder, _, err, skipped = finished
    shown = f"src/{renamed(name)}".replace("\t", "\\t").replace("\n", "\\n")
    assert CASES[name][1] in skipped[shown]
    assert f"{shown}: {skipped[shown]}" in err.splitlines()
    assert not (folder / "dst" / f"{stem_of(renamed(name))}.bin").exists()


def test_nothing_else_is_printed_or_written(finished):
    folder, out, err, skipped = finished
    good = len(CASES) - len(BAD)
    assert out == f"{good} tensors in dst ({good} made, 0 kept)\n"
    assert len(skipped) == len(BAD)
    assert err.splitlines()[-1] == (f"{len(BAD)} of {len(CASES)} images were left out and are listed in "
                                    "dst/skipped.txt; score with --allow-missing")
    assert len(err.splitlines()) == len(BAD) + 1
    assert "\x1b" not in err
    assert len(list((folder / "dst").glob("*.bin"))) == good
    assert not (folder / "TRACE").exists()
    assert not (folder / "src/TRACE").exists()


def test_all_names_survive_the_info_file(finished):
    folder = finished[0]
    run(sys.executable, SUITE / "gen_dataset_info.py", "bin", "dst", "x.info", "24", "24", cwd=folder)
    lines = (folder / "x.info").read_bytes().split(b"\n")[:-1]
    assert len(lines) == len(CASES) - len(BAD)
    for line in lines:
        assert os.path.getsize(os.path.join(os.fsencode(folder), line.split(b" ")[1])) == 3 * 24 * 24 * 4


def test_on_error_fail_lists_the_same_images_after_the_others_are_done(finished, tmp_path):
    folder, _, _, skipped = finished
    done = run(sys.executable, SCRIPT, "src", tmp_path / "dst", f"--resize={SIDES[0]}", f"--crop={SIDES[1]}",
               cwd=folder, status=3, timeout=120)
    assert done.stdout == ""
    assert sorted(done.stderr.splitlines()[:-1]) == sorted(f"{path}: {reason}" for path, reason in skipped.items())
    assert done.stderr.splitlines()[-1] == (
        f"img_preprocess.py: {len(BAD)} of {len(CASES)} images are unreadable (listed above); fix or "
        "remove them and rerun, or pass --on-error skip")
    assert len(list((tmp_path / "dst").glob("*.bin"))) == len(CASES) - len(BAD)


@pytest.mark.parametrize("name", ["20000x20000.png", "20000x20000.JPEG", "9500x9500.png", "200000x1.png",
                                  "text_bomb.png", "many_segments.JPEG", "endless.JPEG"])
def test_memory_per_image_is_bounded(name, finished, tmp_path):
    """The peak of the process and its worker, of which Python, numpy, Pillow and OpenCV are 70 MB."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).symlink_to(finished[0] / "src" / renamed(name))
    command = [sys.executable, SCRIPT, "src", "dst", "--resize=30", "--crop=24", "--jobs=1"]
    code = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], timeout=60); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    peak = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True,
                          check=True).stdout.split()[-1]
    assert int(peak) < 160_000  # kB


def test_no_readable_image(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.JPEG").write_text("404")
    done = run(sys.executable, SCRIPT, "src", "dst", "--on-error=skip", cwd=tmp_path, status=3)
    assert done.stderr.splitlines()[-1] == "img_preprocess.py: src: all 1 images are unreadable (listed above)"


def test_old_list_is_removed_once_every_image_is_readable(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.JPEG").write_bytes(encoded())
    (tmp_path / "src/b.JPEG").write_text("404")
    words = (sys.executable, SCRIPT, "src", "dst", "--on-error=skip")
    assert run(*words, cwd=tmp_path).stdout == "1 tensors in dst (1 made, 0 kept)\n"
    assert (tmp_path / "dst/skipped.txt").exists()
    (tmp_path / "src/b.JPEG").write_bytes(encoded())
    assert run(*words, cwd=tmp_path).stdout == "2 tensors in dst (1 made, 1 kept)\n"
    assert not (tmp_path / "dst/skipped.txt").exists()


def test_unreadable_images_are_shared_like_others(tmp_path):
    (tmp_path / "src").mkdir()
    for name in "abcdefgh":
        (tmp_path / f"src/{name}.JPEG").write_bytes(encoded())
        (tmp_path / f"src/{name}{name}.JPEG").write_text("404")
    listed = []
    for share in ("0/2", "1/2"):
        folder = tmp_path / share[0]
        run(sys.executable, SCRIPT, "src", folder, "--on-error=skip", f"--share={share}", cwd=tmp_path)
        listed += (folder / "skipped.txt").read_text().splitlines()
        assert 0 < len(listed) < 9
    assert len(listed) == 8
    assert len(list(tmp_path.glob("?/*.bin"))) == 8

"""Say what a file is that is not what its name promises, by its first bytes, and what to do. Imported only.

Standard library only. The signatures are those of the formats' specifications.
"""
import re
import zipfile

from common.cli import Failure, listing, printable
from common.files import size_of

START = 1 << 12  # bytes that are looked at
TAR_MARK = 257  # where a POSIX tar has its name
TORCH_TAR = (b"sys_info", b"pickle", b"storages")  # files in checkpoints of torch before 0.1.10
AGAIN, CONVERT, TABLE = "download or copy it again", "convert it to JPEG or PNG", "save it as CSV"
CUT = "a zip that was cut short or damaged"
TEXTS = (  # pattern of the first characters, in lower case; what it is
    (rb"version https://(git-lfs|hawser)", "a git-lfs pointer, not the file itself; run: git lfs pull"),
    (rb"[^\n]{0,200}/annex/objects/", "a git-annex pointer, not the file itself; run: git annex get"),
    (rb"<(\?xml[^>]*>\s*)?(<!doctype svg|<?svg)", f"an SVG drawing; {CONVERT}"),
    (rb"<(!doctype html|html|head|body|script|meta)", f"a web page, as a failed download leaves it; {AGAIN}"),
    (rb"<(\?xml|error)", f"XML, perhaps a server's error message; {AGAIN}"),
    (rb"[\[{]\s*(\"|[\[{\]}]|\d)", f"JSON, perhaps a server's error message; {AGAIN}"),
)
ARCHIVES = {  # first bytes: name, and what unpacks it
    b"\x1f\x8b": ("gzip", "gunzip"), **{b"BZh%d1AY&SY" % level: ("bzip2", "bunzip2") for level in range(1, 10)},
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"), b"\x04\x22\x4d\x18": ("lz4", "unlz4"), b"\x1f\x9d": ("compress", "gunzip"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"), b"Rar!\x1a\x07": ("RAR", "unrar x"),
}
FORMATS = {  # first bytes: what the file is
    b"\x89HDF\r\n\x1a\n": "HDF5, as Keras writes weights; convert them to PyTorch first", b"\x93NUMPY": "a NumPy array",
    b"IMOD": "an om for an Ascend chip", b"HOST-OM\n": "an om of the CPU stand-in", b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG\r\n": "a PNG", b"GIF8": "a GIF",
    b"II*\0": "a TIFF", b"MM\0*": "a TIFF",
    **dict.fromkeys((b"\xff\x0a", b"\0\0\0\x0cJXL "), f"JPEG XL; {CONVERT}"),
    **dict.fromkeys((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), f"JPEG 2000; {CONVERT}"),
    b"%PDF": f"a PDF; {CONVERT}", b"8BPS": f"a Photoshop file; {CONVERT}",
    b"PAR1": f"a Parquet table; {TABLE}", b"\xd0\xcf\x11\xe0": f"an old Office file; {TABLE}",
    b"SQLite format 3\0": f"a database; {TABLE}",
    b"\0\x05\x16\x07": "an AppleDouble file, which macOS leaves beside another file",
}
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"mif1": "HEIC",
          b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}  # of ISO media files, at byte 8


def look(path) -> str:
    """Return "WHAT; CURE", or WHAT, of a file that is text, an archive or of a format in this module; "" of others."""
    size = size_of(path)
    with open(path, "rb") as file:
        start = file.read(START)
    if not start.strip(b"\0") and (len(start) == START or not start):
        return f"{'only zeros' if start else 'empty'}; {AGAIN}"
    text = re.sub(rb"^(\xef\xbb\xbf|\xff\xfe|\xfe\xff)", b"", start).replace(b"\0", b"").lstrip().lower()
    found = next((what for pattern, what in TEXTS if re.match(pattern, text)), "")
    if found:
        return found
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", start):
        return f"text ({start[:30].decode()!r}...); {AGAIN}"
    for magic, (name, command) in ARCHIVES.items():
        if start.startswith(magic):
            return f"compressed by {name}; unpack it first ({command})"
    inner = start.partition(b"\0")[0]
    if start[TAR_MARK:TAR_MARK + 5] == b"ustar" and inner not in TORCH_TAR:
        return f"a tar archive of {printable(inner[:100].decode(errors='replace'))}; unpack it first (tar -xf)"
    for magic, name in FORMATS.items():
        if start.startswith(magic):
            return name
    if start[4:8] == b"ftyp":
        brand = BRANDS.get(start[8:12])
        return f"{brand}, which Pillow cannot read; {CONVERT}" if brand else "a video"
    return look_at_zip(path, size) if start.startswith((b"PK\3\4", b"PK\5\6")) else ""


def look_at_zip(path, size: int) -> str:
    """Return "WHAT; CURE" of a zip that torch.save did not write, "" of a checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError, EOFError):
        return f"{CUT}, of {size:,} bytes; {AGAIN}"
    if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in names):
        return ""
    if any(name in ("xl/workbook.xml", "content.xml") for name in names):
        return f"a spreadsheet; {TABLE}"
    return f"a zip archive of {printable(listing(names))[:200]}; unpack it first"


def refuse(path, wanted: str):
    """Raise Failure if `path` is something else than the `wanted` file, by its first bytes."""
    found = look(path)
    if found:
        raise Failure(f"{path}: not {wanted}, but {found}")

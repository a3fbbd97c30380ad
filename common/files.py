"""Write files completely or not at all, lock them, and read untrusted ones. Imported only.

Runs on the NPU host: Python 3.7, standard library only.
"""
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from pathlib import Path

from common.cli import Failure, say

JSON_LIMIT = 64 << 20  # bytes of a record or manifest; real ones have some thousands
LINE_LIMIT = 10_000  # bytes of a line: an info file's has a path of at most 4,096
LINES_LIMIT = 2_000_000  # of an info or label file: forty times ImageNet's; the lists made of them take 0.5 GB


# --- writing --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def replacing(path, size=0, lasting=True):
    """Yield a temporary path next to `path`; rename it to `path` if the block succeeds, else remove it.

    So `path` is complete or unchanged, whenever the process dies. `lasting` also covers a crash of the machine
    and two processes that write one file. Bins and dumps are written without it: their folder is locked, and their
    size is checked before they are read. The message about a full disk names `size`, in bytes.
    """
    path = Path(path)
    if path.name in ("", "..") or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)):
        raise Failure(f"{str(path)!r}: not a regular file, nor the name of a new one", 4)  # /dev/null, say
    part = path.with_name(path.name + ".part")
    if not lasting and os.path.islink(part):
        part.unlink()  # or what it leads to would be written
    descriptor = claim(part, path) if lasting else None
    try:
        yield part
        if lasting:
            os.fsync(descriptor)
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise located(error, path, size) from error
        raise
    finally:
        if lasting:
            os.close(descriptor)


def claim(part: Path, path: Path) -> int:
    """Open temporary file `part` for this process alone; raises Failure if another one is writing it."""
    while True:
        try:
            descriptor = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise located(error, path, 0) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Failure(f"{path}: another process is writing it; wait until it ends", 4) from error
        except OSError:
            return descriptor  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(part), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # renamed by another process since it was opened


def located(error: OSError, path: Path, size: int) -> Exception:
    """Return `error` of writing `path` as an exception that names the file and, of a full disk, the bytes needed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needs = f"needs {size:,} bytes, " if size else ""
        return Failure(f"{path}: the disk is full ({needs}{free_space(path.parent):,} are free); free space and "
                       "rerun", 4)
    if error.filename is None or Path(os.fsdecode(error.filename)).suffix == ".part":
        error.filename = str(path)
    return error


def free_space(folder: Path) -> int:
    """Return the bytes that may still be written to the disk of `folder`."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def write(path, data):
    """Write `data` to `path` in one step: bytes, or str as UTF-8 (undecodable names become their original bytes)."""
    data = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    with replacing(path, len(data)) as part:
        part.write_bytes(data)


def hold(lock: Path, what):
    """Lock file `lock` for the use of `what`; raises Failure that names the holder if another process has it.

    Returns the open file; closing it, or the end of this process, releases the lock. The file remains, with the name
    of its last holder.
    """
    if os.path.islink(lock) or (os.path.exists(lock) and not os.path.isfile(lock)):
        raise Failure(f"{lock}: not a regular file; remove it", 4)
    file = open(lock, "ab+", buffering=0)  # noqa: SIM115 (the caller keeps it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(200).decode(errors="replace").strip() or "another process"
        raise Failure(f"{what}: in use by {holder}; wait until it ends", 4) from error
    except OSError as error:
        say(f"warning: {lock}: no locks on this file system ({error.strerror}): do not run this twice at a time")
    try:
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    except OSError as error:
        raise located(error, lock, 100) from error
    return file


# --- reading: no file is trusted ------------------------------------------------------------------------------------

def size_of(path) -> int:
    """Return a file's size in bytes. Raises Failure unless it is a regular file: a pipe or device may never end."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise Failure(f"{path}: not a regular file")
    return status.st_size


def hash_of(path, kind="sha256") -> str:
    """Return the hex digest of a file of any size."""
    size_of(path)
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read(path, limit: int) -> bytes:
    """Return a file's content. Raises Failure unless it is a regular file of at most `limit` bytes."""
    size = size_of(path)
    if size > limit:
        raise Failure(f"{path}: {size:,} bytes, more than the {limit:,} that such a file may have")
    with open(path, "rb", buffering=0) as file:
        return file.read()


def read_json(path):
    """Return a JSON file's content. Raises FileNotFoundError if it is missing, ValueError if it is not valid."""
    try:
        return json.loads(read(path, JSON_LIMIT))
    except (Failure, RecursionError) as error:  # too many brackets
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def as_written(path: Path):
    """Turn any error on the fields of a file that somebody edited into one Failure that names the file."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        raise Failure(f"{path}: missing or invalid field ({type(error).__name__}: {error}); rerun run_all.sh"
                      ) from error


def encoding_of(path) -> str:
    """Return a text file's encoding: UTF-16 by its byte-order mark or by its NUL bytes, otherwise UTF-8."""
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) > 2 and b"\0" in (start[:1], start[1:2]) and start[:1] != start[1:2]:  # ASCII, without a mark
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    return "utf-8-sig"


def decoded(path, limit: int) -> str:
    """Return a text file's content, in UTF-8 or UTF-16, of at most `limit` bytes; raises Failure, or UnicodeError."""
    return read(path, limit).decode(encoding_of(path))


def lines(path):
    """Yield (number, line) of a text file that a user brings, in UTF-8 or UTF-16, lines ended as on any system.

    Undecodable bytes of UTF-8 are kept. Raises Failure if it exceeds the limits, or is not valid UTF-16.
    """
    size_of(path)
    encoding = encoding_of(path)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    with open(path, encoding=encoding, errors=errors) as file:
        for number in range(1, LINES_LIMIT + 2):
            try:
                line = file.readline(LINE_LIMIT)
            except UnicodeError as error:
                raise Failure(f"{path}: starts as UTF-16 text, but is not; save it as UTF-8") from error
            if not line:
                return
            if len(line) == LINE_LIMIT:
                raise Failure(f"{path}:{number}: a line of {LINE_LIMIT:,} characters or more; is this the right file?")
            if number > LINES_LIMIT:
                break
            yield number, line.rstrip("\n")
    raise Failure(f"{path}: more than {LINES_LIMIT:,} lines; split it, see docs/multi-chip.md")

"""What every script of the suite shares: how a file is read and written, and how a failure ends.

Exit status: 0 done; 1 a figure missed its limit (accuracy gate, ONNX against PyTorch);
2 usage; 3 bad input data; 4 environment (tool, disk, permission); 130 / 143 interrupted.
On any command line `--debug` adds the trace to the line that tells a failure, `--quiet` leaves out progress,
`--version` prints the suite's version.
Runs on the NPU host: plain Python 3.8, nothing to install.
"""
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import sys
import threading
import time
import traceback
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
JSON_LIMIT = 64 << 20  # bytes of a record or manifest; real ones have some thousands
LINE_LIMIT = 10_000  # bytes of a line: an info file's has a path of at most 4,096
LINES_LIMIT = 2_000_000  # of an info or label file: forty times ImageNet's; the lists made of them take 0.5 GB
held = []  # lock files, open until this process ends
debug = quiet = False  # whether --debug and --quiet were given
VERSION = "0.7"
TOLD_LIMIT = 2000  # characters of an error line: what a stranger's file has in it may be long
SPEAK_EVERY = 30.0  # seconds between two lines of progress, where stderr is no terminal


class Failure(Exception):
    """A failure to be told in one line: the file, what is wrong, what to do."""

    def __init__(self, message, status=3):
        super().__init__(message)
        self.status = status


# --- writing --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def replacing(path, size=0, lasting=True):
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else remove it.

    So `path` is complete or as it was before, whenever the process dies; with `lasting` also when the machine
    does, and two processes that write one file keep out of each other's way. Bins and dumps do without:
    their folder is held, and their size is looked at before they are read.
    `size` in bytes is told if the disk is full.
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
            raise Failure(f"{path}: another process is writing it: wait for that one to end", 4) from error
        except OSError:
            return descriptor  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(part), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # renamed by another process since it was opened


def located(error: OSError, path: Path, size: int) -> Exception:
    """`error` of writing `path` as an exception that says where, and of a full disk how much is needed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needs = f"needs {size:,} bytes, " if size else ""
        return Failure(f"{path}: the disk is full ({needs}{free_space(path.parent):,} are free): make room and run "
                       "again", 4)
    if error.filename is None or Path(os.fsdecode(error.filename)).suffix == ".part":
        error.filename = str(path)
    return error


def free_space(folder: Path) -> int:
    """Bytes that may still be written to the disk of `folder`."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def write(path, data):
    """Give `path` the content `data` (bytes or str, written as UTF-8, undecodable names as they were) in one step."""
    data = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    with replacing(path, len(data)) as part:
        part.write_bytes(data)


def hold(lock: Path, what):
    """Keep `what` for this process until it ends, by a lock on file `lock`; raises Failure that says who has it.

    The kernel drops the lock with the process, however that ends; the file stays, and says who was the last.
    """
    if os.path.islink(lock) or (os.path.exists(lock) and not os.path.isfile(lock)):
        raise Failure(f"{lock}: not a regular file: remove it", 4)
    file = open(lock, "ab+", buffering=0)  # noqa: SIM115 (for as long as the process lives)
    held.append(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(200).decode(errors="replace").strip() or "another process"
        raise Failure(f"{what}: in use by {holder}: wait for it to end", 4) from error
    except OSError as error:
        say(f"warning: {lock}: no locks on this file system ({error.strerror}): do not run this twice at a time")
    try:
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    except OSError as error:
        raise located(error, lock, 100) from error


# --- reading: no file is trusted ------------------------------------------------------------------------------------

def size_of(path) -> int:
    """A file's size in bytes. Raises Failure if it is no file that ends: a pipe, a device, a folder."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise Failure(f"{path}: not a regular file")
    return status.st_size


def hash_of(path, kind="sha256") -> str:
    """Hex digest of a file of any size."""
    size_of(path)
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read(path, limit: int) -> bytes:
    """A file's content. Raises Failure if it is no regular file, or has more than `limit` bytes."""
    size = size_of(path)
    if size > limit:
        raise Failure(f"{path}: {size:,} bytes, more than the {limit:,} that such a file may have")
    with open(path, "rb", buffering=0) as file:
        return file.read()


def read_json(path):
    """A JSON file's content. Raises FileNotFoundError if there is none, ValueError on whatever is wrong with it."""
    try:
        return json.loads(read(path, JSON_LIMIT))
    except (Failure, RecursionError) as error:  # too many brackets
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def as_written(path: Path):
    """Turn the surprises of a file that somebody changed into one Failure that names it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        raise Failure(f"{path}: not as the suite writes it ({type(error).__name__}: {error}): run run_all.sh again"
                      ) from error


def lines(path):
    """Yield (number, line) of a text file; undecodable bytes are kept. Raises Failure on a file beyond the limits."""
    size_of(path)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number in range(1, LINES_LIMIT + 2):
            line = file.readline(LINE_LIMIT)
            if not line:
                return
            if len(line) == LINE_LIMIT:
                raise Failure(f"{path}:{number}: a line of {LINE_LIMIT:,} characters or more: not such a file")
            if number > LINES_LIMIT:
                break
            yield number, line.rstrip("\n").lstrip("\ufeff") if number == 1 else line.rstrip("\n")  # Excel's mark
    raise Failure(f"{path}: more than {LINES_LIMIT:,} lines: split it, as --share does (README 5.2)")


# --- the rest -------------------------------------------------------------------------------------------------------

def import_openvino():
    """OpenVINO without its telemetry, which on every import would write to ~/intel and report to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # makes its import fail, for which OpenVINO has a stub
    import openvino

    return openvino


def printable(text: str) -> str:
    """`text` with what is not for a terminal, such as the control characters in a hostile name, as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message):
    """One line for the person watching, if it can be written; stdout is kept for results."""
    with contextlib.suppress(OSError):
        print(printable(str(message)), file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int, unit: str):
    """Yield advance(count=1): how far `total` is, on stderr: a bar on a terminal, else a line now and then."""
    from tqdm import tqdm

    began = said = time.monotonic()
    done = 0
    with tqdm(total=total, unit=unit, disable=True if quiet else None) as bar:  # None: unless stderr is no terminal
        def advance(count=1):
            nonlocal done, said
            done += count
            bar.update(count)
            now = time.monotonic()
            if bar.disable and not quiet and now - said >= SPEAK_EVERY and 0 < done < total:
                said, rate = now, done / (now - began)
                say(f"{done} of {total} {unit}, {rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left")
        yield advance


@contextlib.contextmanager
def workers(count: int, initializer):
    """A ProcessPoolExecutor; after an error or an interrupt its processes are ended at once."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children

    with ProcessPoolExecutor(count, initializer=initializer) as executor:
        try:
            yield executor
        except BaseException:
            # Python's own thread that looks after the workers fails where work was cancelled before they ended
            threading.excepthook = lambda _: None
            for process in active_children():
                process.kill()
            raise


def start_worker():
    """In a worker process: it ends with its parent, whose business interrupts are."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_with_parent():
    """In a child process: let the kernel kill it when its parent ends, or it would go on alone."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def listing(names, limit=3):
    """'a, b, c and 4 more': the first few of many names, for a message."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def positive(text: str) -> int:
    """For argparse: a whole number above zero."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def explain(error: Exception) -> tuple:
    """(message, exit status) of whatever ended a script."""
    if isinstance(error, Failure):
        return str(error), error.status
    if isinstance(error, OSError) and error.errno is not None:
        where = "standard output" if error.filename is None else os.fsdecode(error.filename)
        return f"{where}: {error.strerror}", 4
    if isinstance(error, MemoryError):
        return "out of memory", 4
    if isinstance(error, ImportError):
        return f"{error}: see requirements.txt", 4
    return f"{type(error).__name__}: {error} (not foreseen: please report it, with what --debug adds)", 3


def trace():
    """While an error is handled: print where it came from, if --debug was given."""
    if debug:
        traceback.print_exc()


def interrupt(number, _):
    """As an exception, so that `finally` cleans up."""
    raise KeyboardInterrupt(number)


def last_word(kind, error, traces):
    """sys.excepthook of the suite's scripts, for what happens before run(): a package is missing, or an interrupt."""
    program = os.path.basename(sys.argv[0])
    if issubclass(kind, KeyboardInterrupt):
        say(f"{program}: interrupted")
        os._exit(130)
    if issubclass(kind, ImportError):
        say(f"{program}: {error}: see requirements.txt")
        os._exit(4)
    sys.__excepthook__(kind, error, traces)


def run(main):
    """Call main() and exit with its status; whatever goes wrong becomes one line on stderr."""
    global debug, quiet  # noqa: PLW0603 (one command line for one process)
    debug, quiet = "--debug" in sys.argv[1:], "--quiet" in sys.argv[1:] or "RUN_ALL_QUIET" in os.environ
    if "--version" in sys.argv[1:]:
        print(VERSION)
        sys.exit(0)
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in ("--debug", "--quiet")]
    if os.environ.get("RUN_ALL_PID") == str(os.getppid()):
        end_with_parent()  # a step of run_all.sh
    signal.signal(signal.SIGINT, interrupt)  # ignored from birth in a script's background job
    signal.signal(signal.SIGTERM, interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: python3 ... >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that are no UTF-8
    program = os.path.basename(sys.argv[0])
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        number = error.args[0]
        say(f"{program}: {'interrupted' if number == signal.SIGINT else 'terminated'}")
        os._exit(128 + number)  # at once: what is left may be a library that waits for its work to end
    except Exception as error:
        message, status = explain(error)
        trace()
    else:
        sys.exit(status)
    finally:
        held.clear()
    say(f"{program}: {' '.join(message.split())}"[:TOLD_LIMIT])
    try:
        sys.stdout.flush()
    except OSError:  # it is full or gone, and Python would try again as it ends, with a message of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


HERE = os.path.dirname(os.path.realpath(__file__))
if os.path.dirname(os.path.realpath(sys.argv[0])) in (HERE, os.path.join(HERE, "host")):
    sys.excepthook = last_word

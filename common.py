"""What every script of the suite shares: how a file is written, and how a failure ends.

Exit status: 0 done; 1 a figure missed its limit (accuracy gate, ONNX against PyTorch);
2 usage; 3 bad input data; 4 environment (tool, disk, permission); 130 / 143 interrupted.
Runs on the NPU host: plain Python 3.8, nothing to install.
"""
import contextlib
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Failure(Exception):
    """A failure to be told in one line: the file, what is wrong, what to do."""

    def __init__(self, message, status=3):
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else remove it.

    So `path` is complete or as it was before, whenever the process dies.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def write(path, data):
    """Give `path` the content `data` (bytes or str, written as UTF-8, undecodable names as they were) in one step."""
    with replacing(path) as part:
        part.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


def import_openvino():
    """OpenVINO without its telemetry, which on every import would write to ~/intel and report to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # makes its import fail, for which OpenVINO has a stub
    import openvino

    return openvino


def say(message):
    """One line for the person watching; stdout is kept for results."""
    print(message, file=sys.stderr, flush=True)


def start_worker():
    """In a worker process: it ends with its parent, whose business interrupts are."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # else it would wait for ever for a killed parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def listing(names, limit=3):
    """'a, b, c and 4 more': the first few of many names, for a message."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def run(main):
    """Call main() and exit with its status; a user's mistake becomes one line on stderr."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored from birth in a script's background job
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that `finally` cleans up
    program = os.path.basename(sys.argv[0])
    try:
        status = main()
        sys.stdout.flush()
    except Failure as error:
        message, status = str(error), error.status
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        message, status = f"{where}{error.strerror or error}", 4
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    else:
        sys.exit(status)
    say(f"{program}: {' '.join(message.split())}")
    sys.exit(status)

"""What every command has: its parser, its messages, its progress, and how it ends. Imported only.

Exit status: 0 done; 1 a figure missed its limit (accuracy gate, ONNX against PyTorch);
2 usage; 3 bad input data; 4 environment (tool, disk, permission); 130 / 143 interrupted.
Runs on the NPU host: Python 3.7, standard library only (progress() needs tqdm).
"""
import argparse
import atexit
import contextlib
import os
import re
import signal
import sys
import time
import traceback

from common.jobs import end_with_parent

VERSION = "0.8"
if sys.version_info < (3, 7):
    sys.stderr.write(f"{os.path.basename(sys.argv[0])}: Python {sys.version.split()[0]}: 3.7 or later is needed\n")
    sys.exit(4)
MESSAGE_LIMIT = 2000  # characters of an error line: text from an untrusted file may be long
SPEAK_EVERY = 30.0  # seconds between two lines of progress, where stderr is no terminal
debug = quiet = False  # set by --debug and --quiet


class Failure(Exception):
    """A failure that ends a command in one line: file, what is wrong, what to do."""

    def __init__(self, message, status=3):
        super().__init__(message)
        self.status = status


# --- the command line -----------------------------------------------------------------------------------------------

class Switch(argparse.Action):
    """Set a variable of this module, such as `quiet`, to True."""

    def __call__(self, parser, namespace, values, option_string=None):
        globals()[self.dest] = True


def parser_of(doc: str, **options) -> argparse.ArgumentParser:
    """Return a parser whose help is a script's docstring, with the options that every script has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
    common = made.add_argument_group("options of every script")
    for name, text in (("debug", "print the traceback of an error"), ("quiet", "print no progress")):
        common.add_argument(f"--{name}", action=Switch, nargs=0, default=argparse.SUPPRESS, help=text)
    common.add_argument("--version", action="version", version=VERSION, help="print the suite's version and exit")
    return made


def positive(text: str) -> int:
    """For argparse: an integer above zero."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def need(package: str, found: str, oldest: str, cure: str):
    """Raise Failure (status 4) if release `found` of a package, such as "2.4.1+cpu", is older than `oldest`."""
    def numbers(text):
        return [int(part) for part in re.findall("[0-9]+", text.split("+")[0])[:3]]

    if numbers(found) < numbers(oldest):
        raise Failure(f"{package} {found}: {oldest} or later is needed; {cure}", 4)


# --- messages and progress ------------------------------------------------------------------------------------------

def printable(text: str) -> str:
    """Return `text` with control characters and the like, as a hostile name may have, escaped: \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message):
    """Print one line to stderr, if it can be written; stdout is for results."""
    with contextlib.suppress(OSError):
        print(printable(str(message)), file=sys.stderr, flush=True)


def listing(names, limit=3):
    """Return the first few of many names for a message: 'a, b, c and 4 more'."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@contextlib.contextmanager
def progress(total: int, unit: str):
    """Yield advance(count=1), which shows progress on stderr: a bar on a terminal, else a line every 30 s."""
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


def import_openvino():
    """Return OpenVINO without its telemetry, which writes to ~/intel and reports to its makers on every import."""
    sys.modules.setdefault("openvino_telemetry", None)  # makes its import fail, for which OpenVINO has a stub
    import openvino

    return openvino


# --- the end --------------------------------------------------------------------------------------------------------

def explain(error: Exception) -> tuple:
    """Return (message, exit status) for the exception that ended a script."""
    if isinstance(error, Failure):
        return str(error), error.status
    if isinstance(error, OSError) and error.errno is not None:
        where = "standard output" if error.filename is None else os.fsdecode(error.filename)
        return f"{where}: {error.strerror}", 4
    if isinstance(error, MemoryError):
        return "out of memory", 4
    if isinstance(error, ImportError):
        return f"{error}: see requirements.txt", 4
    return f"{type(error).__name__}: {error} (unexpected; please report it with the output of --debug)", 3


def trace():
    """Print the traceback of the error being handled, if --debug was given."""
    if debug:
        traceback.print_exc()


def interrupt(number, _):
    """Handle a signal by an exception, so that `finally` cleans up."""
    raise KeyboardInterrupt(number)


def last_word(kind, error, traces):
    """sys.excepthook of the suite's scripts, for errors before run(): a missing package, or an interrupt."""
    program = os.path.basename(sys.argv[0])
    if issubclass(kind, KeyboardInterrupt):
        say(f"{program}: interrupted")
        os._exit(130)
    if issubclass(kind, ImportError):
        say(f"{program}: {error}: see requirements.txt")
        os._exit(4)
    sys.__excepthook__(kind, error, traces)


def let_go():
    """Leave signals to the kernel: at exit, Python would print what a handler raises as an ignored exception."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(main, program=""):
    """Call main() and exit with its status; any error becomes one line on stderr that starts with `program`."""
    global debug, quiet  # noqa: PLW0603 (one command line for one process)
    debug, quiet = False, bool(os.environ.get("RUN_ALL_QUIET"))
    if os.environ.get("RUN_ALL_PID") == str(os.getppid()):
        end_with_parent()  # a step of run_all.sh
    signal.signal(signal.SIGINT, interrupt)  # inherited as ignored in a shell's background job
    signal.signal(signal.SIGTERM, interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: python3 ... >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that are no UTF-8
    program = program or os.path.basename(sys.argv[0])
    try:
        status = main()
        sys.stdout.flush()
        let_go()
    except KeyboardInterrupt as error:
        number = error.args[0]
        say(f"{program}: {'interrupted' if number == signal.SIGINT else 'terminated'}")
        os._exit(128 + number)  # at once: at exit a library may wait for its work to end
    except Exception as error:
        let_go()
        message, status = explain(error)
        trace()
    else:
        message = None
    if message is not None:
        say(f"{program}: {' '.join(message.split())}"[:MESSAGE_LIMIT])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # full or gone; at exit Python would try again, and end with status 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if OWN_PROCESS:
        atexit._run_exitfuncs()
        os._exit(status)  # skips the teardown of modules: 0.2 s with openvino, 1 to 2 s with torch
    sys.exit(status)


ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FOLDERS = (ROOT, os.path.join(ROOT, "host"), os.path.join(ROOT, "tools"))
# Whether this process runs one of the suite's scripts; in a pytest process, argv[0] may be "-c", which is no file
OWN_PROCESS = os.path.isfile(sys.argv[0]) and os.path.dirname(os.path.realpath(sys.argv[0])) in FOLDERS
if OWN_PROCESS:
    sys.excepthook = last_word

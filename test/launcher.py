"""Run Python scripts in processes forked from this one, which has imported the libraries already.

Usage:    python3 test/launcher.py LISTENER SESSION LIBRARY...        (conftest.start_launcher() starts it)

LISTENER is the descriptor of a listening socket. Each connection is one script: [words, cwd, environment] by
marshal, with the descriptors of stdin, stdout and stderr; the answer is its exit status. A script is __main__ in its
own process and imports the suite's modules itself, but starts in some 25 ms: importing torch alone takes 4 s. The
libraries are not used here, so that no fork loses their threads. It ends with the process SESSION.
"""
import array
import atexit
import contextlib
import gc
import importlib.machinery
import importlib.util
import marshal
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

REQUEST_LIMIT = 1 << 20  # bytes
SUITE = Path(__file__).resolve().parent.parent
SCRIPTS = ("img_preprocess", "gen_dataset_info", "imagenet_acc_eval", "infer", "labels", "options", "summary")


def main(listener, session: int, libraries: list):
    """Serve connections until the process `session` ends."""
    end = os.pidfd_open(session)
    sys.modules.setdefault("openvino_telemetry", None)  # as common.cli.import_openvino
    running = {}  # {descriptor of a process: (its pid, its connection)}
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:  # as tools/charts.py: its list of fonts
        os.environ["MPLCONFIGDIR"] = folder
        for name in libraries:
            importlib.import_module(name)
        warm_up()
        gc.freeze()  # else each process copies the pages of all objects when it first looks for garbage
        while True:
            ready = select.select([listener, end, *running], [], [])[0]
            if end in ready:
                return
            if listener in ready:
                connection = listener.accept()[0]
                child = start(connection, listener)
                running[os.pidfd_open(child)] = child, connection
            for ended in running.keys() & set(ready):
                child, connection = running.pop(ended)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                    connection.send(str(status).encode())
                connection.close()
                os.close(ended)


def warm_up():
    """Import most of the suite's modules, then forget them; their libraries and compiled regular expressions stay."""
    sys.path[:0] = [str(SUITE), str(SUITE / "tools")]
    for name in SCRIPTS:
        importlib.import_module(name)
    del sys.path[:2]
    for name, module in list(sys.modules.items()):
        if name != "__main__" and Path(getattr(module, "__file__", None) or "/").parent in (
                SUITE, SUITE / "common", SUITE / "host", SUITE / "tools"):
            del sys.modules[name]


def start(connection, listener) -> int:
    """Receive what to run from a connection and start it; return its process id."""
    data, ancillary, _, _ = connection.recvmsg(REQUEST_LIMIT, socket.CMSG_SPACE(12))
    streams = array.array("i", ancillary[0][2])
    child = os.fork()
    if not child:
        connection.close()
        listener.close()
        execute(*marshal.loads(data), streams)
    for stream in streams:
        os.close(stream)
    return child


def execute(words: list, cwd: str, environment: dict, streams):
    """Be the script words[0] with its arguments; does not return."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.executable = shutil.which("python3", path=environment.get("PATH")) or sys.executable  # perhaps quick_python()'s
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:], sys.path[0] = words, os.path.dirname(os.path.realpath(words[0]))
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    status = 1
    try:
        loader = importlib.machinery.SourceFileLoader("__main__", words[0])  # which keeps its byte code
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("__main__", loader))
        module.__spec__, sys.modules["__main__"] = None, module
        loader.exec_module(module)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with contextlib.suppress(Exception):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        os._exit(status & 255)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])

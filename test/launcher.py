"""Run Python scripts in processes forked from this one, which has imported the libraries already.

Usage:    python3 test/launcher.py DESCRIPTOR LIBRARY...        (conftest.run() starts it)

Each request on the socket DESCRIPTOR is JSON, [words, cwd, environment], with the files for stdout and stderr; the
answer is the exit status. A script is __main__ in its own process and imports the suite's modules itself, but starts in
some 40 ms: importing torch alone takes 4 s. The libraries are not used here, so that no fork loses their threads.
"""
import array
import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading

REQUEST_LIMIT = 1 << 20  # bytes


def main(connection, libraries: list):
    """Serve requests until the other side closes the connection."""
    sys.modules.setdefault("openvino_telemetry", None)  # as common.cli.import_openvino
    with tempfile.TemporaryDirectory(prefix="matplotlib-") as folder:  # as tools/charts.py: its list of fonts
        os.environ["MPLCONFIGDIR"] = folder
        for name in libraries:
            importlib.import_module(name)
    while True:
        data, ancillary, _, _ = connection.recvmsg(REQUEST_LIMIT, socket.CMSG_SPACE(8))
        if not data:
            return
        streams = array.array("i", ancillary[0][2])
        child = os.fork()
        if not child:
            connection.close()
            execute(*json.loads(data), *streams)
        for stream in streams:
            os.close(stream)
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def execute(words: list, cwd: str, environment: dict, out: int, err: int):
    """Be the script words[0] with its arguments; does not return."""
    for stream, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(stream, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:], sys.path[0] = words, os.path.dirname(os.path.realpath(words[0]))
    status = 1
    try:
        runpy.run_path(words[0], run_name="__main__")
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
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])

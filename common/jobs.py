"""Processes that end with their parent. Imported only.

Runs on the NPU host: Python 3.7, standard library only.
"""
import contextlib
import signal
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextlib.contextmanager
def workers(count: int, initializer):
    """A ProcessPoolExecutor; after an error or an interrupt its processes are ended at once."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children

    with ProcessPoolExecutor(count, initializer=initializer) as executor:
        try:
            yield executor
        except BaseException:
            # Python's own thread that manages the workers fails if work was cancelled before they ended
            threading.excepthook = lambda _: None  # novm: Python 3.7 does not call it
            for process in active_children():
                process.kill()
            raise


def start_worker():
    """Set up a worker process: it ends with its parent, which alone handles interrupts."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_with_parent():
    """Have the kernel kill this child process when its parent ends; it would run on otherwise."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def call(command: list, out=None) -> int:
    """Run a command that ends with this process, which has no threads; return its exit status, as a shell has it.

    out: a file for its standard output.
    """
    import subprocess  # most that import this module start no command

    status = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, check=False,
                            preexec_fn=end_with_parent).returncode  # noqa: PLW1509 (no threads)
    return status if status >= 0 else 128 - status

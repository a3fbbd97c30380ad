"""Worker processes that end with their parent. Imported only.

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

#!/usr/bin/env python3
"""Lock a file for the shell script that opened it, or report which process holds it.

Usage:    python3 tools/lock.py FILE WHAT --descriptor N [--shared]        (run_all.sh calls it)
Example:  exec {lock}>>.lock
          python3 tools/lock.py .lock "$PWD" --descriptor "$lock"

FILE is open in the shell as descriptor N. The lock belongs to the open file: the shell and its steps keep it until the
last of them ends, for whatever reason. FILE then has a line with the shell's process id, host and time, for the message
of the next run.

Exit status: 4 if another run holds the lock. The message names that run's process or, if only its shell was killed, the
step that is still running.
"""
import errno
import fcntl
import os
import time
from pathlib import Path

import _root

from common.cli import Failure, parser_of, printable, run, say
from common.files import read

TEXT_LIMIT = 10_000  # bytes of a lock file; the line in it has about 60


def processes_with(lock: Path) -> list:
    """Return [(process id, command)] of the other processes of this user, except the parent, that have `lock` open."""
    found = []
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        if int(folder.name) in (os.getpid(), os.getppid()):
            continue
        try:
            if any(os.path.samefile(link, lock) for link in (folder / "fd").iterdir() if link.exists()):
                words = (folder / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
                scripts = [word for word in words[:3] if word.endswith((".py", ".sh"))]
                found.append((int(folder.name), os.path.basename((scripts or words)[0])))
        except OSError:
            continue  # it ended in the meantime, or is another user's
    return found


def holder(lock: Path) -> str:
    """Return the holder of `lock`: the line in the file, or the processes of a killed run that still run."""
    line = printable(read(lock, TEXT_LIMIT).decode(errors="replace").strip()) or "another process"
    found = processes_with(lock)
    shells = [process for process, _ in found if line.startswith(f"pid {process} ")]
    if not found or shells or f" on {os.uname().nodename} " not in line:
        return line
    return f"pid {', '.join(f'{process} ({command})' for process, command in found)}, left by a run that was killed"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("lock", metavar="FILE", type=Path)
    parser.add_argument("what", metavar="WHAT", help="what the lock is for")
    parser.add_argument("--descriptor", type=int, required=True, metavar="N", help="FILE, open for appending")
    parser.add_argument("--shared", action="store_true", help="a lock that several --shared may hold")
    args = parser.parse_args()

    kind = fcntl.LOCK_SH if args.shared else fcntl.LOCK_EX
    try:
        fcntl.flock(args.descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Failure(f"{args.what}: in use by {holder(args.lock)}; wait until it ends", 4) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise Failure(f"{args.lock}: cannot be locked ({error.strerror})", 4) from error
        say(f"warning: {args.lock}: this file system has no locks; do not start a second run here")
    text = f"pid {os.getppid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    try:
        os.ftruncate(args.descriptor, 0)
        os.write(args.descriptor, text.encode())
    except OSError as error:
        raise Failure(f"{args.lock.absolute()}: cannot be written ({error.strerror})", 4) from error
    return 0


if __name__ == "__main__":
    run(main, "run_all.sh")

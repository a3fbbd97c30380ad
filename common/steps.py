"""Run one step of a job within run_all.sh, and record its command line as run_all.sh does. Imported only."""
import contextlib
import shlex
from pathlib import Path

from common import cli
from common.cli import Failure, say
from common.jobs import call

COMMANDS = Path("commands.txt").absolute()  # run_all.sh's record, in the folder in which the job starts


def step(title: str, *command, out=None):
    """Print a command, record it and run it, its results to file `out`; raises Failure, with its exit status."""
    line = " ".join(shlex.quote(str(word)) for word in command)
    if not cli.quiet:
        say("")
        say(f"== {title}")
        say(f"$ {line}")
    with open(COMMANDS, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    with open(out, "wb") if out else contextlib.nullcontext() as file:
        status = call(command, file)
    if status:
        raise Failure(f"step \"{title}\" failed with exit status {status}", status)

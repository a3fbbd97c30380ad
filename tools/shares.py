#!/usr/bin/env python3
"""Split a run over several processes or machines, and check that all shares are complete before scoring.

Usage:    python3 tools/shares.py clean R/W
          python3 tools/shares.py verify BATCH_SIZE...
Example:  python3 tools/shares.py verify 1 16
          batch 1: 4 of 4 shares
          batch 16: 4 of 4 shares

Run in the work directory. torchrun, srun (Slurm) or mpirun (Open MPI) start run_all.sh once per chip; rank R of W
works in ./shareRofW and writes its dumps to ./result/dumpShares_bsN/shareRofW.

clean: remove the shares of an earlier split into another number.
verify: exit 3 if a share is missing or unfinished.
"""
import re
import shutil
from pathlib import Path

import _root

from common.cli import Failure, parser_of, run
from common.files import read_json

# A launcher's variables for rank, number of ranks and rank on this host, and one that only the launcher sets:
# Slurm sets the first three in a batch script too, before srun has started any rank.
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", None),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", None),
}
NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
SHARE = re.compile(r"share(0|[1-9][0-9]{0,5})of([1-9][0-9]{0,5})")


def of_this_process(environment) -> tuple:
    """Return (rank, number of ranks, rank on this host) from a launcher's variables; (0, 1, 0) without a launcher.

    Raises Failure (status 2) if the variables are not numbers, or if the launcher did not start this process.
    """
    for launcher, (rank, size, local, started) in LAUNCHERS.items():
        if not environment.get(size) and not environment.get(rank):
            continue
        values = [environment.get(name) or default for name, default in ((rank, ""), (size, "1"), (local, "0"))]
        if values[1] == "1":
            return 0, 1, 0
        text = f"{rank}={values[0]}, {size}={values[1]}, {local}={values[2]}"
        if not NUMBER.fullmatch(values[1]) or not NUMBER.fullmatch(values[2]) or \
                values[0] and not NUMBER.fullmatch(values[0]):
            raise Failure(f"{text}: not numbers; start the ranks with {launcher}", 2)
        if not values[0] or (started and not environment.get(started) and values[0] == "0"):
            raise Failure(f"{size}={values[1]}, but {launcher} did not start this process; use {launcher}, or unset "
                          f"{size} to run in one process", 2)
        numbers = [int(value) for value in values]
        if numbers[0] >= numbers[1]:
            raise Failure(f"{text}: ranks count from 0; start the ranks with {launcher}", 2)
        return tuple(numbers)
    return 0, 1, 0


def records(batch_size) -> list:
    """Return the paths of the shares' records of one batch size, in order of rank."""
    found = [path for path in Path(f"result/dumpShares_bs{batch_size}").glob("share*of*.json")
             if SHARE.fullmatch(path.stem)]
    return sorted(found, key=lambda path: int(SHARE.fullmatch(path.stem).group(1)))


def verify(batch_size):
    """Raise Failure unless all shares of a batch size are present and finished."""
    place, found = f"result/dumpShares_bs{batch_size}", records(batch_size)
    if not found:
        raise Failure(f"{place}: contains no share; run the ranks first")
    world = int(SHARE.fullmatch(found[0].stem).group(2))
    ranks = [int(SHARE.fullmatch(path.stem).group(1)) for path in found]
    missing = sorted(set(range(world)) - set(ranks))
    if missing or len(found) != world:
        raise Failure(f"{place}: {len(found)} of {world} shares, without rank {missing[0] if missing else world}; "
                      "run the missing ranks first")
    for path in found:
        try:
            complete = read_json(path)["complete"]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(f"{path}: not a record of infer.py; rerun this rank") from error
        if complete is not True:
            raise Failure(f"{path}: this rank did not finish; rerun it")
    print(f"batch {batch_size}: {world} of {world} shares")


def clean(world: int):
    """Remove shares of splits into another number than `world`."""
    places = [Path("."), *sorted(Path("result").glob("dumpShares_bs*"))]
    for path in sorted(path for place in places for path in place.glob("share*of*")):
        name = SHARE.fullmatch(re.sub(r"\.(json|lock)$", "", path.name))
        if name and int(name.group(2)) != world:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def main() -> int:
    parser = parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", metavar="clean|verify", required=True)
    cleaning = commands.add_parser("clean", help="remove shares of another split")
    cleaning.add_argument("share", metavar="R/W", help="this rank's share")
    verifying = commands.add_parser("verify", help="fail while a share is missing or unfinished")
    verifying.add_argument("batch_sizes", metavar="BATCH_SIZE", type=int, nargs="+")
    args = parser.parse_args()
    if args.command == "clean":
        clean(int(args.share.split("/")[1]))
    else:
        for batch_size in args.batch_sizes:
            verify(batch_size)
    return 0


if __name__ == "__main__":
    run(main)

"""Describe the inference tools: CANN's benchmark binary, its successor ais_bench, and the stand-in in host/.

Everything specific to a tool is here, in one entry of ENGINES; infer.py treats them all alike.
"""
import functools
import json
import operator
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Callable, NamedTuple

from _root import ROOT

from common import model
from common.cli import Failure
from common.files import hash_of, located, read, read_json, size_of, write
from common.images import image_name
from host import om as host_om
from host.om import ASCEND_MAGIC

BINARY = f"benchmark.{platform.machine()}"
RATE = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
WORK = Path("result")  # the tools write below it
LOG_LIMIT = 1 << 30  # bytes of a tool's output, or of its perf file


class Engine(NamedTuple):
    """An inference tool. Its command is the list of words find() + dataset() or pure(), run in the folder place()."""

    find: Callable  # () -> the words that start it, None where it is not installed; Failure (status 4) if it is broken
    missing: str  # its name in "not found" messages
    dataset: Callable  # (om, info, device, batch_size, txt or bin) -> arguments to run the tensors of an info file
    pure: Callable  # (om, device, batch_size, rounds) -> arguments to run synthetic data
    place: Callable  # device -> the folder in which it runs
    prepare: Callable  # (om, samples, device): make the files that it reads besides om and info file
    dumps: Callable  # device -> the folder in which it leaves its dumps
    images: Callable  # device -> {dump up to its last "_": image}; None if dumps bear the names of the images
    rates: Callable  # (device, batch_size, log, pure, om) -> (interface, e2e or None, stages); ValueError: what it did
    limit: int = sys.maxsize  # tensors that it takes in one call
    on_cpu: bool = False  # runs on the CPU's cores, and shows its own progress


# --- benchmark, and the stand-in that takes the same flags ----------------------------------------------------------

def find_benchmark():
    """Return the real binary's command, or None; the stand-in does not count."""
    for found, command in ((f"./{BINARY}", f"./{BINARY}"), (shutil.which(BINARY), BINARY)):
        if found and os.access(found, os.X_OK) and Path(found).resolve().parent != ROOT / "host":
            return [command]
    return None


def find_host():
    """Return the stand-in's command."""
    found = shutil.which(BINARY)
    return [BINARY] if found and Path(found).resolve().parent == ROOT / "host" else [str(ROOT / "host" / BINARY)]


def benchmark_dataset(om: Path, info: str, device: int, batch_size: int, kind: str) -> list:
    side = model.SIDE  # without DVPP the tool requires width and height and ignores them
    return ["-model_type=vision", f"-device_id={device}", f"-batch_size={batch_size}", f"-om_path={om}",
            f"-input_text_path={info}", f"-input_width={side}", f"-input_height={side}",
            f"-output_binary={kind == 'bin'}", "-useDvpp=False"]


def benchmark_pure(om: Path, device: int, batch_size: int, rounds: int) -> list:
    return [f"-round={rounds}", f"-om_path={om}", f"-device_id={device}", f"-batch_size={batch_size}"]


def benchmark_place(_device: int) -> Path:
    return Path()


def benchmark_prepare(_om: Path, _samples: list, _device: int):
    """Do nothing: benchmark reads the om and the info file."""


def benchmark_dumps(device: int) -> Path:
    return WORK / f"dumpOutput_device{device}"


def benchmark_images(_device: int):
    """Return None: its dumps bear the names of the images."""


def perf_file(device: int, batch_size: int, pure: bool, om: Path) -> Path:
    return WORK / (f"PureInfer_perf_of_{om.stem}_in_device_{device}.txt" if pure else
                   f"perf_vision_batchsize_{batch_size}_device_{device}.txt")


def benchmark_rates(device: int, batch_size: int, _log: Path, pure: bool, om: Path) -> tuple:
    """Return (interface, e2e or None, {stage: ms per image}) of a perf file; rates in images/s."""
    path = perf_file(device, batch_size, pure, om)
    text = text_of(path) if path.exists() else ""
    interface = re.search(rf"(?:Interface throughputRate:|ave_throughputRate =) {RATE}", text)
    if not interface:
        raise ValueError(f"printed no Interface throughputRate (see {path})")
    e2e = re.search(rf"\[e2e\] throughputRate: {RATE}", text)
    stages = {}
    for stage, latency in re.findall(rf"\[([a-z ]+)\] throughputRate: .*\bmodule[A-Za-z]+: {RATE}", text):
        per_image = float(latency) / (batch_size if stage == "post" else 1)  # post's is per batch
        stages["infer" if stage == "inference" else stage] = per_image  # some releases write it out
    return float(interface.group(1)), float(e2e.group(1)) if e2e else None, stages


# --- ais_bench ------------------------------------------------------------------------------------------------------
#
# Since September 2023 it refuses soft links, files that others own or may write, and characters other than those of
# AIS_PATH in absolute paths; since 2024 also an output folder that is open to others, and since 2025 more than 100,000
# files in a folder (its ais_bench/infer/path_security_check.py, args_check.py and utils.py; docs/ais_bench.md lists
# the releases). So it runs in a folder of its own, where it finds the om and the tensors under names of ours. That
# also keeps it apart from modules in the work directory, since python3 -m searches the current folder first.

AIS_PATH = re.compile("[A-Za-z0-9_./-]+")
AIS_LIMIT = 100_000  # files in a folder
AIS_NAMES_LIMIT = AIS_LIMIT * 256  # bytes of the names of as many images
ACLRUNTIME = (0, 0, 2)  # the oldest that its releases accept without a warning (version_check in its sources)
AIS_OPTIONS = ("--model", "--batchsize", "--device", "--input", "--output", "--outfmt", "--loop")
ELSEWHERE = "/"  # a folder without modules
HELP_PATIENCE = 300  # seconds; loading CANN's libraries from a network disk takes some

PROBE = """
import importlib.util, json, os, re
def versions(name, folder):
    found = (re.match(name + "-([0-9.]*[0-9])", entry) for entry in os.listdir(folder) if entry.endswith("-info"))
    return [match.group(1) for match in found if match]
tool, runtime = map(importlib.util.find_spec, ("ais_bench", "aclruntime"))
for folder in tool and tool.submodule_search_locations or ():
    if os.path.isdir(os.path.join(folder, "infer")):
        beside = os.path.dirname(runtime.origin) if runtime and runtime.origin else folder
        print(json.dumps({"ais_bench": versions("ais_bench", os.path.dirname(folder)),
                          "aclruntime": versions("aclruntime", beside) or
                                        versions("aclruntime", os.path.dirname(beside))}))
"""


def pythons() -> list:
    """Return this Python and each python3 on PATH; a .venv hides the host's, which may have ais_bench."""
    found = [sys.executable]
    for folder in os.get_exec_path():
        path = os.path.abspath(os.path.join(folder, "python3"))
        if os.access(path, os.X_OK) and path not in found:
            found.append(path)
    return found


def answer(command: list) -> tuple:
    """Run a command away from the work directory; return (whether it succeeded, its stdout, its stderr)."""
    try:
        done = subprocess.run(command, cwd=ELSEWHERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=HELP_PATIENCE, check=False,
                              env={**os.environ, "COLUMNS": "200"})
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, "", str(error)
    return done.returncode == 0, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@functools.lru_cache(maxsize=None)
def ais_bench():
    """Return {python, ais_bench: its version, aclruntime: its version}; None if no Python has it.

    A package of that name without ais_bench/infer is another one. Raises Failure (status 4) if it does not start.
    """
    for python in pythons():
        _, printed, _ = answer([python, "-c", PROBE])
        try:
            found = json.loads(printed.splitlines()[-1])
        except (IndexError, ValueError):
            continue
        found = {name: versions[0] if versions else "of unknown version" for name, versions in found.items()}
        found["python"] = "python3" if shutil.which("python3") == python else python
        name = f"ais_bench {found['ais_bench']} of {python}"
        works, text, errors = answer([python, "-m", "ais_bench", "--help"])
        if not works:
            raise Failure(f"{name}: does not start: {last_line(errors) or 'no reason given'}; it needs the aclruntime "
                          "wheel of its own release, built for this Python, and CANN's environment", 4)
        lacks = [option for option in AIS_OPTIONS if option not in text]
        if lacks:
            raise Failure(f"{name}: a release unknown here, without {', '.join(lacks)}; install one of those in "
                          "docs/ais_bench.md", 4)
        return found
    return None


def find_ais_bench():
    """Return ais_bench's command, or None where no Python has it."""
    return [ais_bench()["python"], "-m", "ais_bench"] if ais_bench() else None


def ais_place(device: int) -> Path:
    return WORK / f"ais_bench_device{device}"


def ais_path(path: str) -> str:
    """Return the path by which ais_bench reaches `path` of its folder; it checks the absolute one."""
    return path if AIS_PATH.fullmatch(os.getcwd()) else f"/proc/self/cwd/{path}"


def ais_om(om: Path) -> str:
    return re.sub("[^A-Za-z0-9_.-]", "_", om.name)


def ais_arguments(om: Path, device: int, batch_size: int) -> list:
    return [f"--model={ais_path(ais_om(om))}", f"--batchsize={batch_size}", f"--device={device}"]


def ais_bench_dataset(om: Path, _info: str, device: int, batch_size: int, kind: str) -> list:
    return [*ais_arguments(om, device, batch_size), f"--input={ais_path('input')}", f"--output={ais_path('output')}",
            f"--outfmt={kind.upper()}"]


def ais_bench_pure(om: Path, device: int, batch_size: int, rounds: int) -> list:
    return [*ais_arguments(om, device, batch_size), f"--loop={rounds}"]


def lend(path, target: Path):
    """Make `target` a file with the content of `path` that ais_bench accepts: a hard link, or else a copy.

    Others lose the permission to write to a linked file (umask 0002 gives it to the group).
    """
    path = os.path.realpath(path)
    size_of(path)
    try:
        if os.stat(path).st_uid != os.geteuid():
            raise PermissionError
        os.link(path, target)
    except OSError:  # another user's, or on another file system
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            raise located(error, target, os.path.getsize(path)) from error
    mode = stat.S_IMODE(os.stat(target).st_mode)
    if mode & 0o022 or not mode & 0o400:
        os.chmod(target, mode & 0o755 | 0o400)


def ais_bench_prepare(om: Path, samples: list, device: int):
    """Fill its folder: the om, tensors input/000000.bin, ... in the order of `samples`, and the names of the images."""
    place = ais_place(device)
    for folder in (place, place / "input", place / "output"):
        folder.mkdir(parents=True)
        folder.chmod(0o750)
    lend(om, place / ais_om(om))
    for i, (_, path, _, _) in enumerate(samples):
        lend(path, place / f"input/{i:06d}.bin")
    write(place / "names", "\n".join(image_name(path) for _, path, _, _ in samples))


def ais_dumps(device: int) -> Path:
    """Return the folder that it named by the time: one that we name would have to be below the current folder."""
    output = ais_place(device) / "output"
    return next((path for path in sorted(output.glob("*")) if path.is_dir()), output)


def ais_images(device: int) -> dict:
    try:
        names = read(ais_place(device) / "names", AIS_NAMES_LIMIT).decode(errors="surrogateescape")
    except (FileNotFoundError, Failure):
        return {}  # killed before they were written
    return {f"{i:06d}": name for i, name in enumerate(names.split("\n"))}


def ais_bench_rates(_device: int, batch_size: int, log: Path, pure: bool, _om: Path) -> tuple:
    """Return (throughput in images/s, None, {}): it prints neither an e2e rate nor stages."""
    text = text_of(log)
    taken = re.search(r"try get model batchsize:(\d+)" if pure else r"\bfilesperbatch:(\d+)", text)
    if taken and int(taken.group(1)) != batch_size:  # it computes the throughput with --batchsize
        raise ValueError(f"ran {taken.group(1)} tensors at a time instead of {batch_size}, so its rate is wrong: the "
                         f"om has another batch size, or takes tensors of another size; see {log}")
    found = re.findall(rf"(?i)throughput [^\n]*: {RATE}\s*$", text, re.MULTILINE)
    if not found:
        raise ValueError(f"printed no throughput (see {log})")
    return float(found[-1]), None, {}


# --- for all of them ------------------------------------------------------------------------------------------------

BENCHMARK = {"dataset": benchmark_dataset, "pure": benchmark_pure, "place": benchmark_place,
             "prepare": benchmark_prepare, "dumps": benchmark_dumps, "images": benchmark_images,
             "rates": benchmark_rates}
ENGINES = {  # in order of preference
    "benchmark": Engine(find=find_benchmark, missing=BINARY, **BENCHMARK),
    "ais_bench": Engine(find=find_ais_bench, missing="ais_bench", dataset=ais_bench_dataset, pure=ais_bench_pure,
                        place=ais_place, prepare=ais_bench_prepare, dumps=ais_dumps, images=ais_images,
                        rates=ais_bench_rates, limit=AIS_LIMIT),
    "host": Engine(find=find_host, missing=f"host/{BINARY}", on_cpu=True, **BENCHMARK),
}
NAMES = tuple(ENGINES)
PROGRESS = re.compile(rb"curSampleNum is ([0-9]{1,9})|Processing: .*\| ([0-9]{1,9})/[0-9]+ \[")
REASONS = (r"^(?!\s).*\[ERROR\].*$", r"^\w+(?:\.py)?: error: .*$", r"^[\w.]*(?:Error|Exception)\b.*$")  # the tool's
# own, argparse's, Python's: of the first kind that there is, the first line is closest to the cause


def is_ascend(om: Path) -> bool:
    """Return True if CANN's atc wrote the om."""
    size_of(om)
    with open(om, "rb") as file:
        return file.read(len(ASCEND_MAGIC)) == ASCEND_MAGIC


def recorded(om: Path) -> dict:
    """Return what is known of an om: {batch_size, aipp, dtype, layout, classes}, from compile_om.py or a host header.

    {} without either.
    """
    try:
        record = read_json(f"{om}.json")
        if record["om_sha256"] == hash_of(om):
            return {key: record[key] for key in ("batch_size", "aipp", "dtype", "layout", "classes")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    try:
        header = host_om.load(om)[0]
        return {"batch_size": header["batch_size"], **host_om.takes(header),
                "classes": functools.reduce(operator.mul, header["outputs"][0]["shape"][1:], 1)}
    except (Failure, OSError, KeyError, TypeError):
        return {}


def choose(asked, ascend: bool) -> str:
    """Return the engine's name: `asked`, or without it the first installed one that runs an om of this kind.

    Raises Failure (status 4) if none is installed.
    """
    if asked == "host" or (asked is None and not ascend):
        return "host"  # it refuses an om that it cannot run
    wanted = [asked] if asked else [name for name in NAMES if not ENGINES[name].on_cpu]
    for name in wanted:
        if ENGINES[name].find():
            return name
    for path in (Path(BINARY), ROOT / BINARY):
        if "benchmark" in wanted and path.is_file():
            raise Failure(f"{path}: not executable; chmod +x {shlex.quote(str(path))}", 4)
    raise Failure(f"{' or '.join(ENGINES[name].missing for name in wanted)}: not found; place CANN's {BINARY} next to "
                  "the scripts, or install ais_bench with aclruntime", 4)


def text_of(path: Path) -> str:
    """Return the text of a tool's log or perf file."""
    return read(path, LOG_LIMIT).decode(errors="replace")


def device_name(engine: str, log: Path) -> str:
    """Return the device's name in the tables: the stand-in prints its CPU's; for other tools it is the tool's name."""
    printed = re.search(r"^\[INFO\] (CPU stand-in.*)$", text_of(log), re.MULTILINE)
    return printed.group(1) if ENGINES[engine].on_cpu and printed else engine


def samples_done(line: bytes, batch_size: int):
    """Return how many samples a tool has run, if this line of its output says so, else None."""
    found = PROGRESS.search(line)
    return found and int(found.group(1) or int(found.group(2)) * batch_size)


def reason(log: Path):
    """Return the line in which a tool names the error that ended it, or None."""
    text = text_of(log)
    for pattern in REASONS:
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            return found.group(0).strip()
    return None


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip()


def description(engine: str) -> str:
    """Return a tool's name and what is known of its version; raises Failure (status 4) if that does not fit."""
    if engine != "ais_bench":
        return engine
    found = ais_bench()
    runtime = tuple(int(part) for part in re.findall("[0-9]+", found["aclruntime"]))
    if runtime and runtime < ACLRUNTIME:
        raise Failure(f"aclruntime {found['aclruntime']}: too old for ais_bench {found['ais_bench']}, which needs "
                      f"{'.'.join(map(str, ACLRUNTIME))}; install both wheels of one release", 4)
    return f"ais_bench {found['ais_bench']}, aclruntime {found['aclruntime']} ({found['python']})"


def temporary(device: int) -> tuple:
    """Return (folders, files) that a run on this device needs only while it lasts."""
    return ([WORK / f"dumpOutput_device{device}", ais_place(device)],
            [WORK / f"dumpOutput_device{device}.owner", WORK / f"device{device}.info"])


def perf_files(device: int, batch_size: int, om: Path) -> list:
    """Return the files to which benchmark would append."""
    return [perf_file(device, batch_size, pure, om) for pure in (False, True)]

"""Describe the inference tools: CANN's benchmark binary, its successor ais_bench, and the stand-in in host/.

Everything specific to a tool is here, in one entry of ENGINES; infer.py treats them all alike.
"""
import importlib.util
import os
import platform
import re
import shlex
import shutil
from pathlib import Path
from typing import Callable, NamedTuple

from _root import ROOT

from common import model
from common.cli import Failure
from common.files import hash_of, read, read_json, size_of
from host.om import ASCEND_MAGIC

BINARY = f"benchmark.{platform.machine()}"
RATE = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
WORK = Path("result")  # the tools write below it
LOG_LIMIT = 1 << 30  # bytes of a tool's output, or of its perf file


class Engine(NamedTuple):
    """An inference tool. Its command is the list of words find() + dataset() or pure()."""

    find: Callable  # () -> the words that start it, or None where it is not installed
    missing: str  # its name in "not found" messages
    dataset: Callable  # (om, info, device, batch_size) -> arguments to run the tensors of an info file
    pure: Callable  # (om, device, batch_size, rounds) -> arguments to run synthetic data
    prepare: Callable  # (samples, device): write the files that `dataset` reads besides the info file
    rates: Callable  # (device, batch_size, log, pure, om) -> (interface, e2e or None, stages); ValueError: what it did
    on_cpu: bool = False  # runs on the CPU's cores, and shows its own progress


# --- benchmark, and the stand-in that takes the same flags ----------------------------------------------------------

def find_benchmark():
    """Return the real binary's command, or None; the stand-in does not count."""
    if os.access(BINARY, os.X_OK):
        return [f"./{BINARY}"]
    found = shutil.which(BINARY)
    return [BINARY] if found and Path(found).resolve().parent != ROOT / "host" else None


def find_host():
    """Return the stand-in's command."""
    found = shutil.which(BINARY)
    return [BINARY] if found and Path(found).resolve().parent == ROOT / "host" else [str(ROOT / "host" / BINARY)]


def benchmark_dataset(om: Path, info: str, device: int, batch_size: int) -> list:
    side = model.SIDE  # without DVPP the tool requires width and height and ignores them
    return ["-model_type=vision", f"-device_id={device}", f"-batch_size={batch_size}", f"-om_path={om}",
            f"-input_text_path={info}", f"-input_width={side}", f"-input_height={side}", "-output_binary=False",
            "-useDvpp=False"]


def benchmark_pure(om: Path, device: int, batch_size: int, rounds: int) -> list:
    return [f"-round={rounds}", f"-om_path={om}", f"-device_id={device}", f"-batch_size={batch_size}"]


def benchmark_prepare(_samples: list, _device: int):
    """Do nothing: benchmark reads the info file."""


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

def find_ais_bench():
    """Return ais_bench's command, or None where python3 does not have it."""
    return ["python3", "-m", "ais_bench"] if importlib.util.find_spec("ais_bench") else None


def ais_input(device: int) -> Path:
    return WORK / f"ais_input_device{device}"


def ais_bench_dataset(om: Path, _info: str, device: int, batch_size: int) -> list:
    return [f"--model={om}", f"--input={ais_input(device)}", f"--output={WORK}",
            f"--output_dirname=dumpOutput_device{device}", "--outfmt=TXT", f"--batchsize={batch_size}",
            f"--device={device}"]


def ais_bench_pure(om: Path, device: int, batch_size: int, rounds: int) -> list:
    return [f"--model={om}", f"--loop={rounds}", f"--batchsize={batch_size}", f"--device={device}"]


def ais_bench_prepare(samples: list, device: int):
    """Link the tensors into a folder; it reads no info file."""
    ais_input(device).mkdir(parents=True)
    for _, path, _, _ in samples:
        (ais_input(device) / os.path.basename(path)).symlink_to(os.path.abspath(path))


def ais_bench_rates(_device: int, batch_size: int, log: Path, pure: bool, _om: Path) -> tuple:
    """Return (throughput in images/s, None, {}): it prints neither an e2e rate nor stages."""
    text = text_of(log)
    taken = re.search(r"try get model batchsize:(\d+)" if pure else r"\bfilesperbatch:(\d+)", text)
    if taken and int(taken.group(1)) != batch_size:  # it computes the throughput with --batchsize
        raise ValueError(f"ran {taken.group(1)} tensors at a time instead of {batch_size}, so its rate is wrong: the "
                         f"om has another batch size, or takes tensors of another size; see {log}")
    found = re.findall(rf"throughput [^\n]*: {RATE}\s*$", text, re.MULTILINE)
    if not found:
        raise ValueError(f"printed no throughput (see {log})")
    return float(found[-1]), None, {}


ENGINES = {  # in order of preference
    "benchmark": Engine(find_benchmark, BINARY, benchmark_dataset, benchmark_pure, benchmark_prepare, benchmark_rates),
    "ais_bench": Engine(find_ais_bench, "ais_bench", ais_bench_dataset, ais_bench_pure, ais_bench_prepare,
                        ais_bench_rates),
    "host": Engine(find_host, f"host/{BINARY}", benchmark_dataset, benchmark_pure, benchmark_prepare, benchmark_rates,
                   on_cpu=True),
}
NAMES = tuple(ENGINES)


# --- for all of them ------------------------------------------------------------------------------------------------

def is_ascend(om: Path) -> bool:
    """Return True if CANN's atc wrote the om."""
    size_of(om)
    with open(om, "rb") as file:
        return file.read(len(ASCEND_MAGIC)) == ASCEND_MAGIC


def recorded(om: Path) -> dict:
    """Return what compile_om.py had the om compiled for, {"batch_size": int, "aipp": bool}; {} without its record."""
    try:
        record = read_json(f"{om}.json")
        if record["om_sha256"] != hash_of(om):
            return {}
        (shape,) = (word for word in record["command"] if word.startswith("--input_shape="))
        return {"batch_size": int(re.search(r":(\d+),", shape).group(1)),
                "aipp": any(word.startswith("--insert_op_conf=") for word in record["command"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
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


def leftovers(device: int, batch_size: int, om: Path) -> tuple:
    """Return (folders, files) of an earlier run on this device, to which the tools would append."""
    folders = [WORK / f"dumpOutput_device{device}", ais_input(device)]
    files = [perf_file(device, batch_size, pure, om) for pure in (False, True)]
    return folders, [*files, WORK / f"dumpOutput_device{device}_summary.json"]

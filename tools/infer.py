#!/usr/bin/env python3
"""Run an om over the tensors of an info file, on one chip or several, with the tool that is there.

Usage:    python3 tools/infer.py OM OUT --info INFO --batch_size N [--device_ids 0,1]
                  [--engine benchmark|ais_bench|host]
          python3 tools/infer.py OM OUT --round 20 --batch_size N [--device_ids 0] [--engine ...]
Example:  python3 tools/infer.py xception_bs1.om result/dumpOutput_bs1 --info xception.info --device_ids 0,1
          $ benchmark.x86_64 -model_type=vision -device_id=0 ...
          $ benchmark.x86_64 -model_type=vision -device_id=1 ...
          50000 dumps in result/dumpOutput_bs1 (50000 made, 0 kept)

The tool: for an om of the real atc, benchmark.$(uname -m) if it lies in the current folder or on
PATH, else ais_bench if python3 has it; for a host om, the stand-in in host/. --engine forces one.
Several devices get equal shares of INFO and run at the same time.

OUT: a folder with one dump for each line of INFO, as the tool writes it: NAME_1.txt (benchmark) or NAME_0.txt
(ais_bench). None is short, NaN or infinite. A run that failed or was killed goes on where it stopped.
OUT.json (alone with --round: pure inference on made-up data): what was run and how fast, read by
throughput.py: {engine, device, batch_size, images, commands, rates: {device id: {interface, images, stages}}, e2e,
complete, made_from}; rates in images/s, stages in ms an image as the benchmark tells them ({} from ais_bench).
The tools work below ./result, their output is kept in ./result/*.log.

Exit 4 if a tool failed, left out dumps, told no rate or got stuck: its device is named, the others finish.
"""
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from _root import ROOT

import chips
from common import cli
from common.cli import Failure, listing, parser_of, positive, progress, run, say
from common.files import free_space, hash_of, hold, lines, located, read, read_json, size_of, write
from common.jobs import end_with_parent

BINARY = f"benchmark.{platform.machine()}"
ENGINES = ("benchmark", "ais_bench", "host")
ASCEND_MAGIC = b"IMOD"  # first bytes of an om that the real atc wrote
RATE = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
WORK = Path("result")
PATIENCE = 1800  # seconds; loading a large om takes some minutes, a batch less than a second
DUMP = re.compile(rb"[-+.0-9eE \t]+\r?\n")  # one line of numbers, with its end
DUMP_LIMIT = 16 << 20  # bytes of a dump; those of 1000 classes have about 10,000
NOTE_LIMIT = 1000  # bytes of a note that tells whose dumps they are
LOG_LIMIT = 1 << 30  # bytes of what a tool prints or notes


# --- the tools: all that differs between them -----------------------------------------------------------------------

def find_binary():
    """The real benchmark binary's command name, or None; the stand-in does not count."""
    if os.access(BINARY, os.X_OK):
        return f"./{BINARY}"
    found = shutil.which(BINARY)
    return BINARY if found and Path(found).resolve().parent != ROOT / "host" else None


def is_ascend(om: Path) -> bool:
    """Whether an om is the real atc's."""
    size_of(om)
    with open(om, "rb") as file:
        return file.read(len(ASCEND_MAGIC)) == ASCEND_MAGIC


def choose_engine(asked, ascend: bool) -> str:
    """'benchmark', 'ais_bench' or 'host': the one asked for, else the first that can run an om of this kind."""
    if asked == "host" or (asked is None and not ascend):
        return "host"  # which says what to do about an om that it cannot run
    if asked != "ais_bench" and find_binary():
        return "benchmark"
    if asked != "benchmark" and importlib.util.find_spec("ais_bench"):
        return "ais_bench"
    for path in (Path(BINARY), ROOT / BINARY):
        if asked != "ais_bench" and path.is_file():
            raise Failure(f"{path}: not executable: chmod +x {shlex.quote(str(path))}", 4)
    missing = {"benchmark": BINARY, "ais_bench": "ais_bench"}.get(asked, f"{BINARY} or ais_bench")
    raise Failure(f"{missing}: not found; lay CANN's {BINARY} beside the scripts, or install ais_bench with "
                  "aclruntime", 4)


def benchmark_program(engine: str) -> str:
    """The command that answers to the benchmark's flags."""
    if engine == "benchmark":
        return find_binary()
    found = shutil.which(BINARY)
    return BINARY if found and Path(found).resolve().parent == ROOT / "host" else str(ROOT / "host" / BINARY)


def dataset_command(engine: str, om: Path, info: str, device: int, batch_size: int) -> list:
    """The command that runs the tensors of `info`."""
    if engine == "ais_bench":
        return ["python3", "-m", "ais_bench", f"--model={om}", f"--input={WORK}/ais_input_device{device}",
                f"--output={WORK}", f"--output_dirname=dumpOutput_device{device}", "--outfmt=TXT",
                f"--batchsize={batch_size}", f"--device={device}"]
    # The suite's network is 299 x 299; without DVPP the tool does not use these two
    return [benchmark_program(engine), "-model_type=vision", f"-device_id={device}", f"-batch_size={batch_size}",
            f"-om_path={om}", f"-input_text_path={info}", "-input_width=299", "-input_height=299",
            "-output_binary=False", "-useDvpp=False"]


def pure_command(engine: str, om: Path, device: int, batch_size: int, rounds: int) -> list:
    """The command that runs made-up data `rounds` times."""
    if engine == "ais_bench":
        return ["python3", "-m", "ais_bench", f"--model={om}", f"--loop={rounds}", f"--batchsize={batch_size}",
                f"--device={device}"]
    return [benchmark_program(engine), f"-round={rounds}", f"-om_path={om}", f"-device_id={device}",
            f"-batch_size={batch_size}"]


def prepare_input(engine: str, samples: list, device: int):
    """Give ais_bench its share as a folder of links; it reads no info file."""
    folder = WORK / f"ais_input_device{device}"
    shutil.rmtree(folder, ignore_errors=True)
    if engine == "ais_bench":
        folder.mkdir(parents=True)
        for _, path, _, _ in samples:
            (folder / os.path.basename(path)).symlink_to(os.path.abspath(path))


def text_of(path: Path) -> str:
    """What a tool printed or noted."""
    return read(path, LOG_LIMIT).decode(errors="replace")


def read_rates(engine: str, device: int, batch_size: int, log: Path, pure: bool, om: Path) -> tuple:
    """(Interface throughputRate, e2e rate or None), images/s, and {stage: ms an image}, as the tool tells them.

    Raises ValueError if it does not.
    """
    if engine == "ais_bench":
        found = re.findall(rf"throughput [^\n]*: {RATE}\s*$", text_of(log), re.MULTILINE)
        if not found:
            raise ValueError(f"no throughput in {log}")
        return float(found[-1]), None, {}
    path = WORK / (f"PureInfer_perf_of_{om.stem}_in_device_{device}.txt" if pure else
                   f"perf_vision_batchsize_{batch_size}_device_{device}.txt")
    text = text_of(path) if path.exists() else ""
    interface = re.search(rf"(?:Interface throughputRate:|ave_throughputRate =) {RATE}", text)
    if not interface:
        raise ValueError(f"no Interface throughputRate in {path}")
    e2e = re.search(rf"\[e2e\] throughputRate: {RATE}", text)
    stages = {}
    for stage, latency in re.findall(rf"\[([a-z ]+)\] throughputRate: .*\bmodule[A-Za-z]+: {RATE}", text):
        per_image = float(latency) / (batch_size if stage == "post" else 1)  # post's is of a batch
        stages["infer" if stage == "inference" else stage] = per_image  # some releases write it out
    return float(interface.group(1)), float(e2e.group(1)) if e2e else None, stages


def clear(device: int, batch_size: int, om: Path):
    """Remove what an earlier run left for this device: the tools add to what they find."""
    shutil.rmtree(WORK / f"dumpOutput_device{device}", ignore_errors=True)
    for name in (f"perf_vision_batchsize_{batch_size}_device_{device}.txt", f"dumpOutput_device{device}_summary.json",
                 f"PureInfer_perf_of_{om.stem}_in_device_{device}.txt", f"dumpOutput_device{device}.owner"):
        with contextlib.suppress(FileNotFoundError):
            (WORK / name).unlink()


# --- info file and dumps --------------------------------------------------------------------------------------------

def read_info(path: Path) -> list:
    """[id, path, width, height] of each line; raises Failure on a line that is none."""
    samples = []
    for number, line in lines(path):
        fields = line.split()
        if len(fields) != 4:
            raise Failure(f"{path}:{number}: not \"id path width height\": make the info file again")
        samples.append(fields)
    if not samples:
        raise Failure(f"{path}: no sample in it: make the info file again")
    twice = [name for name, count in Counter(stem(sample[1]) for sample in samples).items() if count > 1]
    if twice:
        raise Failure(f"{path}: {len(twice)} names come twice, and would share a dump: {listing(twice)}")
    return samples


def stem(path: str) -> str:
    """The image that a tensor or a dump's name before its suffix stands for: up to the first dot."""
    return os.path.basename(path).split(".")[0]


def whole_dumps(folder: Path) -> dict:
    """{image: dump} of those dumps in `folder` that ended, with as many values as most, none NaN or infinite."""
    sizes = {}
    for path in folder.glob("*.txt"):
        try:
            data = read(path, DUMP_LIMIT)
        except Failure:
            continue  # no dump, whatever it is
        if DUMP.fullmatch(data):
            sizes[path] = len(data.split())
    usual = Counter(sizes.values()).most_common(1)
    return {stem(path.name).rpartition("_")[0]: path for path, size in sizes.items() if size == usual[0][0]}


def collect(out: Path, wanted: set, devices: list, owner: str):
    """Move whole dumps of `wanted` images from the devices' folders to `out`, if they were made for `owner`."""
    for device in devices:
        note = WORK / f"dumpOutput_device{device}.owner"
        if note.is_file() and read(note, NOTE_LIMIT) == owner.encode():
            for image, path in whole_dumps(WORK / f"dumpOutput_device{device}").items():
                if image in wanted:
                    os.replace(path, out / path.name)


# --- running --------------------------------------------------------------------------------------------------------

def cores_of(position: int, count: int) -> str:
    """The cores for stand-in number `position` of `count`, for taskset: an equal share, at least one."""
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores[position::count] or [cores[position % len(cores)]]))


def relay(process, log: Path, prefix: str, errors: list, heard: dict, done: dict):
    """Copy a tool's output to its log, and to stdout but for its line for each batch; what goes wrong, to `errors`.

    heard[log] is the time of the last line, done[log] the number of samples that the tool has told of.
    """
    place = log
    try:
        if log.is_symlink() and log.is_file():
            log.unlink()  # or what it leads to would be written
        with open(log, "wb", buffering=0) as file:
            for line in process.stdout:
                heard[log] = time.time()
                place = log
                file.write(line)
                place = Path("standard output")
                sample = re.search(rb"curSampleNum is ([0-9]{1,9})", line)
                if sample:
                    done[log] = int(sample.group(1))
                else:
                    print(prefix + line.decode(errors="replace"), end="", flush=True)
    except OSError as error:
        errors.append(located(error, place, 0))
        process.kill()  # it would wait for ever for its output to be read


def silent_for(device: int, heard: float) -> float:
    """Seconds since a tool last printed a line (at `heard`) or made a dump."""
    with contextlib.suppress(FileNotFoundError):
        heard = max(heard, os.path.getmtime(WORK / f"dumpOutput_device{device}"))
    return time.time() - heard


def run_tools(engine: str, commands: dict, logs: dict, patience: int, total: int = 0) -> dict:
    """Run one command for each device at the same time; {device: how it ended, None if well}.

    A tool that is silent for `patience` seconds is ended: after some errors the real one waits for ever. No process
    outlives this one's end. `total` is the number of samples, for the progress; the stand-in shows its own.
    """
    running, relays, errors, stuck, shown = {}, [], [], set(), 0
    heard, done, stack = dict.fromkeys(logs.values(), time.time()), {}, contextlib.ExitStack()
    try:
        for position, (device, command) in enumerate(commands.items()):
            if not cli.quiet:  # --quiet
                say("$ " + " ".join(shlex.quote(word) for word in command))
            # stand-ins for several chips share the cores
            share = ["taskset", "--cpu-list", cores_of(position, len(commands))] if engine == "host" else []
            running[device] = subprocess.Popen([*share, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                               preexec_fn=end_with_parent)  # noqa: PLW1509 (no thread has begun)
        for device, process in running.items():
            prefix = f"device {device}: " if len(commands) > 1 else ""
            relays.append(threading.Thread(target=relay, args=(process, logs[device], prefix, errors, heard, done)))
            relays[-1].start()
        advance = stack.enter_context(progress(total, "images")) if total and engine != "host" else None
        for thread in relays:
            while thread.is_alive():
                thread.join(1)
                if advance:
                    advance(sum(done.values()) - shown)
                    shown = sum(done.values())
                for device, process in running.items():
                    if process.poll() is None and silent_for(device, heard[logs[device]]) > patience:
                        stuck.add(device)
                        process.kill()
        if errors:
            raise errors[0]
        statuses = {device: process.wait() for device, process in running.items()}
        return {device: f"was ended after {patience} s without a word or a dump" if device in stuck else
                f"ended with status {status}" if status else None for device, status in statuses.items()}
    finally:
        stack.close()
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def device_name(engine: str, log: Path) -> str:
    """For the tables: what the stand-in says that it is, or the tool."""
    said = re.search(r"^\[INFO\] (CPU stand-in.*)$", text_of(log), re.MULTILINE)
    return said.group(1) if engine == "host" and said else engine


def warn_if_busy(engine: str, devices: list):
    """Say which of the chips to be timed is busy with something else: its figures will be wrong."""
    if engine == "host" or shutil.which("npu-smi") is None:
        return
    try:
        found = chips.find()
    except Failure as error:  # not needed for the run itself
        say(f"warning: whether the chip is busy is not known: {error}")
        return
    for chip in found:
        if chip["device"] in devices and chips.is_busy(chip):
            say(f"warning: device {chip['device']} is busy (AICore {chip['aicore']} %, {chip['processes']} processes): "
                "its rates will be too low")


def clean_up(device: int):
    """Remove what only the run itself needed."""
    for name in (f"dumpOutput_device{device}", f"ais_input_device{device}"):
        shutil.rmtree(WORK / name, ignore_errors=True)
    for name in (f"dumpOutput_device{device}.owner", f"device{device}.info"):
        with contextlib.suppress(FileNotFoundError):
            (WORK / name).unlink()


def start_share(args, engine: str, device: int, share: list, owner: str, everything: bool) -> list:
    """Make `share` (rows of the info file) ready for a device; return the command that runs it."""
    clear(device, args.batch_size, args.om)
    write(WORK / f"dumpOutput_device{device}.owner", owner)
    info = args.info
    if not everything:
        info = f"./{WORK}/device{device}.info"
        write(info, "".join(f"{i} {' '.join(rest)}\n" for i, (_, *rest) in enumerate(share)))
    prepare_input(engine, share, device)
    return dataset_command(engine, args.om, info, device, args.batch_size)


def check_share(args, engine: str, device: int, share: list, ending: str, log: Path) -> tuple:
    """(rates or None, problem or None) of a device whose tool has ended, as run_tools told."""
    rates = None
    with contextlib.suppress(ValueError):
        rates = read_rates(engine, device, args.batch_size, log, False, args.om)
    found = whole_dumps(args.out)
    missing = [path for _, path, _, _ in share if stem(path) not in found]
    if ending:
        return rates, f"{engine} {ending}"
    if missing:
        said = re.findall(r"^.*\[ERROR\].*$", text_of(log), re.MULTILINE)  # the binary may end well all the same
        return rates, (f"{len(missing)} of {len(share)} tensors have no whole dump ({listing(missing)})"
                       + (f"; {engine} said: {said[-1].strip()}" if said else ""))
    if rates is None:
        for _, path, _, _ in share:  # a tool that ended well would have told its rate: trust none of it
            found[stem(path)].unlink()
        return None, f"{engine} told no Interface throughputRate (see {log})"
    return rates, None


def make_dumps(args, engine: str, todo: list, owner: str, record: dict) -> list:
    """Run the tools over the samples of `todo`; put rates into `record`; return what went wrong, a line each."""
    warn_if_busy(engine, args.device_ids)
    shares = {device: todo[i::len(args.device_ids)] for i, device in enumerate(args.device_ids)}
    shares = {device: share for device, share in shares.items() if share}
    everything = len(todo) == record["images"] and len(shares) == 1
    commands = {device: start_share(args, engine, device, share, owner, everything) for device, share in shares.items()}
    logs = {device: WORK / f"{engine}_bs{args.batch_size}_device{device}.log" for device in shares}
    started = time.monotonic()
    record["commands"] = [" ".join(map(shlex.quote, command)) for command in commands.values()]
    endings = run_tools(engine, commands, logs, args.patience, len(todo))
    seconds = time.monotonic() - started
    collect(args.out, {stem(path) for _, path, _, _ in todo}, list(shares), owner)

    problems, record["rates"] = [], {}
    for device, share in shares.items():
        rates, problem = check_share(args, engine, device, share, endings[device], logs[device])
        if problem:
            problems.append(f"device {device}: {problem}")
        else:
            record["rates"][str(device)] = {"interface": rates[0], "images": len(share), "stages": rates[2]}
            record["e2e"] = rates[1] if rates[1] and len(shares) == 1 else len(todo) / seconds
            clean_up(device)
    record["device"] = device_name(engine, next(iter(logs.values())))
    return problems


def load_record(path: Path, fresh: dict) -> dict:
    """The record that an earlier run left, if it is of the same om, tensors and tool; else `fresh`."""
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError):
        return fresh
    return record if isinstance(record, dict) and record.get("made_from") == fresh["made_from"] else fresh


def is_record(path: Path) -> bool:
    """Whether a file is a record of this script, of whatever it may have run."""
    try:
        return "made_from" in read_json(path)
    except (FileNotFoundError, ValueError, TypeError):
        return False


def save_record(path: Path, record: dict):
    write(path, json.dumps(record, indent=1) + "\n")


def run_dataset(args, engine: str, record_path: Path) -> int:
    """Make the dumps that are missing; see the head of this file."""
    samples = read_info(Path(args.info))
    manifest = Path(os.path.dirname(samples[0][1]), "manifest.json")
    fresh = {"engine": engine, "batch_size": args.batch_size, "images": len(samples), "complete": False, "rates": {},
             "made_from": {"om": hash_of(args.om), "info": hash_of(Path(args.info)), "engine": engine,
                           "tensors": hash_of(manifest) if manifest.exists() else None}}
    owner = hashlib.sha256(f"{fresh['made_from']} {args.out}".encode()).hexdigest()
    record = load_record(record_path, fresh)
    args.out.mkdir(parents=True, exist_ok=True)
    remains = [path for path in args.out.iterdir() if path.name.endswith((".txt", ".bin", ".part"))]
    if not is_record(record_path) and any(args.out.iterdir()):
        raise Failure(f"{args.out}: not empty, and no record of infer.py ({record_path}) beside it: not made here; use "
                      "a folder of its own", 4)
    if record is fresh:
        for path in remains:
            path.unlink()
    record["complete"] = False if record is fresh else record["complete"]
    save_record(record_path, record)  # from here on the folder is known as this script's
    images = {stem(path) for _, path, _, _ in samples}
    collect(args.out, images, args.device_ids, owner)
    kept = {image: path for image, path in whole_dumps(args.out).items() if image in images}
    for path in set(args.out.iterdir()) - set(kept.values()):
        if path.name.endswith((".txt", ".bin", ".part")):
            path.unlink()
    todo = [sample for sample in samples if stem(sample[1]) not in kept]
    record["complete"] = record["complete"] and not todo
    save_record(record_path, record)
    problems = make_dumps(args, engine, todo, owner, record) if todo else []
    record["complete"] = not problems
    save_record(record_path, record)
    if problems:
        for problem in problems:
            say(f"infer.py: {problem}")
        room = "" if free_space(WORK) > DUMP_LIMIT else f" (the disk of {WORK} is full: make room first)"
        raise Failure(f"failed on the devices named above; dumps that are whole are kept: run again{room}", 4)
    print(f"{len(samples)} dumps in {args.out} ({len(todo)} made, {len(kept)} kept)")
    return 0


def run_pure(args, engine: str, record_path: Path) -> int:
    """Time the om on made-up data, on one device."""
    device = args.device_ids[0]
    record = {"engine": engine, "batch_size": args.batch_size, "round": args.round, "complete": True,
              "made_from": {"om": hash_of(args.om), "engine": engine, "round": args.round}}
    if load_record(record_path, record) is not record:
        print(f"{record_path}: timed before, kept")
        return 0
    warn_if_busy(engine, [device])
    clear(device, args.batch_size, args.om)
    log = WORK / f"{engine}_pure_bs{args.batch_size}_device{device}.log"
    command = pure_command(engine, args.om, device, args.batch_size, args.round)
    ending = run_tools(engine, {device: command}, {device: log}, args.patience)[device]
    try:
        rate, *_ = read_rates(engine, device, args.batch_size, log, True, args.om)
    except ValueError as error:
        raise Failure(f"device {device}: {error}", 4) from error
    if ending:
        raise Failure(f"device {device}: {engine} {ending}", 4)
    record.update(rates={str(device): {"interface": rate}}, device=device_name(engine, log))
    save_record(record_path, record)
    return 0


def device_list(text: str) -> list:
    """'0,1' -> [0, 1]; raises ValueError on anything else, or an id that comes twice."""
    devices = [int(part) for part in text.split(",")]
    if min(devices) < 0 or len(set(devices)) < len(devices):
        raise ValueError
    return devices


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("om", metavar="OM", type=Path, nargs="?")
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder for the dumps, made if missing")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--info", help="info file: run its tensors")
    mode.add_argument("--round", type=positive, help="run made-up data this many times instead (pure inference)")
    mode.add_argument("--which", action="store_true", help="print the tool for an om of the real atc")
    parser.add_argument("--batch_size", type=positive, default=1, help="the om's (default: 1)")
    parser.add_argument("--device_ids", type=device_list, default=[0], metavar="0,1,...", help="default: 0")
    parser.add_argument("--patience", type=positive, default=PATIENCE, metavar="SECONDS",
                        help="end a tool that neither prints nor dumps for so long (default: %(default)s)")
    parser.add_argument("--engine", choices=ENGINES, help="default: see above")
    args = parser.parse_args()

    if args.which:
        print(choose_engine(args.engine, True))
        return 0
    if args.out is None:
        parser.error("OM and OUT are missing")
    if args.out.name in ("", ".."):
        parser.error(f"OUT {args.out}: not a folder of its own")
    if args.info == "":
        parser.error("--info: no file name")
    engine = choose_engine(args.engine, is_ascend(args.om))
    WORK.mkdir(exist_ok=True)
    locks = [hold(WORK / f"device{device}.lock", f"device {device} of {WORK.resolve()}") for device in args.device_ids]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    locks.append(hold(args.out.with_name(args.out.name + ".lock"), args.out))  # until this function returns
    record_path = args.out.with_name(args.out.name + ".json")
    return (run_dataset if args.info else run_pure)(args, engine, record_path)


if __name__ == "__main__":
    run(main)

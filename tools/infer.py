#!/usr/bin/env python3
"""Run an om over the tensors of an info file, on one chip or several, with the inference tool that is installed.

Usage:    python3 tools/infer.py OM OUT --info INFO --batch_size N [--device_ids 0,1]
                  [--engine benchmark|ais_bench|host]
          python3 tools/infer.py OM OUT --round 20 --batch_size N [--device_ids 0] [--engine ...]
Example:  python3 tools/infer.py xception_bs1.om result/dumpOutput_bs1 --info xception.info --device_ids 0,1
          $ benchmark.x86_64 -model_type=vision -device_id=0 ...
          $ benchmark.x86_64 -model_type=vision -device_id=1 ...
          50000 dumps in result/dumpOutput_bs1 (50000 made, 0 kept)

The tool: for an om of the real atc, benchmark.$(uname -m) in the current folder or on PATH, otherwise ais_bench if a
python3 on PATH has it; for a host om, the stand-in in host/. --engine selects one. Their differences are in engines.py.
Several devices run at the same time, each on an equal share of INFO.

OUT: a folder with one dump per line of INFO, as the tool writes it: NAME_1.txt (benchmark) or NAME_0.txt (ais_bench),
.bin with --dumps bin, complete, without NaN or infinite values. The same command resumes a run that failed or was
killed.
OUT.json (the only output of --round, pure inference on synthetic data), read by summary.py: {engine, device,
batch_size, images, classes (values per dump, null if not known), commands, rates: {device id: {interface, images,
stages}}, e2e, complete, made_from}; rates in images/s, stages in ms per image as benchmark prints them ({} from
ais_bench). After a resume, a rate is that of all pieces, weighted by their images. A killed piece has no rate; then the
images of `rates` are fewer than `images`, and the tables say so. The tools work below ./result, and their output is
kept in ./result/*.log.

Exit status: 4 if a tool failed, omitted dumps, printed no rate or hung; its device is named, the others finish.
"""
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import _root

import chips
import engines
from common import cli
from common.cli import Failure, listing, parser_of, positive, progress, run, say
from common.files import free_space, hash_of, hold, located, read, read_json, write
from common.formats import DUMP_LIMIT, MANIFEST, check_tensors, dump_of, info_text, read_dump, read_info
from common.images import image_name
from common.jobs import end_with_parent
from engines import ENGINES, WORK

PATIENCE = 1800  # seconds; loading a large om takes some minutes, a batch less than a second
DUMP = re.compile(rb"[-+.0-9eE \t]+\r?\n")  # one line of numbers, with its end
NOTE_LIMIT = 1000  # bytes of a note that identifies the run that made the dumps


# --- info file and dumps --------------------------------------------------------------------------------------------

def read_samples(path: Path) -> list:
    """Return read_info(path); raises Failure also if two tensors would share a dump."""
    samples = read_info(path)
    twice = [name for name, count in Counter(image_name(sample[1]) for sample in samples).items() if count > 1]
    if twice:
        raise Failure(f"{path}: {len(twice)} duplicate names, which would share a dump: {listing(twice)}; rename the "
                      "images")
    return samples


def values_in(path: Path) -> int:
    """Return the number of values in a dump, 0 if it is incomplete or has NaN or infinite ones."""
    try:
        if path.suffix == ".bin":
            return len(read_dump(str(path)))
        data = read(path, DUMP_LIMIT)  # as text, since parsing it takes ten times as long
    except Failure:
        return 0  # not a dump
    return len(data.split()) if DUMP.fullmatch(data) else 0


def complete_dumps(folder: Path, kind: str) -> dict:
    """Return {image: dump} of the dumps in `folder` that are complete, of the usual length, without NaN or infinity."""
    sizes = {path: values_in(path) for path in folder.glob(f"*.{kind}")}
    sizes = {path: size for path, size in sizes.items() if size}
    usual = Counter(sizes.values()).most_common(1)
    return {dump_of(path.name)[0]: path for path, size in sizes.items() if size == usual[0][0]}


def collect(args, engine: str, wanted: set, devices: list, owner: str) -> dict:
    """Move the complete dumps of `wanted` images, made for `owner`, from the devices' folders to args.out.

    Returns {image: dump in args.out}.
    """
    moved = {}
    for device in devices:
        note = WORK / f"dumpOutput_device{device}.owner"
        if not note.is_file() or read(note, NOTE_LIMIT) != owner.encode():
            continue
        images = ENGINES[engine].images(device)
        for stem, path in complete_dumps(ENGINES[engine].dumps(device), args.dumps).items():
            image = stem if images is None else images.get(stem)
            if image in wanted:
                name = path.name if images is None else f"{image}_{dump_of(path.name)[1]}{path.suffix}"
                moved[image] = args.out / name
                os.replace(path, moved[image])
    return moved


# --- running --------------------------------------------------------------------------------------------------------

def cores_of(position: int, count: int) -> str:
    """Return the cores for stand-in number `position` of `count`, for taskset: an equal share, at least one."""
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores[position::count] or [cores[position % len(cores)]]))


def relay(process, log: Path, prefix: str, batch_size: int, errors: list, heard: dict, done: dict):
    """Copy a tool's output to its log, and to stdout except its progress; append failures to `errors`.

    heard[log] is the time of the last output, done[log] the number of samples that the tool has reported.
    """
    place = log
    try:
        if log.is_symlink() and log.is_file():
            log.unlink()  # or what it leads to would be written
        with open(log, "wb", buffering=0) as file:
            rest = b""
            while True:
                data = process.stdout.read1(1 << 16)
                heard[log] = time.time()
                place = log
                file.write(data)
                place = Path("standard output")
                *lines, rest = re.split(b"[\r\n]+", rest + data)
                for line in lines if data else [rest]:
                    count = engines.samples_done(line, batch_size)
                    if count is not None:
                        done[log] = count
                    elif line.strip():
                        print(prefix + line.decode(errors="replace"), flush=True)
                if not data:
                    break
    except OSError as error:
        errors.append(located(error, place, 0))
        process.kill()  # it would wait forever for its output to be read


def silent_for(dumps: Path, heard: float) -> float:
    """Return the seconds since a tool last printed something (at `heard`) or wrote a dump."""
    with contextlib.suppress(FileNotFoundError):
        heard = max(heard, os.path.getmtime(dumps))
    return time.time() - heard


def text_of(command: list, place: Path) -> str:
    """Return a command that runs in the folder `place` so that it can be pasted into a shell."""
    words = command if place == Path() else ["cd", str(place), "&&", *command]
    return " ".join(word if word == "&&" else shlex.quote(word) for word in words)


def run_tools(args, engine: str, commands: dict, logs: dict, total: int = 0) -> dict:
    """Run one command per device, all at the same time; return {device: its failure as text, or None}.

    A tool that is silent for args.patience seconds is killed: after some errors the real one waits forever. All tools
    end with this process. `total` is the number of samples, for the progress; the stand-in shows its own, on stderr.
    """
    tool = ENGINES[engine]
    running, relays, errors, stuck, shown = {}, [], [], set(), 0
    heard, done, stack = dict.fromkeys(logs.values(), time.time()), {}, contextlib.ExitStack()
    try:
        for position, (device, command) in enumerate(commands.items()):
            if not cli.quiet:
                say(f"$ {text_of(command, tool.place(device))}")
            # stand-ins for several chips share the cores
            share = ["taskset", "--cpu-list", cores_of(position, len(commands))] if tool.on_cpu else []
            running[device] = subprocess.Popen([*share, *command], cwd=str(tool.place(device)),
                                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                               stderr=None if tool.on_cpu else subprocess.STDOUT,
                                               preexec_fn=end_with_parent)  # noqa: PLW1509 (no thread has begun)
        for device, process in running.items():
            prefix = f"device {device}: " if len(commands) > 1 else ""
            relays.append(threading.Thread(target=relay, args=(process, logs[device], prefix, args.batch_size, errors,
                                                               heard, done)))
            relays[-1].start()
        advance = stack.enter_context(progress(total, "images")) if total and not tool.on_cpu else None
        for thread in relays:
            while thread.is_alive():
                thread.join(1)
                if advance:
                    now = min(sum(done.values()), total)  # the last batch may be filled up
                    advance(now - shown)
                    shown = now
                for device, process in running.items():
                    if process.poll() is None and silent_for(tool.dumps(device), heard[logs[device]]) > args.patience:
                        stuck.add(device)
                        process.kill()
        if errors:
            raise errors[0]
        statuses = {device: process.wait() for device, process in running.items()}
        return {device: f"killed after {args.patience} s without output" if device in stuck else
                f"ended with status {status}" if status else None for device, status in statuses.items()}
    finally:
        stack.close()
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def warn_if_busy(engine: str, devices: list):
    """Warn if another process uses a chip that is to be timed: its rates will be wrong."""
    if ENGINES[engine].on_cpu or shutil.which("npu-smi") is None:
        return
    try:
        found = chips.find()
    except Failure as error:  # not needed for the run itself
        say(f"warning: {error}; cannot check that the chip is idle")
        return
    for chip in found:
        if chip["device"] in devices and chips.is_busy(chip):
            say(f"warning: device {chip['device']} is busy (AICore {chip['aicore']} %, {chip['processes']} processes): "
                "its rates will be too low")


def clear(device: int):
    """Remove the temporary files of a run on this device, also an earlier one's."""
    folders, files = engines.temporary(device)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def start(args, engine: str, device: int, share: list) -> list:
    """Remove remains, prepare a run of the samples `share` on a device, and return the words that start the tool."""
    clear(device)
    for path in engines.perf_files(device, args.batch_size, args.om):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    ENGINES[engine].prepare(args.om, share, device)
    return ENGINES[engine].find()


def start_share(args, engine: str, device: int, share: list, owner: str, everything: bool) -> list:
    """Prepare `share` (rows of the info file) for a device; return the command that runs it."""
    command = start(args, engine, device, share)
    write(WORK / f"dumpOutput_device{device}.owner", owner)
    info = args.info
    if not everything:
        info = f"./{WORK}/device{device}.info"
        write(info, info_text([rest for _, *rest in share]))
    return [*command, *ENGINES[engine].dataset(args.om, info, device, args.batch_size, args.dumps)]


def check_share(args, engine: str, device: int, share: list, ending: str, log: Path, made: dict) -> tuple:
    """Return (rates or None, problem or None) of a device whose tool ended with `ending` and wrote `made` dumps."""
    rates = problem = None
    try:
        rates = ENGINES[engine].rates(device, args.batch_size, log, False, args.om)
    except ValueError as error:
        problem = error
    missing = [path for _, path, _, _ in share if image_name(path) not in made]
    if ending:
        return rates, explained(engine, f"{engine} {ending}", log)
    if missing:  # the binary may exit with 0
        text = f"{len(missing)} of {len(share)} tensors have no complete dump ({listing(missing)})"
        return rates, explained(engine, text, log)
    if rates is None:
        for _, path, _, _ in share:  # a tool that succeeded prints its rate: its dumps are not trusted
            made[image_name(path)].unlink()
        return None, f"{engine} {problem}"
    return rates, None


def explained(engine: str, problem: str, log: Path) -> str:
    """Return a problem with the reason that the tool printed."""
    printed = engines.reason(log)
    return f"{problem}; {engine} printed: {printed}" if printed else f"{problem}; see {log}"


def mean_rate(pieces: list):
    """Return the rate of all pieces [(rate in images/s, images)] together, None if one is unknown."""
    if any(not rate for rate, _ in pieces):
        return None
    return sum(images for _, images in pieces) / sum(images / rate for rate, images in pieces)


def combine(before: dict, rate: dict) -> dict:
    """Return the rates {interface, images, stages} of two pieces of one device's images."""
    if not before:
        return rate
    pieces = [(piece["interface"], piece["images"]) for piece in (before, rate)]
    total = before["images"] + rate["images"]
    stages = {stage: sum(piece["stages"][stage] * piece["images"] for piece in (before, rate)) / total
              for stage in rate["stages"] if stage in before["stages"]}
    return {"interface": mean_rate(pieces), "images": total, "stages": stages}


def earlier_rates(record: dict, devices: list, done: int) -> dict:
    """Return the rates of a record's earlier pieces, or {} if they cannot be combined with new ones.

    They can if these devices ran them (the devices' rates are summed) and none of their images is run again: `done`
    dumps exist.
    """
    rates = record.get("rates")
    try:
        if rates.keys() <= set(map(str, devices)) and all(
                rate["interface"] > 0 and rate["images"] > 0 and sum(rate["stages"].values()) >= 0
                for rate in rates.values()) and (record.get("e2e") or 0) >= 0:
            return rates if sum(rate["images"] for rate in rates.values()) <= done else {}
    except (AttributeError, KeyError, TypeError):
        pass  # a damaged record: its dumps are used, its rates are not
    return {}


def make_dumps(args, engine: str, todo: list, owner: str, record: dict, part: tuple) -> list:
    """Run the tools over the samples of `todo`; store the rates in `record`; return the problems, a line each.

    `todo` is part[0], counted from 0, of what is to be done, after part[1] dumps.
    """
    shares = {device: todo[i::len(args.device_ids)] for i, device in enumerate(args.device_ids)}
    shares = {device: share for device, share in shares.items() if share}
    everything = len(todo) == record["images"] and len(shares) == 1
    commands = {device: start_share(args, engine, device, share, owner, everything) for device, share in shares.items()}
    piece = f"_part{part[0]}" if part[0] else ""
    logs = {device: WORK / f"{engine}_bs{args.batch_size}_device{device}{piece}.log" for device in shares}
    started = time.monotonic()
    record["commands"] += [text_of(command, ENGINES[engine].place(device)) for device, command in commands.items()]
    endings = run_tools(args, engine, commands, logs, len(todo))
    seconds = time.monotonic() - started
    made = collect(args, engine, {image_name(path) for _, path, _, _ in todo}, list(shares), owner)

    earlier = earlier_rates(record, args.device_ids, part[1])
    problems, record["rates"], e2e = [], dict(earlier), len(made) / seconds
    for device, share in shares.items():
        rates, problem = check_share(args, engine, device, share, endings[device], logs[device], made)
        if problem:
            problems.append(f"device {device}: {problem}")
            continue
        rate = {"interface": rates[0], "images": len(share), "stages": rates[2]}
        record["rates"][str(device)] = combine(earlier.get(str(device)), rate)
        if rates[1] and len(shares) == 1:
            e2e = rates[1]
        clear(device)
    if len(problems) < len(shares):
        before = sum(rate["images"] for rate in earlier.values())
        record["e2e"] = mean_rate([(record.get("e2e"), before), (e2e, len(todo))]) if before else e2e
    record["device"] = engines.device_name(engine, next(iter(logs.values())))
    return problems


def load_record(path: Path, fresh: dict) -> dict:
    """Return an earlier run's record if it is of the same om, tensors and tool, otherwise `fresh`."""
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError):
        return fresh
    return record if isinstance(record, dict) and record.get("made_from") == fresh["made_from"] else fresh


def is_record(path: Path) -> bool:
    """Return True if a file is a record of this script, whatever it ran."""
    try:
        return "made_from" in read_json(path)
    except (FileNotFoundError, ValueError, TypeError):
        return False


def save_record(path: Path, record: dict):
    write(path, json.dumps(record, indent=1) + "\n")


def run_dataset(args, engine: str, record_path: Path) -> int:
    """Make the dumps that are missing; see the head of this file."""
    samples = read_samples(Path(args.info))
    manifest = Path(os.path.dirname(samples[0][1]), MANIFEST)
    fresh = {"engine": engine, "batch_size": args.batch_size, "images": len(samples), "complete": False, "rates": {},
             "made_from": {"om": hash_of(args.om), "info": hash_of(Path(args.info)), "engine": engine,
                           "tensors": hash_of(manifest) if manifest.exists() else None}}
    if args.dumps != "txt":
        fresh["made_from"]["dumps"] = args.dumps
    compiled = engines.recorded(args.om)
    check_tensors(os.path.dirname(samples[0][1]), args.om, compiled)  # benchmark may hang on them
    fresh["classes"] = compiled.get("classes")
    owner = hashlib.sha256(f"{fresh['made_from']} {args.out}".encode()).hexdigest()
    record = load_record(record_path, fresh)
    args.out.mkdir(parents=True, exist_ok=True)
    remains = [path for path in args.out.iterdir() if path.name.endswith((".txt", ".bin", ".part"))]
    if not is_record(record_path) and any(args.out.iterdir()):
        raise Failure(f"{args.out}: not empty and has no record of infer.py ({record_path}), so it was not made here; "
                      "use a separate folder", 4)
    if record is fresh:
        for path in remains:
            path.unlink()
    save_record(record_path, record)  # marks the folder as this script's
    images = {image_name(path) for _, path, _, _ in samples}
    collect(args, engine, images, args.device_ids, owner)
    kept = {image: path for image, path in complete_dumps(args.out, args.dumps).items() if image in images}
    for path in set(args.out.iterdir()) - set(kept.values()):
        if path.name.endswith((".txt", ".bin", ".part")):
            path.unlink()
    todo = [sample for sample in samples if image_name(sample[1]) not in kept]
    record["complete"] = not todo  # also after a kill between the last dump and the record of it
    save_record(record_path, record)
    if todo:
        warn_if_busy(engine, args.device_ids)
        record["commands"] = []
    at_once, problems = ENGINES[engine].limit * len(args.device_ids), []
    for begin in range(0, len(todo), at_once):
        problems = make_dumps(args, engine, todo[begin:begin + at_once], owner, record,
                              (begin // at_once, len(kept) + begin))
        record["complete"] = not problems and begin + at_once >= len(todo)
        save_record(record_path, record)
        if problems:
            break
    if problems:
        for problem in problems:
            say(f"infer.py: {problem}")
        full = "" if free_space(WORK) > DUMP_LIMIT else f"; the disk of {WORK} is full, free space first"
        failed = listing([problem.split()[1].rstrip(":") for problem in problems], 8)
        raise Failure(f"inference failed on device {failed} (see above); finished dumps are kept, rerun to resume"
                      f"{full}", 4)
    print(f"{len(samples)} dumps in {args.out} ({len(todo)} made, {len(kept)} kept)")
    return 0


def run_pure(args, engine: str, record_path: Path) -> int:
    """Time the om on synthetic data, on one device."""
    device = args.device_ids[0]
    record = {"engine": engine, "batch_size": args.batch_size, "round": args.round, "complete": True,
              "made_from": {"om": hash_of(args.om), "engine": engine, "round": args.round}}
    if load_record(record_path, record) is not record:
        print(f"{record_path}: already timed, kept")
        return 0
    warn_if_busy(engine, [device])
    log = WORK / f"{engine}_pure_bs{args.batch_size}_device{device}.log"
    command = [*start(args, engine, device, []), *ENGINES[engine].pure(args.om, device, args.batch_size, args.round)]
    ending = run_tools(args, engine, {device: command}, {device: log})[device]
    if ending:
        raise Failure(f"device {device}: {explained(engine, f'{engine} {ending}', log)}", 4)
    try:
        rate, *_ = ENGINES[engine].rates(device, args.batch_size, log, True, args.om)
    except ValueError as error:
        raise Failure(f"device {device}: {engine} {error}", 4) from error
    clear(device)
    record.update(rates={str(device): {"interface": rate}}, device=engines.device_name(engine, log))
    save_record(record_path, record)
    return 0


def device_list(text: str) -> list:
    """For argparse: '0,1' -> [0, 1]; raises ValueError on anything else, or on a duplicate id."""
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
    mode.add_argument("--round", type=positive, help="run synthetic data this many times instead (pure inference)")
    mode.add_argument("--which", action="store_true", help="print the tool for an om of the real atc")
    parser.add_argument("--batch_size", type=positive, help="the om's (default: what compile_om.py compiled it for, "
                        "or 1)")
    parser.add_argument("--device_ids", type=device_list, default=[0], metavar="0,1,...", help="default: 0")
    parser.add_argument("--patience", type=positive, default=PATIENCE, metavar="SECONDS",
                        help="kill a tool that prints and dumps nothing for this long (default: %(default)s)")
    parser.add_argument("--dumps", choices=("txt", "bin"), default="txt", help="text, as in the guide (default), or "
                        "float32 values: exact, 2.4 times smaller, faster to score")
    parser.add_argument("--engine", choices=engines.NAMES, help="default: see above")
    args = parser.parse_args()

    if args.which:
        print(engines.choose(args.engine, True))
        return 0
    if args.out is None:
        parser.error("OM and OUT are missing")
    if args.out.name in ("", ".."):
        parser.error(f"OUT {args.out}: not the name of a folder")
    if args.info == "":
        parser.error("--info: no file name")
    engine = engines.choose(args.engine, engines.is_ascend(args.om))
    compiled = engines.recorded(args.om).get("batch_size")
    args.batch_size = args.batch_size or compiled or 1
    if compiled not in (None, args.batch_size):  # the tools would time it wrong, or not at all
        raise Failure(f"{args.om}: compiled for a batch of {compiled}, not {args.batch_size}; pass --batch_size "
                      f"{compiled}", 2)
    WORK.mkdir(exist_ok=True)
    locks = [hold(WORK / f"device{device}.lock", f"device {device} of {WORK.resolve()}") for device in args.device_ids]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    locks.append(hold(args.out.with_name(args.out.name + ".lock"), args.out))  # until this function returns
    record_path = args.out.with_name(args.out.name + ".json")
    return (run_dataset if args.info else run_pure)(args, engine, record_path)


if __name__ == "__main__":
    run(main)

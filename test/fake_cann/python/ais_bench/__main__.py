"""Fake ais_bench for the tests: python3 -m ais_bench with the command line, files and output of the real ones.

Usage:    PYTHONPATH=test/fake_cann/python python3 -m ais_bench --model x_bs16.om --input prep --output out
              --output_dirname run --outfmt TXT --batchsize 16
Example:  ...
          [INFO] throughput 1000*batchsize.mean(16)/NPU_compute_time.mean(10.617...): 1507.0

It runs oms of the fake atc, and makes up the same logits as the fake benchmark. Its rates are copied from those
published for an Ascend 310P3, whatever was run: this is a test double, and no figure of it was measured.

Output i of NAME.bin becomes OUTPUT/DIRNAME/NAME_i.txt (.bin, .npy), with NAME up to the first dot; beside the folder
lies DIRNAME_summary.json. Several devices (--device 0,1) run one after the other, each over an equal part of the
files, in folders deviceN below that. Dynamic models are refused, profiling and dump switches have no effect.

Environment: FAKE_CANN_LOG, FAKE_CANN_LABELS, FAKE_CANN_TOP1, FAKE_CANN_SLOW, FAKE_CANN_DEVICES and
FAKE_CANN_FAIL_DEVICE as for the fake benchmark, and
  FAKE_CANN_AIS=RELEASE   how it behaves (default 2025-12); the rules are those of the tool's own Python:
      2022-06   summary as before November 2022: sumary.json inside the folder
      2023-06   follows soft links, takes any path and owner (Ascend/tools 9d6da90, ais_bench/infer/utils.py)
      2024-06   refuses a soft link, another owner, a writer besides the owner, and characters other than
                A-Za-z0-9_./- in the absolute path of om, input folder and each of its entries; also an output folder
                over 0750 (Ascend/msit 42a9c8071, ait/components/benchmark/ais_bench/infer: args_check.py,
                path_security_check.py, get_fileslist_from_dir of utils.py)
      2025-12   also more than 100,000 files in a folder, and such a path or an absolute one as --output_dirname
                (Yanguan619/aclruntime 8da7f645, ais_bench/infer/common/utils.py, args_check.py, infer_process.py)
      fork      spelled --output-dirname, prints Throughput (the same repository at df1f9a44, src/ais_bench)
  FAKE_CANN_TENSORS=DIR   a file with the content of DIR/**/NAME.bin gets the logits of NAME, whatever it is called
  FAKE_CANN_AIS_FILES=N   files that 2025-12 and the fork take in a folder, instead of 100,000
  FAKE_CANN_FAIL=...      ais-missing: the last two files' dumps are not written, exit 0; ais-error: a traceback,
                          exit 1; ais-no-throughput: neither the throughput line nor a summary
"""
import argparse
import json
import math
import os
import re
import stat
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np

PUBLISHED_RATE = {1: 799.0, 4: 1375.0, 8: 1492.0, 16: 1507.0, 32: 1424.0, 64: 829.0}  # images/s, 310P3
OTHER_RATE = 1000.0  # for batch sizes without a published figure
COPY_MS = {"H2D_latency": 0.125, "D2H_latency": 0.0625}  # made up
SUFFIXES = (".npy", ".NPY", ".bin", ".BIN")
DYNAMIC = ("dymBatch", "dymHW", "dymDims", "dymShape", "dymShape_range")
NO_EFFECT = ("outputSize", "acl_json_path", "output_batchsize_axis")
SWITCHES = ("debug", "display_all_summary", "profiler", "dump", "auto_set_dymshape_mode", "auto_set_dymdims_mode")


def load_benchmark():
    """The fake benchmark as a module: how an om is read and which logits an image gets stand there once."""
    path = Path(__file__).resolve().parents[2] / "benchmark.x86_64"
    loader = SourceFileLoader("fake_benchmark", str(path))
    module = module_from_spec(spec_from_loader("fake_benchmark", loader))
    loader.exec_module(module)
    return module


BENCHMARK = load_benchmark()


# ---- releases

def release():
    name = os.environ.get("FAKE_CANN_AIS") or "2025-12"
    if name not in ("2022-06", "2023-06", "2024-06", "2025-12", "fork"):
        raise SystemExit(f"FAKE_CANN_AIS={name}: unknown")
    return name  # "fork" sorts behind them


def check_path(path, what, output=False):
    """What path_security_check.FileStat refuses; `what` stands in argparse's message, or that of a RuntimeError."""
    if release() < "2024-06":
        return
    full, reason = os.path.abspath(path), None
    if re.search("[^_A-Za-z0-9/.-]", full):
        reason = "path contains illegal char, legal chars include A-Z a-z 0-9 _ - / ."
    elif not os.path.lexists(full):
        reason = None if output else f"path: {full} not exist, please check if file or dir is exist"
    elif os.path.islink(full):
        reason = f"path :{full} is a soft link, not supported, please import file(or directory) directly"
    else:
        status = os.stat(full)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid() and status.st_gid not in os.getgroups():
            reason = f"current user isn't path:{full}'s owner or ownergroup"
        elif mode & (0o027 if output else 0o022):
            kind, limit = ("export", "0o750(rwxr-x---)") if output else ("import", "0o755(rwxr-xr-x)")
            reason = (f"The file {full} is group writable, or is others writable, as {kind} file(or directory), "
                      f"permission should not be over {limit}")
    if reason:
        print(f"[ERROR] {reason}", flush=True)
        raise ValueError(f"{what}:{path} is illegal. Please check.")


def checked(what, output=False):
    """For argparse: the path, after check_path."""
    def convert(path):
        try:
            check_path(path, what, output)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return path
    return convert


# ---- command line

def at_least(least):
    def integer(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)
    return integer


def switch(text):
    if text.lower() not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
        raise argparse.ArgumentTypeError("Boolean value expected.")
    return text.lower() in ("yes", "true", "t", "y", "1")


def device_list(text):
    devices = [int(part) for part in text.split(",")]
    if not all(0 <= device <= 255 for device in devices):
        raise argparse.ArgumentTypeError(f"{text}: a device id is within 0 and 255")
    return devices


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="ais_bench")
    parser.add_argument("--model", "-m", required=True, type=checked("om path"))
    parser.add_argument("--input", "-i", type=lambda paths: ",".join(map(checked("input path"), paths.split(","))))
    parser.add_argument("--output", "-o", type=checked("output path", output=True))
    parser.add_argument("--output-dirname" if release() == "fork" else "--output_dirname", dest="output_dirname",
                        type=checked("output path", output=True) if release() >= "2025-12" else None)
    parser.add_argument("--outfmt", choices=("NPY", "BIN", "TXT"), default="BIN")
    parser.add_argument("--loop", "-l", type=at_least(1), default=1)
    parser.add_argument("--warmup_count", type=at_least(0), default=1)
    parser.add_argument("--device", "-d", type=device_list, default=[0])
    parser.add_argument("--batchsize", type=at_least(1))
    parser.add_argument("--pure_data_type", choices=("zero", "random"), default="zero")
    parser.add_argument("--run_mode", choices=("array", "files", "tensor", "full"), default="array")
    for name in DYNAMIC + NO_EFFECT:
        parser.add_argument("--" + name)
    for name in SWITCHES:
        parser.add_argument("--" + name, type=switch, default=False)
    args = parser.parse_args(argv)
    if args.output_dirname and not args.output:
        raise RuntimeError("--output_dirname cannot be used alone, but together with --output")
    if args.output_dirname and args.output_dirname[0] == "/" and release() >= "2025-12":
        raise ValueError("--output_dirname do not support abs path!")
    for name in DYNAMIC:
        if getattr(args, name):
            raise RuntimeError(f"the fake ais_bench does not simulate --{name}")
    return args


# ---- input

def known_bins():
    """{content: name} of FAKE_CANN_TENSORS."""
    folder = os.environ.get("FAKE_CANN_TENSORS")
    return {path.read_bytes(): path.name for path in Path(folder).rglob("*.bin")
            if not re.fullmatch("[0-9]{6}", path.stem)} if folder else {}


def natural(path):
    """Sort key: digits as numbers, the rest in lower case. As the real one, it fails on 1\u00b23: isdigit() is True."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split("([0-9]+)", path)]


def list_files(text):
    """The files of --input: a folder's, not recursive, in natural order; or those of a comma list, in its order."""
    files = text.split(",")
    if os.path.isdir(text):
        paths = sorted(os.path.join(text, name) for name in os.listdir(text))
        limit = int(os.environ.get("FAKE_CANN_AIS_FILES") or 100_000) if release() >= "2025-12" else math.inf
        if len(paths) > limit:
            raise OverflowError(f"file count under directory: {text} is over {limit}!")
        for path in paths:
            check_path(path, "input data")
        files = sorted((path for path in paths if path.endswith(SUFFIXES)), key=natural)
    for path in files:
        if not os.path.isfile(path):
            raise RuntimeError(f"{path}: no such file")
    if not files:
        raise RuntimeError(f"{text}: no .npy or .bin file in it")
    return files


def data_bytes(path):
    """Bytes of the tensor in a file, without the head of a .npy."""
    return np.load(path, mmap_mode="r").nbytes if path.lower().endswith(".npy") else os.path.getsize(path)


def group(files, input_bytes):
    """Batches of files, as the size of the first one says; raises RuntimeError on a size that does not divide."""
    size = data_bytes(files[0])
    if size == 0 or input_bytes % size:
        print(f"[ERROR] arg0 tensorsize: {input_bytes} filesize: {size} not match")
        raise RuntimeError("file size does not match the model")
    per_batch = input_bytes // size
    print(f"[INFO] get filesperbatch files0 size:{size} tensor0size:{input_bytes} filesperbatch:{per_batch} "
          f"runcount:{math.ceil(len(files) / per_batch)}")
    return [files[i:i + per_batch] for i in range(0, len(files), per_batch)]


def check_batch(batch, per_batch, input_bytes):
    """The last batch is filled up with its first file; together the files have to be the model's input."""
    padded = batch + [batch[0]] * (per_batch - len(batch))
    total = sum(map(data_bytes, padded))
    if total != input_bytes:
        print(f"[ERROR] input data size:{total} not match the model's:{input_bytes}")
        raise RuntimeError("file sizes of a batch differ")


def load_om(path):
    try:
        om = BENCHMARK.load_om(path)
    except BENCHMARK.BenchmarkError as error:
        raise RuntimeError(f"load model {path} failed: {error}") from error
    if not om["batch"]:
        raise RuntimeError(f"{path} has a dynamic batch, which the fake ais_bench does not simulate")
    return om


# ---- output

def write_output(folder, path, rows, om, plan, outfmt, known):
    """The dumps of one file: name up to the first dot, output index from 0. Returns their paths."""
    targets = []
    name = known.get(Path(path).read_bytes(), path) if known else path
    for i, output in enumerate(om["outputs"]):
        logits = BENCHMARK.make_logits(name, output["classes"], plan)
        values = np.tile(logits.astype(BENCHMARK.OM_DTYPES[output["dtype"]]), (rows, 1))
        target = folder / f"{BENCHMARK.image_name(path)}_{i}.{outfmt.lower()}"
        if outfmt == "TXT":
            form = "{:d} " if values.dtype.kind in "iu" else "{:f} "
            target.write_text("".join("".join(map(form.format, row)) + "\n" for row in values.tolist()))
        elif outfmt == "BIN":
            values.tofile(target)
        else:
            np.save(target, values)
        targets.append(str(target))
    return targets


def rows_per_file(om, per_batch):
    """Samples of the model's batch that one file holds; files of part of a sample are noticed only here."""
    if om["batch"] % per_batch:
        print(f"[ERROR] save out files error batch:{om['batch']} files_count_perbatch:{per_batch}")
        raise RuntimeError("save out files error")
    return om["batch"] // per_batch


def time_of_batch(batch_size):
    """The ms, of the few floats near it, that lets 1000 * batch_size / ms come closest to the published rate."""
    rate = PUBLISHED_RATE.get(batch_size, OTHER_RATE)
    guess = 1000 * batch_size / rate
    near = [guess, float(np.nextafter(guess, 0)), float(np.nextafter(guess, math.inf))]
    return min(near, key=lambda ms: abs(1000 * batch_size / ms - rate))


def report(args, batch_size, milliseconds, runs):
    """Print the closing table; return what the summary file gets of it. The warm-up counts nowhere."""
    names = ("min", "max", "mean", "median", "percentile(99%)")
    times = {"H2D_latency": COPY_MS["H2D_latency"], "NPU_compute_time": milliseconds,
             "D2H_latency": COPY_MS["D2H_latency"]}
    throughput = 1000 * batch_size / milliseconds
    print("[INFO] -----------------Performance Summary------------------")
    for key, value in times.items():
        if key == "NPU_compute_time" or args.display_all_summary:
            print(f"[INFO] {key} (ms): " + ", ".join(f"{name} = {value!r}" for name in names))
    name = "Throughput" if release() == "fork" else "throughput"
    print(f"[INFO] {name} 1000*batchsize.mean({batch_size})/NPU_compute_time.mean({milliseconds!r}): "
          f"{throughput!r}")
    print("[INFO] ------------------------------------------------------")
    found = {key: {**dict.fromkeys(names, value), "count": runs} for key, value in times.items()}
    return {**found, "throughput": throughput, "npu_compute_time_list": [milliseconds] * runs}


def write_summary(folder, text):
    """Beside the folder, or inside it and misspelt as before November 2022."""
    old = release() < "2022-11"
    (folder / "sumary.json" if old else folder.with_name(folder.name + "_summary.json")).write_text(text)


# ---- runs

def run_batches(args, om, batches, folder, fault):
    """Run and save batch after batch; return {sample id: files}, of those that were saved."""
    per_batch = len(batches[0])
    if args.input:
        per_batch = om["inputs"][0]["bytes"] // data_bytes(batches[0][0])
    paths = [path for batch in batches for path in batch]
    missing = len(paths) - 2 if fault == "ais-missing" else len(paths)  # from this file on
    plan, known = BENCHMARK.plan_places(BENCHMARK.read_labels()), known_bins()
    saved = {}
    for index, batch in enumerate(batches):
        if args.input:
            check_batch(batch, per_batch, om["inputs"][0]["bytes"])
        for _ in range(args.loop):
            BENCHMARK.wait()
        for number, path in enumerate(batch, index * per_batch) if folder else ():
            if number < missing:
                outfiles = write_output(folder, path, rows_per_file(om, per_batch), om, plan, args.outfmt, known)
                saved[str(number)] = {"infiles": [path], "outfiles": outfiles}
    count = len(batches) * args.loop
    print(f"Inference {args.run_mode} Processing: 100%|##########| {count}/{count} [00:00<00:00, 1000.00it/s]")
    return saved


def run_device(args, argv, device, files, folder):
    """One process of the real tool; returns its throughput (None with the fault that leaves it out)."""
    fault = BENCHMARK.wanted_fault(device)
    print("[INFO] acl init success")
    if not BENCHMARK.has_device(device):
        raise RuntimeError(f"open device {device} failed")
    print(f"[INFO] open device {device} success")
    if fault == "ais-error":
        raise RuntimeError("fake fault")
    om = load_om(args.model)
    print(f"[INFO] load model {args.model} success")
    print("[INFO] create model description success")
    batch_size = args.batchsize or om["batch"]
    print(f"[INFO] try get model batchsize:{om['batch']}")
    if folder:
        for path in (*reversed(folder.parents), folder):
            path.mkdir(0o750, exist_ok=True)
        print(f"[INFO] output path:{folder}")
    batches = group(files, om["inputs"][0]["bytes"]) if files else [["pure_infer_data"]]
    print(f"[INFO] warm up {args.warmup_count} done", flush=True)
    saved = run_batches(args, om, batches, folder, fault)
    result = {}
    if fault != "ais-no-throughput":
        result = report(args, batch_size, time_of_batch(om["batch"]), len(batches) * args.loop)
        if folder:
            write_summary(folder, json.dumps({"filesinfo": saved, "args": argv, **result, "pid": os.getpid()}))
    print("[INFO] unload model success, model Id is 1")
    print("[INFO] end to destroy context")
    print(f"[INFO] end to reset device is {device}")
    print("[INFO] end to finalize acl")
    return result.get("throughput")


def run_devices(args, argv, files, folder):
    """Several devices: equal parts of the files, in their order; returns the exit status."""
    total, status = 0.0, 0
    for i, (device, part) in enumerate(zip(args.device, np.array_split(files, len(args.device)))):
        if files and not part.size:
            continue  # fewer files than devices
        start = time.time()
        try:
            rate = run_device(args, argv, device, part.tolist(), folder and folder / f"device{device}") or 0.0
        except RuntimeError as error:
            print(f"[ERROR] subprocess run failed error_callback:{error}")
            status = 1
            continue
        print(f"i:{i} device_{device} throughput:{rate!r} start_time:{start!r} end_time:{time.time()!r}")
        total += rate
    if not status:
        print(f"[INFO] summary throughput:{total!r}")
    return status


def main(argv):
    args = parse_arguments(argv)
    BENCHMARK.log_call(["ais_bench", *argv])
    files = list_files(args.input) if args.input else []
    folder = None
    if args.output:
        folder = Path(args.output, args.output_dirname or time.strftime("%Y_%m_%d-%H_%M_%S"))
    if len(args.device) > 1:
        return run_devices(args, argv, files, folder)
    run_device(args, argv, args.device[0], files, folder)
    return 0


if __name__ == "__main__":
    import aclruntime  # noqa: F401 (the real one does not start without it)

    sys.exit(main(sys.argv[1:]))

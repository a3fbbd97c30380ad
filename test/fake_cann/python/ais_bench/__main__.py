"""Fake ais_bench for the tests: python3 -m ais_bench with the command line, files and output of the real one (2023-06).

Usage:    PYTHONPATH=test/fake_cann/python python3 -m ais_bench --model x_bs16.om --input prep --output out
              --output_dirname run --outfmt TXT --batchsize 16
Example:  ...
          [INFO] throughput 1000*batchsize.mean(16)/NPU_compute_time.mean(10.617...): 1507.0

It runs oms of the fake atc, and makes up the same logits as the fake benchmark. Its rates are copied from those
published for an Ascend 310P3, whatever was run: this is a test double, and no figure of it was measured.

Environment: FAKE_CANN_LOG, FAKE_CANN_LABELS, FAKE_CANN_TOP1 as for the fake benchmark, and
  FAKE_CANN_AIS_OLD=1     the summary as before November 2022: sumary.json inside the folder
  FAKE_CANN_FAIL=...      ais-missing: the last dumps are not written, exit 0; ais-error: a traceback, exit 1;
                          ais-no-throughput: neither the throughput line nor a summary
"""
import argparse
import json
import math
import os
import re
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np

PUBLISHED_RATE = {1: 799.0, 4: 1375.0, 8: 1492.0, 16: 1507.0, 32: 1424.0, 64: 829.0}  # images/s, 310P3
OTHER_RATE = 1000.0  # for batch sizes without a published figure
SUFFIXES = (".npy", ".NPY", ".bin", ".BIN")
FAULTS = ("ais-missing", "ais-error", "ais-no-throughput")


def load_benchmark():
    """The fake benchmark as a module: how an om is read and which logits an image gets stand there once."""
    path = Path(__file__).resolve().parents[2] / "benchmark.x86_64"
    loader = SourceFileLoader("fake_benchmark", str(path))
    module = module_from_spec(spec_from_loader("fake_benchmark", loader))
    loader.exec_module(module)
    return module


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="ais_bench")
    parser.add_argument("--model", "-m", required=True)
    parser.add_argument("--input", "-i")
    parser.add_argument("--output", "-o")
    parser.add_argument("--output_dirname")
    parser.add_argument("--outfmt", choices=("NPY", "BIN", "TXT"), default="BIN")
    parser.add_argument("--loop", "-l", type=int, default=1)
    parser.add_argument("--warmup_count", type=int, default=1)
    parser.add_argument("--device", "-d", type=int, default=0)
    parser.add_argument("--batchsize", type=int)
    parser.add_argument("--pure_data_type", choices=("zero", "random"), default="zero")
    args = parser.parse_args(argv)
    if args.output_dirname and not args.output:
        parser.error("--output_dirname needs --output")
    if args.loop < 1 or args.warmup_count < 0 or not 0 <= args.device <= 255:
        parser.error("--loop must be > 0, --warmup_count >= 0, --device within 0 and 255")
    return args


def natural(name):
    """Sort key: digits as numbers, the rest in lower case."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def list_files(text):
    """The files of --input: a folder's, not recursive, in natural order; or those of a comma list."""
    if os.path.isdir(text):
        return [os.path.join(text, name) for name in sorted(os.listdir(text), key=natural) if name.endswith(SUFFIXES)]
    return text.split(",")


def group(files, input_bytes):
    """Batches of files, as the size of the first one says; raises RuntimeError on a size that does not divide."""
    size = os.path.getsize(files[0])
    if size == 0 or input_bytes % size:
        print(f"[ERROR] arg0 tensorsize: {input_bytes} filesize: {size} not match")
        raise RuntimeError("file size does not match the model")
    per_batch = input_bytes // size
    print(f"[INFO] get filesperbatch files0 size:{size} tensor0size:{input_bytes} filesperbatch:{per_batch} "
          f"runcount:{math.ceil(len(files) / per_batch)}")
    return [files[i:i + per_batch] for i in range(0, len(files), per_batch)]


def write_output(folder, path, logits, outfmt):
    """One dump: name up to the first dot, then _0."""
    target = folder / f"{os.path.basename(path).split('.')[0]}_0.{outfmt.lower()}"
    values = logits.astype("<f4").reshape(1, -1)
    if outfmt == "TXT":
        target.write_text("".join(f"{value:f} " for value in values[0]) + "\n")
    elif outfmt == "BIN":
        values.tofile(target)
    else:
        np.save(target, values)


def report(milliseconds, batch_size, runs, summary):
    """The closing lines of stdout, and the summary file where outputs were saved."""
    text = ", ".join(f"{name} = {milliseconds!r}" for name in ("min", "max", "mean", "median", "percentile(99%)"))
    throughput = 1000 * batch_size / milliseconds
    print("[INFO] -----------------Performance Summary------------------")
    print(f"[INFO] NPU_compute_time (ms): {text}")
    print(f"[INFO] throughput 1000*batchsize.mean({batch_size})/NPU_compute_time.mean({milliseconds!r}): "
          f"{throughput!r}")
    print("[INFO] ------------------------------------------------------")
    if summary:
        summary.write_text(json.dumps({"throughput": throughput, "npu_compute_time_list": [milliseconds] * runs}))


def main(argv):
    benchmark = load_benchmark()
    benchmark.log_call(["ais_bench", *argv])
    fault = os.environ.get("FAKE_CANN_FAIL", "")
    args = parse_arguments(argv)
    print("[INFO] acl init success")
    if fault == "ais-error":
        raise RuntimeError("fake fault")
    om = benchmark.load_om(args.model)
    batch_size = args.batchsize or om["batch"]
    print(f"[INFO] load model {args.model} success")
    batches = group(list_files(args.input), om["inputs"][0]["bytes"]) if args.input else [[]]
    summary = None
    if args.output:
        name = args.output_dirname or time.strftime("%Y_%m_%d-%H_%M_%S")
        folder = Path(args.output, name)
        folder.mkdir(parents=True, exist_ok=True)
        old = os.environ.get("FAKE_CANN_AIS_OLD")
        summary = folder / "sumary.json" if old else folder.with_name(f"{name}_summary.json")
        plan = benchmark.plan_places(benchmark.read_labels())
        paths = [path for batch in batches for path in batch]
        for path in paths[:-2] if fault == "ais-missing" else paths:
            write_output(folder, path, benchmark.make_logits(path, om["outputs"][0]["classes"], plan), args.outfmt)
        print(f"[INFO] output path:{folder}")
    if fault != "ais-no-throughput":
        report(1000 * batch_size / PUBLISHED_RATE.get(batch_size, OTHER_RATE), batch_size,
               len(batches) * args.loop, summary)
    print("[INFO] end to finalize acl")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""Parse run_all.sh's options, find its inputs, chip and inference tool, and pass all of it on as shell variables.

Usage:    python3 tools/options.py SETTINGS [OPTION...]        (run_all.sh calls it; bash run_all.sh --help)
Example:  python3 tools/options.py settings --batch_sizes 1,16; tr '\\0' '\\n' <settings
          PATH=/home/me/xception/host:/usr/bin:/bin
          atc_engine=host
          ...

SETTINGS holds the line that env.sh printed. It becomes NAME=VALUE pairs, each ended by a NUL byte, for bash's
`declare`; it becomes empty if there is nothing to run (--help, --version, --check).

Whatever can be known before the first step is checked here, and before anything is written. Standard library only:
this runs before .venv exists.
"""
import argparse
import mmap
import os
import platform
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from _root import ROOT

import chips
import engines
import shares
from common import cli, model
from common.cli import Failure, parser_of, run, say
from common.images import IMAGE_SUFFIXES, SYNSET_IN_NAME, class_folders, image_name, suffix_of
from compile_om import PRECISIONS
from host.contract import PATH_RULE

DEMO = ROOT / "test/data"
DEMO_WEIGHTS = "demo.pth.tar"
OLDEST_PYTHON = {"cann": (3, 7), "host": (3, 9)}  # torch and OpenVINO for the stand-ins need 3.9
DESCRIPTION = """From checkpoint to top-1..5 accuracy and throughput: the steps of README.md, in its order.

Example:  bash run_all.sh
              the demo: 45 photos and demo weights, on the CPU where CANN is not installed
          bash run_all.sh --weights xception-c0a72b38.pth.tar --datasets_path /opt/npu
              the published weights on ImageNet

Run the same command again to resume; only what is missing or changed is redone. With CANN (see env.sh) atc and the
inference tool are the real ones, otherwise the CPU stand-ins in host/.

Exit status: 0 the accuracy gate is met; 1 it is not, or two batch sizes disagree; otherwise that of the failed step;
129, 130, 143 hung up, interrupted, terminated."""


# --- what may be asked for ------------------------------------------------------------------------------------------

def matching(pattern: str, expected: str):
    """Return an argparse type: text that matches `pattern` completely."""
    def check(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {expected}")
        return text
    return check


def short_side(text: str) -> str:
    """For argparse: pixels of the short side, which the crop must fit into."""
    if not re.fullmatch("[1-9][0-9]{1,5}", text) or int(text) < model.SIDE:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {model.SIDE} or more")
    return text


def refuse(message: str):
    """In place of argparse's usage text: a usage error is one line."""
    raise Failure(f"{message} (see --help)", 2)


def parse(words: list) -> argparse.Namespace:
    """Parse and check run_all.sh's command line; raises Failure (status 2) on a usage error."""
    parser = parser_of(DESCRIPTION, prog="bash run_all.sh", allow_abbrev=False,
                       usage="bash run_all.sh [--weights FILE --datasets_path DIR] [OPTION...]")
    parser.error = refuse
    name, number = matching("(?s).+", "a name"), matching("[1-9][0-9]{0,8}", "a number above 0")
    switch = {"action": "store_const", "const": "yes", "default": ""}

    inputs = parser.add_argument_group("inputs")
    inputs.add_argument("--weights", metavar="FILE", type=name, help="checkpoint, or an .onnx exported elsewhere; "
                        "default: the demo's, made here")
    inputs.add_argument("--datasets_path", metavar="DIR", type=name, help="contains imagenet/val or val, with "
                        "val_label.txt beside it or class folders in it")
    inputs.add_argument("--labels", metavar="FILE", type=name, help="labels in another form (tools/labels.py --help)")
    inputs.add_argument("--synsets", "--class_list", metavar="MAP", type=name, help="class ids of ImageNet's synsets, "
                        "or of other class names (docs/labels.md)")
    inputs.add_argument("--state_dict", metavar="KEY", type=name, help="which of several state dicts in --weights")
    subset = inputs.add_mutually_exclusive_group()
    subset.add_argument("--limit", metavar="N", type=number, help="the first N images only, in a separate folder")
    subset.add_argument("--sample", metavar="N", type=number, help="N images drawn at random, in a separate folder")
    inputs.add_argument("--seed", metavar="S", type=matching("[0-9]{1,18}", "a number"),
                        help="another draw of --sample")
    inputs.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="for unreadable images: stop when "
                        "the others are done (default), or leave them out")

    recipe = parser.add_argument_group("what is run")
    recipe.add_argument("--batch_sizes", metavar="LIST", type=matching("[1-9][0-9]{0,4}(,[1-9][0-9]{0,4})*",
                        "a list such as 1,16"), help="one om and one run each (default: 1,16)")
    recipe.add_argument("--resize", metavar="N", type=short_side,
                        default=str(model.SHORT_SIDE), help="short side before the crop, pixels (default: %(default)s)")
    recipe.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear",
                        help="default: %(default)s")
    recipe.add_argument("--aipp", **switch, help="uint8 tensors, a quarter of the size, normalized on the chip")
    recipe.add_argument("--precision", choices=PRECISIONS, default="", help="default: atc's own; bf16: stand-in only; "
                        "int8: quantized by amct_onnx, and compared with f32 and fp16 (docs/precision.md)")
    recipe.add_argument("--dumps", choices=("txt", "bin"), default="", help="outputs as text, as in the guide "
                        "(default), or as float32 values: exact, 2.4 times smaller, faster to score")
    recipe.add_argument("--reference", metavar="TOP1,TOP5", default="published", type=matching(
        r"published|measure|[0-9.]{1,20},[0-9.]{1,20}", "TOP1,TOP5, published or measure"), help="accuracy that the "
        "gate compares with, percent (default: the published one; measure: plain PyTorch on the same images)")
    recipe.add_argument("--sweep", **switch, help="batch sizes 1,4,8,16,32, pure inference too, and throughput.csv")

    host = parser.add_argument_group("where it runs")
    host.add_argument("--workdir", metavar="DIR", type=name, default="work", help="everything is written below it "
                      "(default: %(default)s)")
    host.add_argument("--soc_version", metavar="CHIP", type=matching("[A-Za-z0-9_-]{1,40}", "a chip's name"),
                      help="default: what npu-smi reports, without it Ascend310")
    host.add_argument("--device_ids", metavar="LIST", type=matching("[0-9]{1,6}(,[0-9]{1,6})*", "a list such as 0,1"),
                      help="chips that share the images (default: the first healthy one)")
    host.add_argument("--engine", choices=engines.NAMES, help="inference tool (default: the first of these that is "
                      "there)")
    host.add_argument("--check", **switch, help="report what this run needs and lacks; start nothing")
    for option in ("--study", "--score"):  # docs/precision.md and docs/multi-chip.md
        parser.add_argument(option, **switch, help=argparse.SUPPRESS)
    return complete(parser.parse_args(words))


def complete(args) -> argparse.Namespace:
    """Check the options against each other and set the values that follow; raises Failure (status 2)."""
    if bool(args.weights) != bool(args.datasets_path):
        given, other = ("--weights", "--datasets_path") if args.weights else ("--datasets_path", "--weights")
        refuse(f"{given} needs {other}")
    if args.seed and not args.sample:
        refuse("--seed needs --sample")
    if args.state_dict and (not args.weights or args.weights.endswith(".onnx")):
        refuse("--state_dict needs a checkpoint, by --weights")
    if args.reference == "measure" and (args.weights or "").endswith(".onnx"):
        refuse("--reference measure needs a checkpoint; --weights is an .onnx")
    args.rank, args.world, args.local_rank = shares.of_this_process(os.environ)
    if args.score:
        args.world = 1  # one process scores for all
    for option in ("limit", "sample"):
        if getattr(args, option) and (args.world > 1 or args.score):
            refuse(f"--{option} is for one process")
    if args.study and (args.world > 1 or args.score or args.sweep or args.dumps):
        refuse("--study runs in one process, without --sweep, --dumps and --score")
    if args.precision == "int8" and (args.world > 1 or args.score or args.study or args.aipp):
        refuse("--precision int8 runs in one process, without --study, --score and --aipp")
    args.batch_sizes = args.batch_sizes or ("1,4,8,16,32" if args.sweep else "1,16")
    args.workdir = os.path.realpath(args.workdir)
    args.subset = f"--limit={args.limit}" if args.limit else f"--sample={args.sample}" if args.sample else ""
    args.folder = args.subset.strip("-").replace("=", "") + (f"_seed{args.seed}" if args.seed else "") or "."
    return args


# --- what is there --------------------------------------------------------------------------------------------------

def find_inputs(args):
    """Set args.weights, images, labels, synsets to absolute paths, and args.demo; raises Failure if one is missing."""
    args.demo = "" if args.weights else "yes"
    if args.weights:
        find_weights(args)
    find_data_set(args)


def find_data_set(args):
    """Set args.images, labels and synsets to absolute paths; raises Failure if one is missing."""
    for option in ("labels", "synsets"):
        if getattr(args, option) and not os.path.exists(getattr(args, option)):
            raise Failure(f"{getattr(args, option)}: no such file; correct --{option}")
    top = Path(args.datasets_path or DEMO)
    for root in (top / "imagenet", top):
        images, labels = root / "val", root / "val_label.txt"
        if not images.is_dir():
            continue
        if args.labels:
            labels = Path(args.labels)
        elif not labels.is_file() or not labels.stat().st_size:
            labels = images if class_folders(images) or names_have_synsets(images) else None
        if labels:
            args.images, args.labels = os.path.realpath(images), os.path.realpath(labels)
            args.synsets = os.path.realpath(args.synsets) if args.synsets else ""
            return
    raise Failure(f"{top}: contains neither imagenet/val with imagenet/val_label.txt, nor val with val_label.txt or "
                  "class folders (README section 4)")


def names_have_synsets(folder) -> bool:
    """Return True if an image of a folder has a synset in its name, as those of Hugging Face's export."""
    return any(suffix_of(name) in IMAGE_SUFFIXES and SYNSET_IN_NAME.search(image_name(name))
               for name in os.listdir(folder))


def find_weights(args):
    """Set args.weights to an absolute path, and args.demo if they are a demo's; raises Failure if they will not do."""
    if not os.path.isfile(args.weights):
        raise Failure(f"{args.weights}: no such file; README section 1 links the published weights")
    demo = contains(args.weights, b"demo weights")
    if demo and args.weights.endswith(".onnx"):
        raise Failure(f"{args.weights}: holds demo weights; pass their checkpoint, to measure the reference with", 2)
    args.weights, args.demo = os.path.realpath(args.weights), "yes" if demo else ""


def contains(path, text: bytes) -> bool:
    """Return True if a file contains `text`, as a demo's checkpoint and ONNX contain a note."""
    if not os.path.getsize(path):
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(text) >= 0


def find_tools(args):
    """Set args.atc_engine and args.path, the PATH on which atc and the inference tool are; raises Failure."""
    args.atc_engine, args.path = os.environ.get("ATC_ENGINE", "host"), os.environ["PATH"]
    if args.study or args.engine == "host":
        if args.atc_engine != "host":
            args.atc_engine, args.path = "host", f"{ROOT / 'host'}{os.pathsep}{args.path}"
        args.engine = "host"
    if args.atc_engine == "host":
        if args.engine not in (None, "host"):
            raise Failure(f"--engine {args.engine} runs what CANN's atc compiled, and there is no CANN here (README "
                          "section 2)", 4)
        return
    if args.precision == "bf16":
        raise Failure("--precision bf16 is a preview of the CPU stand-ins, and CANN's atc has no such mode; use f32 or "
                      "fp16, or add --engine host", 2)
    if not shutil.which("atc"):
        raise Failure("atc: not found, although CANN is installed; install its toolkit, or set ASCEND_INSTALL_PATH to "
                      "another (README section 2)", 4)
    if os.access(f"benchmark.{platform.machine()}", os.X_OK):  # CANN delivers the binary by itself
        args.path = f"{os.getcwd()}{os.pathsep}{args.path}"
    engines.choose(args.engine, True)


def find_chip(args):
    """Set args.soc_version and args.device_ids from npu-smi, unless they were given; raises Failure without a chip."""
    if args.atc_engine == "cann" and not (args.soc_version and args.device_ids) and shutil.which("npu-smi"):
        try:
            chip = chips.usable(chips.find())[0]
        except Failure as error:
            raise Failure(f"{error}; pass --soc_version and --device_ids", 4) from error
        args.soc_version = args.soc_version or f"Ascend{chip['name']}"
        args.device_ids = args.device_ids or str(chip["device"])
    args.soc_version = args.soc_version or "Ascend310"
    args.device_ids = str(args.local_rank) if args.world > 1 else args.device_ids or "0"


def check_paths(args):
    """Raise Failure if atc or the inference tool would refuse a path; they would say so after minutes of work."""
    compiled = args.weights if (args.weights or "").endswith(".onnx") else os.path.join(args.workdir, "xception.onnx")
    for path, cure in ((compiled, "move the file" if compiled == args.weights else "pass another --workdir"),
                       (str(ROOT) if args.aipp else "", "move this checkout")):
        if path and not PATH_RULE.fullmatch(path):
            raise Failure(f"{path}: atc takes only letters, digits and . _ - / in a path; {cure}", 2)
    if "+" in args.workdir:
        raise Failure(f"{args.workdir}: an om does not load from a path with + in it; pass another --workdir", 2)


def has_stand_ins(args) -> bool:
    """Return True if the run uses stand-ins of host/, as it does on an NPU host without CANN's amct_onnx for int8."""
    return args.atc_engine == "host" or args.precision == "int8" and not shutil.which("amct_onnx")


def is_npu_only(args) -> bool:
    """Return True if the run neither exports a model nor uses the stand-ins: CANN does all with a given ONNX."""
    return not has_stand_ins(args) and (args.weights or "").endswith(".onnx")


def needed_packages(args) -> list:
    """Return the modules that this run imports."""
    exported = (args.weights or "").endswith(".onnx")
    needed = ["numpy", "PIL", "tqdm"] + ["onnx", "openvino"] * (has_stand_ins(args) or not exported)
    needed += ["torch"] * (not exported) + ["torchvision"] * (not args.weights)
    return needed + ["safetensors"] * (args.weights or "").endswith(".safetensors")


def find_packages(args) -> list:
    """Return the modules that this run imports and this Python lacks; raises Failure if Python itself is too old."""
    oldest = OLDEST_PYTHON[args.atc_engine]
    if sys.version_info < oldest:
        raise Failure(f"Python {platform.python_version()}: {'.'.join(map(str, oldest))} or later is needed"
                      f"{' without CANN' if args.atc_engine == 'host' else ''}", 4)
    return [module for module in needed_packages(args) if find_spec(module) is None]


def check_workdir(args):
    """Make the work directory; raises Failure unless it is writable and what run_all.sh opens in it are files."""
    folder = os.path.normpath(os.path.join(args.workdir, args.folder))
    args.commands = os.path.join(folder, f"commands_{args.rank}.txt" if args.world > 1 else "commands.txt")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Failure(f"{args.workdir}: cannot be made ({error.strerror}); pass another --workdir", 4) from error
    if not os.access(args.workdir, os.W_OK | os.X_OK):
        raise Failure(f"{args.workdir}: no write permission, or a read-only disk; pass another --workdir", 4)
    for name in (".lock", ".model.lock", args.commands, f"share{args.rank}of{args.world}.lock"):
        path = os.path.join(args.workdir, name)
        if os.path.islink(path) or os.path.exists(path) and not os.path.isfile(path):
            raise Failure(f"{path}: not a regular file; remove it", 4)


def settings(args) -> dict:
    """Return {name of a shell variable: value} for run_all.sh."""
    found = {
        "PATH": args.path, "subset": args.subset, "seed": f"--seed={args.seed}" if args.seed else "",
        "folder": args.folder, "missing": " ".join(find_packages(args)),
        "npu_only": "yes" if is_npu_only(args) else "",
        "weights": args.weights or DEMO_WEIGHTS, "reference": "measure" if args.demo else args.reference,
        "share": f"{args.rank}/{args.world}" if args.world > 1 else "", "RUN_ALL_QUIET": "yes" if cli.quiet else "",
        "partial": "--allow-missing" if args.on_error == "skip" else "",
        "state_dict": f"--state_dict={args.state_dict}" if args.state_dict else "",
        "commands": args.commands, "results": "dumpShares" if args.score else "dumpOutput",
    }
    for name in ("atc_engine", "images", "labels", "synsets", "demo", "workdir", "batch_sizes", "resize",
                 "interpolation", "aipp", "precision", "dumps", "on_error", "soc_version", "device_ids", "engine",
                 "sweep", "study", "score"):
        found[name] = getattr(args, name) or ""
    return found


def main() -> int:
    target, words = Path(sys.argv[1]), sys.argv[2:]
    origin = target.read_text(errors="replace").strip()
    target.write_bytes(b"")
    args = parse(words)
    if args.check:
        import check

        return check.check(args, origin)
    if origin:
        say(origin)
    if args.score and args.rank:
        say(f"rank {args.rank}: rank 0 scores")
        return 0
    for find in (find_inputs, find_tools, check_paths, find_chip, check_workdir):
        find(args)
    target.write_bytes(b"".join(f"{name}={value}\0".encode(errors="surrogateescape")
                                for name, value in settings(args).items()))
    return 0


if __name__ == "__main__":
    run(main, "run_all.sh")

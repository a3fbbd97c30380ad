#!/usr/bin/env python3
"""Look whether all that a run needs is there, before it is started: a line for each, with the cure.

Usage:    python3 tools/check.py [--weights F] [--images DIR] [--labels F [--synsets MAP]] [--workdir work]
                           [--batch_sizes 1,16] [--aipp] [--study] [--on-error fail|skip]
                           [--limit N | --sample N [--seed 0]] [--engine cann|host]
Example:  bash run_all.sh --check --weights xception-c0a72b38.pth.tar --datasets_path /opt/npu
          ✓ tools: CANN is on PATH already (/usr/local/Ascend/.../bin/atc)
          ✓ python: 3.11.2, with numpy 2.4.6, Pillow 13.0.0, tqdm 4.70.0
          ✗ weights: xception-c0a72b38.pth.tar: md5 is 0c8a..., the published file's is 203a...: fetch it again
          ✓ data set: 50000 images, each with its label
          ✓ CANN: 5.1.RC2, benchmark.x86_64
          ✓ chips: device 0: Ascend310, health OK
          ✗ disk: 54.8 GB needed in /work, 31.0 GB free: make room, or name another --workdir
          ✓ CPU: 8 cores, AVX-512 without bf16

Without --weights: of the demo. It reads and computes hashes, and writes nothing. run_all.sh --check calls it with
what it has found.

Exit 0: the run could start; 3: something is missing, marked ✗.
"""
import os
import re
import shutil
import sys
from pathlib import Path

import _root

import chips
import infer
from common.cli import Failure, listing, parser_of, positive, printable, run
from common.files import free_space, hash_of, read

# bytes: a float32 and a uint8 tensor, a dump, a checkpoint, ONNX or om (README 4, 5.2 and 3)
TENSOR, TENSOR_UINT8, DUMP, MODEL = 1_072_812, 268_203, 10_000, 92_000_000
STUDIED = (4, 3)  # recipes and precisions of run_all.sh --study (README 6.5)
CHECKPOINT_STARTS = (b"PK", b"\x80\x02")  # torch.save's zip, and the pickle protocol 2 that it wrote before
OLDEST = (3, 8)
VERSION_FILE = "ascend_toolkit_install.info"
VERSION_LEVELS = 6  # folders above atc in which CANN's version may stand
VERSION_LIMIT = 1 << 20  # bytes of the file that tells it
PACKAGES = {"numpy": "numpy", "PIL": "Pillow", "tqdm": "tqdm", "cv2": "opencv-python", "torch": "torch",
            "torchvision": "torchvision", "onnx": "onnx", "openvino": "openvino"}


def check_python(args) -> str:
    """What is installed of what the run imports; raises Failure."""
    from importlib import metadata
    from importlib.util import find_spec

    if sys.version_info < OLDEST:
        raise Failure(f"{sys.version.split()[0]}: 3.8 or later is needed")
    needed = ["numpy", "PIL", "tqdm"]
    needed += ["onnx", "openvino"] if args.engine == "host" else []
    needed += [] if args.weights and args.weights.suffix == ".onnx" else ["torch", "onnx", "openvino"]
    needed += [] if args.weights else ["torchvision"]
    missing = [PACKAGES[name] for name in dict.fromkeys(needed) if find_spec(name) is None]
    found = [PACKAGES[name] for name in dict.fromkeys([*needed, "cv2"]) if find_spec(name) is not None]
    if missing:
        raise Failure(f"{', '.join(missing)} missing: run_all.sh installs requirements.txt into .venv, which needs "
                      "network and 6 GB; without network see README 2")
    texts = []
    for name in found:
        try:
            texts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # from the system, under another name
            texts.append(name)
    return f"{sys.version.split()[0]}, with {', '.join(texts)}"


def check_weights(args) -> str:
    """Whether the weights are there, and the published ones whole."""
    from xception_pth2onnx import ONNX_LIMIT, PUBLISHED_MD5, PUBLISHED_NAME

    if not args.weights:
        return "demo weights, made from the photos (they know nothing of ImageNet)"
    if not args.weights.is_file():
        raise Failure(f"{args.weights}: no such file; README 1 tells where the published weights come from")
    if args.weights.suffix == ".onnx":
        if b"demo weights" in read(args.weights, ONNX_LIMIT):
            raise Failure(f"{args.weights}: holds demo weights: give their checkpoint, to measure a reference from")
    else:
        with open(args.weights, "rb") as file:
            start = file.read(2)
        if start not in CHECKPOINT_STARTS:
            raise Failure(f"{args.weights}: not a PyTorch checkpoint, nor an .onnx")
    md5 = hash_of(args.weights, "md5")
    if args.weights.name == PUBLISHED_NAME and md5 != PUBLISHED_MD5:
        raise Failure(f"{args.weights}: md5 is {md5}, the published file's is {PUBLISHED_MD5}: fetch it again")
    return f"{args.weights}, md5 {md5}{', as published' if md5 == PUBLISHED_MD5 else ''}"


def find_images(args) -> tuple:
    """The images that the run is to take, and the bad ones among them, as img_preprocess.py finds them."""
    import img_preprocess

    return img_preprocess.take_some(*img_preprocess.find_images(args.images), args.limit, args.sample, args.seed)


def find_labels(args) -> dict:
    """{image: class id}, as the run reads them."""
    from imagenet_acc_eval import read_labels
    from labels import read_source, read_synsets

    if args.labels.name == "val_label.txt" and not args.labels.is_dir():
        return read_labels(args.labels)
    found, _ = read_source(args.labels, read_synsets(args.synsets) if args.synsets else ({}, {}), None)
    return {name.split(".")[0]: label for name, label in found.items()}


def check_data_set(args) -> str:
    """Whether each image has its label, and each label its image."""
    if not args.images or not args.labels:
        raise Failure("not found, see above")
    images, bad = find_images(args)
    left_out = f"{len(bad)} images cannot be taken: {listing(f'{path}: {reason}' for _, path, reason in bad)}"
    if bad and args.on_error == "fail":
        raise Failure(f"{left_out} (--on-error skip leaves them out)")
    labels = find_labels(args)
    unlabelled = sorted(images.keys() - labels.keys())
    gone = sorted(labels.keys() - images.keys() - {name for name, _, _ in bad})
    if unlabelled:
        raise Failure(f"{len(unlabelled)} of {len(images)} images have no label in {args.labels}: "
                      f"{listing(unlabelled)}")
    if gone and not (args.limit or args.sample or args.on_error == "skip"):
        raise Failure(f"{len(gone)} of {len(labels)} labels have no image in {args.images}: {listing(gone)}")
    return f"{len(images)} images, each with its label{f'; {left_out}' if bad else ''}"


def check_cann(args) -> str:
    """CANN's version, as far as its folder tells, and the tool that would run an om; raises Failure without one."""
    version, atc = "version not told", shutil.which("atc")
    if not atc:
        raise Failure("atc is not on PATH: install CANN's toolkit (README 2)")
    for folder in Path(os.path.realpath(atc)).parents[:VERSION_LEVELS]:
        for path in [*sorted(folder.glob(f"*-linux/{VERSION_FILE}")), folder / VERSION_FILE]:
            if path.is_file():
                found = re.search(rb"(?i)^version=([0-9][\w.]*)", read(path, VERSION_LIMIT), re.MULTILINE)
                version = found.group(1).decode() if found else version
    return f"{version}, {infer.choose_engine(args.tool or None, True)}"


def check_chips(args) -> str:
    """The chips that npu-smi tells of, and whether those asked for are among them."""
    if shutil.which("npu-smi") is None:
        return f"npu-smi not found: taken for {args.soc_version or 'Ascend310'}, device " \
               f"{','.join(map(str, args.device_ids)) or '0'}"
    good = chips.healthy(chips.find())
    unknown = [str(device) for device in args.device_ids if device not in [chip["device"] for chip in good]]
    if unknown:
        raise Failure(f"device {', '.join(unknown)}: not among the healthy ones: "
                      f"{', '.join(str(chip['device']) for chip in good)}")
    return "; ".join(f"device {chip['device']}: Ascend{chip['name']}, health OK"
                     + (", BUSY: its rates would be too low" if chips.is_busy(chip) else "") for chip in good)


def check_folder(args) -> str:
    """Whether the work directory can be written, and is not in use."""
    import fcntl

    there = args.workdir.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise Failure(f"{there}: not a folder: name another --workdir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Failure(f"{there}: no permission to write there: name another --workdir")
    lock = args.workdir / ".lock"
    if lock.is_file():
        with open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failure(f"{args.workdir}: in use by {file.read(200).decode(errors='replace').strip()}") from error
    return f"{args.workdir} can be written"


def check_disk(args) -> str:
    """Whether what the run is to write fits on the disk of the work directory."""
    if not args.images:
        raise Failure("not known without the data set")
    recipes, oms = STUDIED if args.study else (1, len(args.batch_sizes.split(",")))
    tensor = TENSOR_UINT8 if args.aipp else TENSOR
    needed = recipes * len(find_images(args)[0]) * (tensor + oms * DUMP) + (oms + 1 + (not args.weights)) * MODEL
    used = args.workdir.glob("study/*/prep_dataset") if args.study else [args.workdir / "prep_dataset"]
    there = sum(entry.stat().st_size for folder in [args.workdir, *used] if folder.is_dir()
                for entry in os.scandir(folder) if entry.is_file())
    folder = args.workdir
    while not folder.is_dir():
        folder = folder.absolute().parent
    free = free_space(folder)
    text = f"{needed / 1e9:.1f} GB needed in {args.workdir}, {free / 1e9:.1f} GB free"
    text += f", {there / 1e9:.1f} GB there already" if there else ""
    if free + there < needed:
        raise Failure(f"{text}: make room, or name another --workdir{'' if args.aipp else '; --aipp needs a quarter'}")
    return text


def check_cpu(_) -> str:
    """What the host engine would compute with."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    kind = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "ARM" if "asimd" in flags else "no AVX2"
    bf16 = "with" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "without"
    return f"{len(os.sched_getaffinity(0))} cores, {kind} {bf16} bf16"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--weights", type=lambda text: Path(text) if text else None, help="empty: the demo's")
    parser.add_argument("--images", type=lambda text: Path(text) if text else None)
    parser.add_argument("--labels", type=lambda text: Path(text) if text else None)
    parser.add_argument("--synsets", type=lambda text: Path(text) if text else None)
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--batch_sizes", default="1,16")
    parser.add_argument("--aipp", action="store_true")
    parser.add_argument("--study", action="store_true", help="four recipes, three precisions")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="with bad images")
    parser.add_argument("--limit", type=positive, default=0, metavar="N", help="only the first N images")
    parser.add_argument("--sample", type=positive, default=0, metavar="N", help="only N images, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="for --sample")
    parser.add_argument("--engine", choices=("cann", "host"), default="host")
    parser.add_argument("--tool", default="", help="the inference tool that was asked for, with --engine cann")
    parser.add_argument("--device_ids", type=lambda text: [int(part) for part in text.split(",") if part], default=[])
    parser.add_argument("--soc_version", default="")
    args = parser.parse_args()
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", args.batch_sizes):
        parser.error(f"--batch_sizes {args.batch_sizes}: not a list such as 1,16")

    checks = {"python": check_python, "weights": check_weights, "data set": check_data_set, "folder": check_folder,
              "disk": check_disk}
    checks.update({"CANN": check_cann, "chips": check_chips} if args.engine == "cann" else {})
    checks["CPU"] = check_cpu
    missing = 0
    for name, check in checks.items():
        try:
            print(printable(f"✓ {name}: {check(args)}"))
        except ImportError as error:
            print(printable(f"✗ {name}: {error}: see python above"))
            missing += 1
        except (Failure, OSError) as error:
            print(printable(f"✗ {name}: {error}"))
            missing += 1
    return 3 if missing else 0


if __name__ == "__main__":
    run(main)

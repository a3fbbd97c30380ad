"""Report what a run needs and lacks before it starts: one line per requirement, with the cure.

Example:  bash run_all.sh --check --weights xception-c0a72b38.pth.tar --datasets_path /opt/npu
          ✓ tools: CANN is on PATH already (/usr/local/Ascend/.../bin/atc)
          ✓ python: 3.11.2, with numpy 2.4.6, Pillow 13.0.0, tqdm 4.70.0
          ✗ weights: xception-c0a72b38.pth.tar: md5 is 0c8a..., the published file's is 203a...; download it again
          ✓ data set: 50000 images, each with its label
          ✓ paths: atc accepts them
          ✓ work directory: /home/me/xception/work is writable
          ✗ disk: 54.8 GB needed in /home/me/xception/work, 31.0 GB free; free space, or pass another --workdir
          ✓ CANN: 5.1.RC2, benchmark
          ✓ chips: device 0: Ascend310, health OK
          ✓ CPU: 8 cores, AVX-512 without bf16

Imported by tools/options.py, whose functions find a run's inputs. It reads and hashes files, and writes nothing.
If the terminal's encoding lacks the marks, "ok" and "FAIL" replace them.
"""
import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

import chips
import engines
import options
import quantize
from common import images, model
from common.checkpoints import check_pickle
from common.cli import Failure, listing, printable
from common.files import free_space, hash_of, read
from common.onnx_file import check_network, read_onnx

TENSOR, TENSOR_UINT8 = 12 * model.SIDE ** 2, 3 * model.SIDE ** 2  # bytes, as float32 and as uint8
DUMP, MODEL = {"txt": 10_000, "bin": 4_000}, 92_000_000  # bytes: a dump; a checkpoint, ONNX or om (docs/formats.md)
STUDIED = (4, 2)  # recipes and precisions of run_all.sh --study (docs/precision.md)
COMPARED = 2  # oms that --precision int8 is compared with
VERSION_FILE = "ascend_toolkit_install.info"
VERSION_LEVELS = 6  # folders above atc that may contain it
VERSION_LIMIT = 1 << 20  # bytes
PACKAGES = {"PIL": "Pillow", "cv2": "opencv-python"}  # whose modules have other names


def version_of(package: str) -> str:
    """Return a package's name and version, or its name alone if the version is not known."""
    try:
        from importlib import metadata  # novm

        return f"{package} {metadata.version(package)}"
    except ImportError:  # also PackageNotFoundError, of a package from the system; Python 3.7 lacks importlib.metadata
        return package


def check_python(args) -> str:
    """Return the versions of the packages that the run imports; raises Failure if one is missing."""
    from importlib.util import find_spec

    missing = [PACKAGES.get(module, module) for module in options.find_packages(args)]
    if missing:
        size = "400 MB" if options.is_npu_only(args) else "6 GB"
        raise Failure(f"{', '.join(missing)} missing; run_all.sh installs what it needs into .venv, which takes "
                      f"network and {size}; without network see docs/troubleshooting.md")
    found = [module for module in (*options.needed_packages(args), "cv2") if find_spec(module)]
    return f"{sys.version.split()[0]}, with {', '.join(version_of(PACKAGES.get(module, module)) for module in found)}"


def check_weights(args) -> str:
    """Return a description of the weights; raises Failure if they are missing or damaged."""
    if not args.weights:
        return "demo weights, fitted to the photos; they cannot classify ImageNet"
    options.find_weights(args)
    if args.weights.endswith(".onnx"):
        check_network(args.weights)
    else:
        check_pickle(args.weights)
    md5 = hash_of(args.weights, "md5")
    if os.path.basename(args.weights) == model.PUBLISHED_NAME and md5 != model.PUBLISHED_MD5:
        raise Failure(f"{args.weights}: md5 is {md5}, the published file's is {model.PUBLISHED_MD5}; download it "
                      "again, or rename other weights")
    return f"{args.weights}, md5 {md5}{', as published' if md5 == model.PUBLISHED_MD5 else ''}"


def find_images(args) -> tuple:
    """Return the run's images and the unreadable ones among them, as img_preprocess.py finds them."""
    if not hasattr(args, "found_images"):  # the tree may have millions of files
        args.found_images = images.find_images(args.images)
    return images.take_some(*args.found_images, *subset(args))


def subset(args) -> tuple:
    """Return the run's limit, sample and seed, as take_some takes them."""
    return int(args.limit or 0), int(args.sample or 0), int(args.seed or 0)


def find_classes(args):
    """Return the number of the network's classes, None before it was exported from these weights."""
    from labels import network_classes

    weights, exported = args.weights or "", Path(args.workdir, "xception.onnx")
    if weights.endswith(".onnx"):
        return network_classes(weights)
    with contextlib.suppress(Failure, FileNotFoundError):
        if weights and read_onnx(exported)["metadata"].get("weights_md5") == hash_of(weights, "md5"):
            return network_classes(exported)
    return None if weights else model.NUM_CLASSES


def check_data_set(args) -> str:
    """Return the number of images, all labeled; raises Failure if an image lacks a label or a label an image."""
    from labels import labels_of

    find_data_set(args)
    found, unreadable = find_images(args)
    left_out = f"{len(unreadable)} images cannot be used: " \
               f"{listing(f'{path}: {reason}' for _, path, reason in unreadable)}"
    if unreadable and args.on_error == "fail":
        raise Failure(f"{left_out}; fix them, or pass --on-error skip")
    labels_of(Path(args.labels), Path(args.synsets) if args.synsets else None, None, find_classes(args), args.images,
              args.found_images, subset(args), args.on_error == "skip")
    return f"{len(found)} images, each with its label{f'; {left_out}' if unreadable else ''}"


def find_data_set(args):
    """Set args.images and labels, even if the weights are missing; raises Failure."""
    if not getattr(args, "images", None):
        options.find_data_set(args)


def check_paths(args) -> str:
    """Raise Failure if atc or the inference tool would refuse a path."""
    options.check_paths(args)
    return "atc accepts them"


def check_cann(args) -> str:
    """Return CANN's version, if its folder states it, and the inference tool; raises Failure if either is missing."""
    version, atc = "unknown version", shutil.which("atc")
    if not atc:
        raise Failure("atc is not on PATH; install CANN's toolkit (README section 2)")
    for folder in list(Path(os.path.realpath(atc)).parents)[:VERSION_LEVELS]:  # a slice of parents needs Python 3.10
        for path in [*sorted(folder.glob(f"*-linux/{VERSION_FILE}")), folder / VERSION_FILE]:
            if path.is_file():
                found = re.search(rb"(?i)^version=([0-9][\w.]*)", read(path, VERSION_LIMIT), re.MULTILINE)
                version = found.group(1).decode() if found else version
    return f"{version}, {engines.description(engines.choose(args.engine, True))}"


def check_int8(args) -> str:
    """Return the amct_onnx that will quantize."""
    tool = quantize.find_amct()
    missing = args.atc_engine == "cann" and quantize.is_stand_in(tool)
    return quantize.tool_name(tool) + ("; CANN's amct_onnx is not on PATH" if missing else "")


def check_chips(args) -> str:
    """Return the chips that npu-smi reports; raises Failure if one of --device_ids is not among them."""
    if shutil.which("npu-smi") is None:
        return f"npu-smi not found; the run assumes {args.soc_version or 'Ascend310'}, device {args.device_ids or '0'}"
    good = chips.usable(chips.find())
    unknown = [device for device in (args.device_ids or "").split(",")
               if device and int(device) not in [chip["device"] for chip in good]]
    if unknown:
        raise Failure(f"device {', '.join(unknown)}: not among the usable ones: "
                      f"{', '.join(str(chip['device']) for chip in good)}")
    return "; ".join(f"device {chip['device']}: Ascend{chip['name']}, health {chip['health']}"
                     + (", BUSY: its rates would be too low" if chips.is_busy(chip) else "") for chip in good)


def check_workdir(args) -> str:
    """Return that the work directory is writable; raises Failure if it is not, or in use."""
    import fcntl

    there = Path(args.workdir)
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise Failure(f"{there}: not a folder; pass another --workdir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Failure(f"{there}: no write permission; pass another --workdir")
    lock = Path(args.workdir, ".lock")
    if lock.is_file():
        with open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failure(f"{args.workdir}: in use by {file.read(200).decode(errors='replace').strip()}") from error
            except OSError:
                pass  # a file system without locks
    return f"{args.workdir} is writable"


def check_disk(args) -> str:
    """Return the size of the run's files and of the disk's free space; raises Failure if they do not fit."""
    find_data_set(args)
    workdir = Path(args.workdir)
    recipes, oms = STUDIED if args.study else (1, len(args.batch_sizes.split(",")))
    tensor = TENSOR_UINT8 if args.aipp else TENSOR
    others = COMPARED if args.precision == "int8" else 0
    outputs = (oms + others) * DUMP[args.dumps or "txt"]
    models = oms + 1 + (not args.weights) + 2 * others  # of int8 also the deploy and the fake-quant model
    needed = recipes * len(find_images(args)[0]) * (tensor + outputs) + models * MODEL
    used = workdir.glob("study/*/prep_dataset") if args.study else [workdir / "prep_dataset"]
    there = sum(entry.stat().st_size for folder in [workdir, *used] if folder.is_dir()
                for entry in os.scandir(folder) if entry.is_file())
    folder = workdir
    while not folder.is_dir():
        folder = folder.parent
    free = free_space(folder)
    text = f"{needed / 1e9:.1f} GB needed in {workdir}, {free / 1e9:.1f} GB free"
    text += f", {there / 1e9:.1f} GB there already" if there else ""
    if free + there < needed:
        raise Failure(f"{text}; free space, or pass another --workdir{'' if args.aipp else '; --aipp needs a quarter'}")
    return text


def check_cpu(_) -> str:
    """Return the CPU's cores and instruction sets, for the stand-ins."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    kind = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "ARM" if "asimd" in flags else "no AVX2"
    bf16 = "with" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "without"
    return f"{len(os.sched_getaffinity(0))} cores, {kind} {bf16} bf16"


def marks() -> tuple:
    """Return the marks of a met and an unmet requirement, in the terminal's encoding."""
    try:
        "✓✗".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok  ", "FAIL"
    return "✓", "✗"


def check(args, origin: str) -> int:
    """Print a line per requirement of the run `args` (options.parse); return 3 if one is unmet, else 0.

    `origin` is env.sh's line on the origin of atc.
    """
    def check_tools(args):
        options.find_tools(args)
        os.environ["PATH"] = args.path
        return re.sub("^env.sh: ", "", origin)

    good, bad = marks()
    args.atc_engine = os.environ.get("ATC_ENGINE", "host")
    checks = [("tools", check_tools), ("python", check_python), ("weights", check_weights),
              ("data set", check_data_set), ("paths", check_paths), ("work directory", check_workdir),
              ("disk", check_disk)]
    if args.atc_engine == "cann" and args.engine != "host" and not args.study:
        checks += [("CANN", check_cann), ("chips", check_chips)]
    if args.precision == "int8":
        checks += [("int8", check_int8)]
    missing = 0
    for name, one in [*checks, ("CPU", check_cpu)]:
        try:
            print(printable(f"{good} {name}: {one(args)}"))
        except ImportError as error:
            print(printable(f"{bad} {name}: {error}; see python above"))
            missing += 1
        except (Failure, OSError) as error:
            print(printable(f"{bad} {name}: {error}"))
            missing += 1
    return 3 if missing else 0

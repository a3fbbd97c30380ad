#!/usr/bin/env python3
"""Export an Xception checkpoint to ONNX, opset 11, with torch 2.5 or later, and check that both compute the same.

Usage:    python3 xception_pth2onnx.py CHECKPOINT OUT.onnx [--allow-nonfinite]
Example:  python3 xception_pth2onnx.py xception-c0a72b38.pth.tar xception.onnx
          xception.onnx: opset 11, 128 nodes, 1000 classes; largest difference from PyTorch 4.5e-07 (limit 1e-04)

CHECKPOINT is a state dict of tensors, plain or under `state_dict`, names with or without
`module.`, the last layer named fc or last_linear. It is read with weights_only=True: a pickle
that runs code is refused, and so is one whose tensors claim more bytes than the file has, or
that takes more memory or time to read than its size allows. NaN and infinite weights are refused
unless --allow-nonfinite is given. The published file, xception-c0a72b38.pth.tar, must have md5
203a36dce3e49d45e5d742efbad5ba65.

OUT.onnx: an ONNX ModelProto, float32; input `image` (batch, 3, 299, 299), output `class`
(batch, num_classes), logits; batch is dynamic. BatchNorm is folded into the convolutions.
metadata_props record its origin: weights_md5, weights_file, torch_version, exporter_sha256 and,
for demo weights, note. An OUT.onnx with the same origin is kept.
"""
import hashlib
import math
import os
import pickle
import platform
import re
import resource
import select
import signal
import warnings
from pathlib import Path

from common import model
from common.cli import Failure, import_openvino, listing, need, parser_of, printable, run, say
from common.files import hash_of, read, write
from common.jobs import end_with_parent

OLDEST_PYTHON = "3.9"  # of that torch
OLDEST_TORCH = "2.5"  # its torch.onnx.export has dynamo=False; before 1.13 there was no weights_only
TOLERANCE = 1e-4  # of the largest logit; float32 engines differ by about 1e-6 here
ROOM = 256 << 20  # bytes that reading a checkpoint may take in addition to twice its size
CPU_SECONDS, BYTES_A_SECOND = 3, 25 << 20  # CPU time that reading may take; a file of 92 MB takes 0.1 s
WALL_FACTOR = 20  # seconds of waiting per second of CPU time: for a busy machine or slow disk
NAME_LIMIT = 200  # characters of a tensor's name; the network's longest has 33, and 7 for "module."
NOTE_LIMIT = 500  # characters
ONNX_LIMIT = 2 << 30  # bytes, protobuf's own
HERE = Path(__file__).resolve().parent


def provenance(checkpoint: Path) -> dict:
    """Return what determines the ONNX file's content: {name: value}, strings, for its metadata_props."""
    digest = hash_of(checkpoint, "md5")
    if checkpoint.name == model.PUBLISHED_NAME and digest != model.PUBLISHED_MD5:
        raise Failure(
            f"{checkpoint}: md5 is {digest}, the published file's is {model.PUBLISHED_MD5}; download it "
            "again, or rename other weights"
        )
    sources = b"".join((HERE / name).read_bytes() for name in ("common/xception.py", "xception_pth2onnx.py"))
    return {
        "weights_md5": digest,
        "weights_file": printable(checkpoint.name),
        "torch_version": torch_version(),
        "exporter_sha256": hashlib.sha256(sources).hexdigest(),
    }


def torch_version() -> str:
    """Return torch's version, without importing torch where Python can look it up: that takes seconds."""
    try:
        from importlib.metadata import version  # novm

        return version("torch")
    except ImportError:  # an installation without metadata, or no torch
        import torch

        return torch.__version__


def is_current(path: Path, expected: dict) -> bool:
    """Return True if `path` is an ONNX file of the `expected` origin."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        found = onnx.ModelProto.FromString(read(path, ONNX_LIMIT))
    except (FileNotFoundError, DecodeError):
        return False
    properties = {prop.key: prop.value for prop in found.metadata_props}
    return all(properties.get(key) == value for key, value in expected.items())


def read_checkpoint(path: Path):
    """Return what torch.save wrote, without running code from the file; raises Failure that names the file."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they warn about is refused, here or as not a state dict
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = re.findall(r"GLOBAL \S+|Unsupported operand \d+", str(error)) + [type(error).__name__]
        raise Failure(f"{path}: refused: contains more than tensors, or uses another pickle protocol than 2 "
                      f"({wants[0][:200]}); save its state_dict() with torch.save") from error
    except Exception as error:  # any: torch raises nearly every type on a damaged file
        raise Failure(f"{path}: not a PyTorch checkpoint, or damaged ({type(error).__name__}: {str(error)[:200]})"
                      ) from error


def rehearse(path: Path):
    """Read the checkpoint in a child process with bounded memory and time; raises Failure if it fails.

    A few bytes of pickle can request gigabytes or hours, in one C call that nothing in this process can interrupt.
    """
    size = path.stat().st_size
    seconds = CPU_SECONDS + size // BYTES_A_SECOND
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            bound(2 * size + ROOM, seconds)
            read_checkpoint(path)
            os.write(writer, b"read")
        except Failure as error:
            if "MemoryError" not in str(error) and "can't allocate memory" not in str(error):
                os.write(writer, printable(str(error)).encode())
        finally:
            os._exit(0)  # also if there was not enough memory for the message
    os.close(writer)
    with open(reader, "rb") as pipe:
        in_time = select.select([pipe], [], [], WALL_FACTOR * seconds)[0]  # CPU time does not pass in a deadlock
        if not in_time:
            os.kill(child, signal.SIGKILL)
        outcome = pipe.read().decode()
    os.waitpid(child, 0)
    if not in_time:
        raise Failure(f"{path}: reading it did not finish in {WALL_FACTOR * seconds} s; rerun on an idle machine, or "
                      "download the file again")
    if not outcome:
        raise Failure(f"{path}: refused: reading it takes more memory or time than {size:,} bytes should, or crashes "
                      "torch; it is damaged or malicious")
    if outcome != "read":
        raise Failure(outcome)


def bound(memory: int, seconds: int):
    """Limit this child process to `memory` bytes in addition to what it has, and to `seconds` of CPU time."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for kind, limit in ((resource.RLIMIT_AS, pages * resource.getpagesize() + memory), (resource.RLIMIT_CPU, seconds)):
        before = [most for most in resource.getrlimit(kind) if most != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min([limit, *before]),) * 2)


def load_checkpoint(path: Path) -> tuple:
    """Read a checkpoint without running code from it.

    Returns ({name: tensor} under the network's names, note or None). Raises Failure, naming the file, if it is not a
    checkpoint, contains code, or claims values that it does not have.
    """
    import torch

    rehearse(path)
    content = read_checkpoint(path)
    # dict.items and torch.Tensor.detach, as a pickle may put attributes of these names on its objects
    content = dict(dict.items(content)) if isinstance(content, dict) else {"state_dict": content}
    note, state = content.get("note"), content.get("state_dict", content)
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and len(name) < NAME_LIMIT and isinstance(value, torch.Tensor)
            for name, value in dict.items(state)):
        raise Failure(f"{path}: contains no state dict (expected names and tensors, plain or under `state_dict`)")
    renamed, stored = {}, {}
    for spelling, value in dict.items(state):
        name, tensor = re.sub(r"^last_linear\.", "fc.", re.sub(r"^module\.", "", spelling)), torch.Tensor.detach(value)
        if name in renamed:
            raise Failure(f"{path}: contains {name} twice, under two spellings")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or \
                tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise Failure(f"{path}: {name} claims {shape_of(tensor)} values, which are not in the file")
        renamed[name], storage = tensor, tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
    if sum(stored.values()) > path.stat().st_size:  # compressed, or created by a call
        raise Failure(f"{path}: refused: its tensors claim {sum(stored.values()):,} bytes, the file has "
                      f"{path.stat().st_size:,}: not written by torch.save")
    return renamed, printable(note)[:NOTE_LIMIT] if isinstance(note, str) else None


def shape_of(tensor) -> str:
    """Return a tensor's shape for a message: an untrusted one may have a million dimensions."""
    return str(list(tensor.shape[:8]))


def build_network(path: Path, state: dict, allow_nonfinite: bool = False):
    """Return the network in eval mode with these weights; raises Failure, naming each key that does not fit."""
    from common.xception import Xception

    import torch

    if "fc.weight" not in state or state["fc.weight"].dim() != 2:
        raise Failure(f"{path}: no two-dimensional fc.weight (or last_linear.weight): not Xception weights")
    if not state["fc.weight"].numel():
        raise Failure(f"{path}: fc.weight is empty: the network has no classes")
    with torch.device("meta"):  # shapes only: no time spent on random weights
        network = Xception(num_classes=state["fc.weight"].shape[0])
    expected = network.state_dict()
    for name in expected:  # checkpoints older than torch 0.4.1 lack these counters, which eval mode never reads
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.tensor(0))
    problems = []
    missing = [name for name in expected if name not in state]
    if missing:
        problems.append(f"{len(missing)} missing ({listing(missing)})")
    extra = [name for name in state if name not in expected]
    if extra:
        problems.append(f"{len(extra)} unknown ({listing(extra)})")
    for name in expected.keys() & state.keys():
        if state[name].is_floating_point() and state[name].shape == expected[name].shape:
            state[name] = state[name].float()  # only these: a million others may share one storage
        if state[name].shape != expected[name].shape or state[name].dtype != expected[name].dtype:
            problems.append(
                f"{name} is {state[name].dtype} {shape_of(state[name])}, "
                f"expected {expected[name].dtype} {list(expected[name].shape)}"
            )
    if problems:
        raise Failure(f"{path}: keys do not fit Xception: {listing(sorted(problems))}")
    not_finite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if not_finite and not allow_nonfinite:
        raise Failure(f"{path}: NaN or infinite weights in {listing(not_finite)}: damaged file or diverged training; "
                      "pass --allow-nonfinite to convert it anyway")
    network.load_state_dict(state, assign=True)
    return network.eval()


def export(network, metadata: dict):
    """Return the network as a checked onnx.ModelProto."""
    import io

    import onnx
    import torch

    with warnings.catch_warnings():
        # The default exporter starts at opset 18; dynamo=False still writes 11, and warns that it is old.
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.onnx.export(
            network, torch.zeros(1, 3, model.SIDE, model.SIDE), file, dynamo=False, opset_version=model.OPSET,
            input_names=[model.INPUT], output_names=[model.OUTPUT],
            dynamic_axes={model.INPUT: {0: "-1"}, model.OUTPUT: {0: "-1"}},
        )
    exported = onnx.load_model_from_string(file.getvalue())
    onnx.helper.set_model_props(exported, metadata)
    onnx.checker.check_model(exported, full_check=True)
    if any(node.op_type == "BatchNormalization" for node in exported.graph.node):
        raise Failure("BatchNorm was not folded into the convolutions: this torch version exports it differently", 4)
    return exported


def largest_difference(network, data: bytes) -> float:
    """Return the largest |ONNX - PyTorch| over random batches of 1 and 3, relative to PyTorch's largest logit.

    NaN and infinite values count as equal if both sides have the same.
    """
    import torch

    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    worst = 0.0
    for batch in (1, 3):
        images = torch.rand(batch, 3, model.SIDE, model.SIDE, generator=torch.Generator().manual_seed(batch)) * 2 - 1
        with torch.inference_mode():
            expected = network(images)
        actual = torch.from_numpy(compiled(images.numpy())[0])
        finite = expected.isfinite()
        if not torch.equal(finite, actual.isfinite()) or not torch.equal(expected[~finite].nan_to_num(),
                                                                         actual[~finite].nan_to_num()):
            return math.inf
        if finite.any():
            scale = max(expected[finite].abs().max().item(), torch.finfo(torch.float32).tiny)
            worst = max(worst, (actual - expected)[finite].abs().max().item() / scale)
    return worst


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("onnx", metavar="OUT.onnx", type=Path)
    parser.add_argument("--allow-nonfinite", action="store_true", help="convert NaN and infinite weights too")
    args = parser.parse_args()
    if args.onnx.exists() and args.checkpoint.exists() and args.onnx.samefile(args.checkpoint):
        parser.error(f"{args.onnx}: would replace the checkpoint")

    cure = "export on another machine, and copy the .onnx (README section 3)"
    need("Python", platform.python_version(), OLDEST_PYTHON, cure)
    need("torch", torch_version(), OLDEST_TORCH, cure)
    metadata = provenance(args.checkpoint)
    if is_current(args.onnx, metadata):
        print(f"{args.onnx}: up to date with the weights (md5 {metadata['weights_md5']})")
        return 0
    state, note = load_checkpoint(args.checkpoint)
    if note:
        metadata["note"] = note
        say(f"{args.checkpoint}: {note}")
    network = build_network(args.checkpoint, state, args.allow_nonfinite)
    exported = export(network, metadata)
    data = exported.SerializeToString()
    difference = largest_difference(network, data)
    if difference > TOLERANCE:
        raise Failure(f"{args.onnx}: not written: differs from PyTorch by {difference:.1e} of the largest logit "
                      f"(limit {TOLERANCE:.0e})", 1)
    write(args.onnx, data)
    print(f"{args.onnx}: opset {model.OPSET}, {len(exported.graph.node)} nodes, {network.fc.out_features} classes; "
          f"largest difference from PyTorch {difference:.1e} (limit {TOLERANCE:.0e})")
    return 0


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Export an Xception checkpoint to ONNX, opset 11, with torch 2.5 or later, and check that both compute the same.

Usage:    python3 xception_pth2onnx.py CHECKPOINT OUT.onnx [--state_dict KEY] [--allow-nonfinite]
Example:  python3 xception_pth2onnx.py xception-c0a72b38.pth.tar xception.onnx
          xception.onnx: opset 11, 128 nodes, 1000 classes; largest difference from PyTorch 4.5e-07 (limit 1e-04)

CHECKPOINT is a state dict of tensors, plain or in a dictionary, under the prefixes that trainers
add, of torch.save or safetensors (docs/troubleshooting.md lists the forms). If there are several,
averaged weights (EMA) are taken, and this is said; --state_dict KEY takes another. It is read with
weights_only=True: a pickle that runs code is refused, and so is one whose tensors claim more bytes
than the file has, or that takes more memory or time to read than its size allows. NaN and infinite
weights are refused unless --allow-nonfinite is given. The published file, xception-c0a72b38.pth.tar, must have md5
203a36dce3e49d45e5d742efbad5ba65.

OUT.onnx: an ONNX ModelProto, float32; input `image` (batch, 3, 299, 299), output `class`
(batch, num_classes), logits; batch is dynamic. BatchNorm is folded into the convolutions.
metadata_props record its origin: weights_md5, weights_file, state_dict (as given), torch_version,
exporter_sha256 and, for demo weights, note. An OUT.onnx with the same origin is kept.
"""
import hashlib
import math
import platform
import warnings
from pathlib import Path

from common import checkpoints, model
from common.checkpoints import shape_of
from common.cli import Failure, import_openvino, listing, need, parser_of, printable, run, say
from common.files import hash_of, read, write
from common.filetypes import refuse
from common.onnx_file import ONNX_LIMIT

OLDEST_PYTHON = "3.9"  # of that torch
OLDEST_TORCH = "2.5"  # its torch.onnx.export has dynamo=False; before 1.13 there was no weights_only
TOLERANCE = 1e-4  # of the largest logit; float32 engines differ by about 1e-6 here
EXPORTER = ("common/checkpoints.py", "common/xception.py", "xception_pth2onnx.py")
HERE = Path(__file__).resolve().parent


def provenance(checkpoint: Path, asked=None) -> dict:
    """Return what determines the ONNX file's content: {name: value}, strings, for its metadata_props."""
    digest = hash_of(checkpoint, "md5")
    if checkpoint.name == model.PUBLISHED_NAME and digest != model.PUBLISHED_MD5:
        refuse(checkpoint, "the published weights")
        raise Failure(
            f"{checkpoint}: md5 is {digest}, the published file's is {model.PUBLISHED_MD5}; download it "
            "again, or rename other weights"
        )
    sources = b"".join((HERE / name).read_bytes() for name in EXPORTER)
    return {
        "weights_md5": digest,
        "weights_file": printable(checkpoint.name),
        "state_dict": asked or "",
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


def load_checkpoint(path: Path, asked=None) -> tuple:
    """Return common.checkpoints.load_checkpoint of Xception."""
    from common.xception import Xception

    import torch

    with torch.device("meta"):  # names only: no time spent on random weights
        names = set(Xception().state_dict())
    return checkpoints.load_checkpoint(path, names, asked)


def without_ones(tensor) -> list:
    """Return a tensor's shape without sides of 1."""
    return [side for side in tensor.shape if side != 1]


def build_network(path: Path, state: dict, allow_nonfinite: bool = False):
    """Return the network in eval mode with these weights; raises Failure, naming each key that does not fit."""
    from common.xception import Xception

    import torch

    head = state.get("fc.weight")
    if head is None or head.dim() < 2:
        raise Failure(f"{path}: its last layer (fc, last_linear, classifier or head) has no weight of shape "
                      "[num_classes, 2048]: not Xception weights")
    if head.shape[0] < 2:
        raise Failure(f"{path}: its last layer has {head.shape[0]} values; top-1 needs 2 classes or more, with a value "
                      "for each (not one for a sigmoid)")
    if "fc.bias" not in state:
        raise Failure(f"{path}: its last layer has a weight, but no bias; add one of zeros to the state dict: "
                      f"state['fc.bias'] = torch.zeros({head.shape[0]})")
    with torch.device("meta"):  # shapes only: no time spent on random weights
        network = Xception(num_classes=head.shape[0])
    expected = network.state_dict()
    for name in expected:  # checkpoints older than torch 0.4.1 lack these counters, which eval mode never reads
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.tensor(0))
    problems = []
    missing = [name for name in expected if name not in state]
    if missing:
        unsaved = all(name.rpartition(".")[2].startswith("running_") for name in missing)
        problems.append(f"{len(missing)} missing ({listing(missing)}"
                        f"{': save state_dict(), which parameters() lack these of' if unsaved else ''})")
    extra = [name for name in state if name not in expected]
    if extra:
        problems.append(f"{len(extra)} unknown ({listing(extra)})")
    for name in expected.keys() & state.keys():
        if without_ones(state[name]) == without_ones(expected[name]):  # a pointwise kernel as a matrix, for instance
            state[name] = state[name].reshape(expected[name].shape)
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
    parser.add_argument("--state_dict", metavar="KEY", help="which one, of several in the file")
    parser.add_argument("--allow-nonfinite", action="store_true", help="convert NaN and infinite weights too")
    args = parser.parse_args()
    if args.onnx.exists() and args.checkpoint.exists() and args.onnx.samefile(args.checkpoint):
        parser.error(f"{args.onnx}: would replace the checkpoint")

    cure = "export on another machine, and copy the .onnx (README section 3)"
    need("Python", platform.python_version(), OLDEST_PYTHON, cure)
    need("torch", torch_version(), OLDEST_TORCH, cure)
    metadata = provenance(args.checkpoint, args.state_dict)
    if is_current(args.onnx, metadata):
        print(f"{args.onnx}: up to date with the weights (md5 {metadata['weights_md5']})")
        return 0
    state, note = load_checkpoint(args.checkpoint, args.state_dict)
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

#!/usr/bin/env python3
"""Turn an Xception checkpoint into ONNX, opset 11, and prove that both compute the same.

Usage:    python3 xception_pth2onnx.py CHECKPOINT OUT.onnx [--allow-nonfinite]
Example:  python3 xception_pth2onnx.py xception-c0a72b38.pth.tar xception.onnx
          xception.onnx: opset 11, 128 nodes, 1000 classes; largest difference from PyTorch 4.5e-07 (limit 1e-04)

CHECKPOINT is a state dict of tensors, plain or under `state_dict`, names with or without
`module.`, the last layer named fc or last_linear. It is read with weights_only=True: a
pickle that wants to run code is refused, and so is one whose tensors claim more than the file
holds. NaN and infinite weights are refused unless --allow-nonfinite is given. The published
file, xception-c0a72b38.pth.tar, must have md5 203a36dce3e49d45e5d742efbad5ba65.

OUT.onnx: an ONNX ModelProto, float32; input `image` (batch, 3, 299, 299), output `class`
(batch, classes), logits; batch is free. BatchNorm is folded into the convolutions.
metadata_props say where it came from: weights_md5, weights_file, torch_version,
exporter_sha256 and, for demo weights, note. If OUT.onnx already says all the same, it is
left as it is.
"""
import argparse
import hashlib
import importlib.metadata
import math
import pickle
import re
import warnings
import zipfile
from pathlib import Path

from common import Failure, hash_of, import_openvino, listing, run, say, write

PUBLISHED_NAME = "xception-c0a72b38.pth.tar"  # tstandley/Xception-PyTorch, README
PUBLISHED_MD5 = "203a36dce3e49d45e5d742efbad5ba65"
OPSET = 11  # the one that CANN 5.0.1 reads
SIDE = 299  # pixels, the network's input (arXiv 1610.02357)
TOLERANCE = 1e-4  # of the largest logit; float32 engines differ by about 1e-6 here
HERE = Path(__file__).resolve().parent


def provenance(checkpoint: Path) -> dict:
    """What decides the ONNX file's content, as strings: {name: value} for its metadata_props."""
    digest = hash_of(checkpoint, "md5")
    if checkpoint.name == PUBLISHED_NAME and digest != PUBLISHED_MD5:
        raise Failure(
            f"{checkpoint}: md5 is {digest}, the published file's is {PUBLISHED_MD5}: damaged or another file; "
            "fetch it again, or give other weights another name"
        )
    sources = b"".join((HERE / name).read_bytes() for name in ("xception.py", "xception_pth2onnx.py"))
    return {
        "weights_md5": digest,
        "weights_file": checkpoint.name,
        "torch_version": importlib.metadata.version("torch"),
        "exporter_sha256": hashlib.sha256(sources).hexdigest(),
    }


def is_current(path: Path, expected: dict) -> bool:
    """Whether `path` is an ONNX file that an earlier call made from the same things."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (FileNotFoundError, DecodeError):
        return False
    found = {prop.key: prop.value for prop in model.metadata_props}
    return all(found.get(key) == value for key, value in expected.items())


def check_claims(path: Path):
    """Raise Failure if `path` is an archive whose entries claim more bytes than it has: they are compressed.

    torch.save compresses nothing; a compressed entry can grow to a thousand times its size when it is read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # the format before torch 1.6, or no checkpoint
        return
    if claimed > path.stat().st_size:
        raise Failure(f"{path}: refused: its entries claim {claimed:,} bytes, the file has {path.stat().st_size:,}: "
                      "not written by torch.save")


def load_checkpoint(path: Path) -> tuple:
    """Read a checkpoint without running anything in it.

    Returns ({name: tensor} under the network's names, note or None). Raises Failure,
    naming the file, when it is no checkpoint or wants to run code.
    """
    import torch

    check_claims(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = re.findall(r"GLOBAL \S+|Unsupported [^.\n]*", str(error)) + [type(error).__name__]
        raise Failure(f"{path}: refused, not a plain checkpoint: it holds more than tensors ({wants[0]})") from error
    except Exception as error:  # any: torch raises nearly every type on a damaged file
        raise Failure(f"{path}: not a PyTorch checkpoint, or damaged ({type(error).__name__}: {error})"[:300]
                      ) from error
    note = content.get("note") if isinstance(content, dict) else None
    state = content["state_dict"] if isinstance(content, dict) and "state_dict" in content else content
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise Failure(f"{path}: no state dict in it (expected names and tensors, plain or under `state_dict`)")
    renamed = {}
    for spelling, tensor in state.items():
        name = re.sub(r"^last_linear\.", "fc.", re.sub(r"^module\.", "", spelling))
        if name in renamed:
            raise Failure(f"{path}: {name} is in it twice, under two spellings")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or \
                tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise Failure(f"{path}: {name} claims {list(tensor.shape)} values, which are not in the file")
        renamed[name] = tensor.float() if tensor.is_floating_point() else tensor
    return renamed, note


def build_network(path: Path, state: dict, allow_nonfinite: bool = False):
    """The network in eval mode with these weights; raises Failure, naming each key that does not fit."""
    import torch

    from xception import Xception

    if "fc.weight" not in state or state["fc.weight"].dim() != 2:
        raise Failure(f"{path}: no two-dimensional fc.weight (or last_linear.weight): not Xception weights")
    with torch.device("meta"):  # shapes only: no time spent on random weights
        network = Xception(classes=state["fc.weight"].shape[0])
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
        if state[name].shape != expected[name].shape or state[name].dtype != expected[name].dtype:
            problems.append(
                f"{name} is {state[name].dtype} {list(state[name].shape)}, "
                f"expected {expected[name].dtype} {list(expected[name].shape)}"
            )
    if problems:
        raise Failure(f"{path}: keys do not fit Xception: {listing(sorted(problems))}")
    not_finite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if not_finite and not allow_nonfinite:
        raise Failure(f"{path}: NaN or infinite weights in {listing(not_finite)}: damaged, or a training that failed "
                      "(--allow-nonfinite converts it all the same)")
    network.load_state_dict(state, assign=True)
    return network.eval()


def export(network, metadata: dict):
    """The network as a checked onnx.ModelProto."""
    import io

    import onnx
    import torch

    with warnings.catch_warnings():
        # The default exporter starts at opset 18; dynamo=False still writes 11, and warns that it is old.
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        torch.onnx.export(
            network, torch.zeros(1, 3, SIDE, SIDE), file, dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=["class"],
            dynamic_axes={"image": {0: "-1"}, "class": {0: "-1"}},
        )
    model = onnx.load_model_from_string(file.getvalue())
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        raise Failure("BatchNorm was not folded into the convolutions: this torch version exports it differently", 4)
    return model


def largest_difference(network, data: bytes) -> float:
    """Largest |ONNX - PyTorch| over random batches of 1 and 3, as a share of PyTorch's largest logit.

    Values that are not finite count as equal where they are the same on both sides.
    """
    import torch

    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    worst = 0.0
    for batch in (1, 3):
        images = torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(batch)) * 2 - 1
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("onnx", metavar="OUT.onnx", type=Path)
    parser.add_argument("--allow-nonfinite", action="store_true", help="convert NaN and infinite weights too")
    args = parser.parse_args()

    metadata = provenance(args.checkpoint)
    if is_current(args.onnx, metadata):
        print(f"{args.onnx}: made before from the same weights (md5 {metadata['weights_md5']}), kept")
        return 0
    state, note = load_checkpoint(args.checkpoint)
    if note:
        metadata["note"] = str(note)
        say(f"{args.checkpoint}: {note}")
    network = build_network(args.checkpoint, state, args.allow_nonfinite)
    model = export(network, metadata)
    data = model.SerializeToString()
    difference = largest_difference(network, data)
    if difference > TOLERANCE:
        raise Failure(f"{args.onnx}: not written: differs from PyTorch by {difference:.1e} of the largest logit "
                      f"(limit {TOLERANCE:.0e})", 1)
    write(args.onnx, data)
    print(f"{args.onnx}: opset {OPSET}, {len(model.graph.node)} nodes, {network.fc.out_features} classes; "
          f"largest difference from PyTorch {difference:.1e} (limit {TOLERANCE:.0e})")
    return 0


if __name__ == "__main__":
    run(main)

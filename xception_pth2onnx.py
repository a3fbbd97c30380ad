#!/usr/bin/env python3
"""Turn an Xception checkpoint into ONNX, opset 11, and prove that both compute the same.

Usage:    python3 xception_pth2onnx.py CHECKPOINT OUT.onnx
Example:  python3 xception_pth2onnx.py xception-c0a72b38.pth.tar xception.onnx
          xception.onnx: opset 11, 128 nodes, 1000 classes; largest difference from PyTorch 4.5e-07 (limit 1e-04)

CHECKPOINT is a state dict of tensors, plain or under `state_dict`, names with or without
`module.`, the last layer named fc or last_linear. It is read with weights_only=True: a
pickle that wants to run code is refused. The published file, xception-c0a72b38.pth.tar,
must have md5 203a36dce3e49d45e5d742efbad5ba65.

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
from pathlib import Path

from common import Failure, import_openvino, listing, replacing, run, say

PUBLISHED_NAME = "xception-c0a72b38.pth.tar"  # tstandley/Xception-PyTorch, README
PUBLISHED_MD5 = "203a36dce3e49d45e5d742efbad5ba65"
OPSET = 11  # the one that CANN 5.0.1 reads
SIDE = 299  # pixels, the network's input (arXiv 1610.02357)
TOLERANCE = 1e-4  # of the largest logit; float32 engines differ by about 1e-6 here
HERE = Path(__file__).resolve().parent


def provenance(checkpoint: Path) -> dict:
    """What decides the ONNX file's content, as strings: {name: value} for its metadata_props."""
    digest = hashlib.md5(checkpoint.read_bytes()).hexdigest()
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
        model = onnx.load(path)
    except (FileNotFoundError, DecodeError):
        return False
    found = {prop.key: prop.value for prop in model.metadata_props}
    return all(found.get(key) == value for key, value in expected.items())


def load_checkpoint(path: Path) -> tuple:
    """Read a checkpoint without running anything in it.

    Returns ({name: tensor} under the network's names, note or None). Raises Failure,
    naming the file, when it is no checkpoint or wants to run code.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("Please file an issue")[0].splitlines()
        wants = next((line.strip() for line in reason if "GLOBAL" in line or "Unsupported" in line), reason[0])
        raise Failure(f"{path}: refused, not a plain checkpoint: it holds more than tensors ({wants})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
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
        renamed[name] = tensor.float() if tensor.is_floating_point() else tensor
    return renamed, note


def build_network(path: Path, state: dict):
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
    if not_finite:
        raise Failure(f"{path}: NaN or infinite weights in {listing(not_finite)}")
    network.load_state_dict(state, assign=True)
    return network.eval()


def export(network, part: Path, metadata: dict):
    """Write the network to `part` as ONNX; return the checked ModelProto."""
    import onnx
    import torch

    with warnings.catch_warnings():
        # The default exporter starts at opset 18; dynamo=False still writes 11, and warns that it is old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, torch.zeros(1, 3, SIDE, SIDE), str(part), dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=["class"],
            dynamic_axes={"image": {0: "-1"}, "class": {0: "-1"}},
        )
    model = onnx.load(part)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        raise Failure("BatchNorm was not folded into the convolutions: this torch version exports it differently", 4)
    onnx.save(model, part)
    return model


def largest_difference(network, part: Path) -> float:
    """Largest |ONNX - PyTorch| over random batches of 1 and 3, as a share of PyTorch's largest logit."""
    import torch

    compiled = import_openvino().Core().compile_model(str(part), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    worst = 0.0
    for batch in (1, 3):
        images = torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(batch)) * 2 - 1
        with torch.inference_mode():
            expected = network(images)
        actual = torch.from_numpy(compiled(images.numpy())[0])
        difference = ((actual - expected).abs().max() / expected.abs().max()).item()
        worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("onnx", metavar="OUT.onnx", type=Path)
    args = parser.parse_args()

    metadata = provenance(args.checkpoint)
    if is_current(args.onnx, metadata):
        print(f"{args.onnx}: made before from the same weights (md5 {metadata['weights_md5']}), kept")
        return 0
    state, note = load_checkpoint(args.checkpoint)
    if note:
        metadata["note"] = str(note)
        say(f"{args.checkpoint}: {note}")
    network = build_network(args.checkpoint, state)
    with replacing(args.onnx) as part:
        model = export(network, part, metadata)
        difference = largest_difference(network, part)
        if difference > TOLERANCE:
            raise Failure(f"{args.onnx}: not written: differs from PyTorch by {difference:.1e} of the largest logit "
                          f"(limit {TOLERANCE:.0e})", 1)
    print(f"{args.onnx}: opset {OPSET}, {len(model.graph.node)} nodes, {network.fc.out_features} classes; "
          f"largest difference from PyTorch {difference:.1e} (limit {TOLERANCE:.0e})")
    return 0


if __name__ == "__main__":
    run(main)

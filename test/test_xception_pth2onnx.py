"""Checkpoint to ONNX: what is accepted, what is refused, and what the file holds."""
import hashlib
import os
import re
import shutil
import sys
import time

import xception_pth2onnx
from common import checkpoints
from common.cli import Failure
from conftest import SUITE, run

import numpy as np
import onnx
import pytest
import torch

SCRIPT = SUITE / "xception_pth2onnx.py"


def convert(checkpoint, folder, status=0):
    return run(sys.executable, SCRIPT, checkpoint, "out.onnx", cwd=folder, status=status)


def refusal(state, folder) -> str:
    """The one line on stderr when `state`, saved as a checkpoint, is refused; nothing must be written."""
    torch.save(state, folder / "bad.pth")
    result = convert("bad.pth", folder, status=3)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("xception_pth2onnx.py: bad.pth: ")
    assert [path.name for path in folder.iterdir()] == ["bad.pth"]
    return result.stderr


def test_onnx_is_what_atc_of_cann_5_0_1_reads(work):
    model = onnx.load(work / "xception.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 11)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "class")
    assert image.type.tensor_type.elem_type == logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    batch, *rest = image.type.tensor_type.shape.dim
    assert (batch.dim_value, batch.dim_param) == (0, "-1")
    assert [side.dim_value for side in rest] == [3, 299, 299]
    assert logits.type.tensor_type.shape.dim[1].dim_value == 1000
    types = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in types
    assert {"Conv", "Relu", "MaxPool", "Add", "Gemm"} <= types


def test_provenance_is_in_the_file(work):
    props = {prop.key: prop.value for prop in onnx.load(work / "xception.onnx").metadata_props}
    assert props["weights_md5"] == hashlib.md5((work / "reference.pth").read_bytes()).hexdigest()
    assert props["weights_file"] == "reference.pth"
    assert props["torch_version"] == torch.__version__.split("+")[0]
    assert "note" not in props


def test_onnx_runtime_gets_the_upstream_logits(work, reference_images, reference_logits):
    import onnxruntime

    session = onnxruntime.InferenceSession(work / "xception.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["class"], {"image": reference_images})
    assert np.abs(logits - reference_logits).max() <= 1e-5 * np.abs(reference_logits).max()


def test_second_run_keeps_the_file_and_other_weights_replace_it(work, tmp_path, reference_state):
    """Weights of seven classes, and so is the network: the class count comes from the checkpoint."""
    shutil.copy(work / "reference.pth", tmp_path / "reference.pth")
    shutil.copy(work / "xception.onnx", tmp_path / "out.onnx")
    before = (tmp_path / "out.onnx").stat().st_mtime_ns
    assert "up to date" in convert("reference.pth", tmp_path).stdout
    assert (tmp_path / "out.onnx").stat().st_mtime_ns == before
    torch.save(dict(reference_state, **{"fc.weight": torch.randn(7, 2048), "fc.bias": torch.zeros(7)}),
               tmp_path / "reference.pth")
    replaced = convert("reference.pth", tmp_path).stdout
    assert re.fullmatch(r"out.onnx: opset 11, \d+ nodes, 7 classes; largest difference from PyTorch \S+ \(limit .*\)\n",
                        replaced)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "reference.pth"]


def spellings(state: dict) -> dict:
    without_counters = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return {
        "plain": state,
        "under state_dict": {"epoch": 3, "state_dict": state},
        "module. prefix": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        "last_linear": {name.replace("fc.", "last_linear."): tensor for name, tensor in state.items()},
        "before torch 0.4.1, without counters": without_counters,
        "half precision": {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
    }


@pytest.mark.parametrize("spelling", spellings({}))
def test_spellings_of_a_checkpoint(spelling, tmp_path, reference_state):
    torch.save(spellings(reference_state)[spelling], tmp_path / "x.pth")
    state, note = xception_pth2onnx.load_checkpoint(tmp_path / "x.pth")
    network = xception_pth2onnx.build_network(tmp_path / "x.pth", state)
    assert note is None
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == reference_state[name].dtype
        torch.testing.assert_close(tensor, reference_state[name], rtol=1e-3, atol=1e-3)


def test_legacy_file_format(tmp_path, reference_state):
    torch.save(reference_state, tmp_path / "x.pth.tar", _use_new_zipfile_serialization=False)
    state, _ = xception_pth2onnx.load_checkpoint(tmp_path / "x.pth.tar")
    assert all(torch.equal(state[name], tensor) for name, tensor in reference_state.items())


def test_missing_extra_and_misshaped_keys_are_named(tmp_path, reference_state):
    state = dict(reference_state, surplus=torch.ones(1))
    del state["block4.rep.1.conv1.weight"]
    state["bn1.weight"] = torch.ones(31)
    message = refusal(state, tmp_path)
    assert "1 missing (block4.rep.1.conv1.weight)" in message
    assert "1 unknown (surplus)" in message
    assert "bn1.weight is torch.float32 [31], expected torch.float32 [32]" in message


def test_twice_the_same_key(tmp_path, reference_state):
    message = refusal(dict(reference_state, **{"last_linear.bias": reference_state["fc.bias"]}), tmp_path)
    assert "two tensors for one of the network's: fc.bias, last_linear.bias; remove one of the heads" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_weights_are_refused(value, tmp_path, reference_state):
    state = dict(reference_state, **{"bn1.bias": torch.full((32,), value)})
    assert "NaN or infinite weights in bn1.bias" in refusal(state, tmp_path)


@pytest.mark.parametrize(("content", "message"), [
    ({}, "an empty dictionary"),
    ({"fc.weight": torch.ones(3)}, "no state dict of this network: 1 tensors (fc.weight)"),
    ([1, 2], "no state dict, but a list"),
    ({"state_dict": 3}, "no state dict"),
    (torch.ones(2), "no state dict"),
])
def test_other_content(content, message, tmp_path):
    assert message in refusal(content, tmp_path)


class Touch:
    """Unpickled carelessly, it creates a file."""

    def __reduce__(self):
        return os.system, ("touch code_was_run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused(zipped, tmp_path):
    torch.save({"state_dict": Touch()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    result = convert("evil.pth", tmp_path, status=3)
    assert "evil.pth: refused" in result.stderr
    assert "system" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pth"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short", b"\x80\x02}q\x00."])
def test_other_file_is_not_a_checkpoint(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    result = convert("x.pth", tmp_path, status=3)
    assert result.stderr.startswith("xception_pth2onnx.py: x.pth: ")
    assert len(result.stderr.splitlines()) == 1


def test_reading_that_hangs_is_ended(tmp_path, monkeypatch):
    """A deadlock takes no CPU time, which alone the kernel limits."""
    path = tmp_path / "w.pth"
    path.write_bytes(b"PK")
    monkeypatch.setattr(checkpoints, "WALL_FACTOR", 0.1)
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda path: time.sleep(3600))
    with pytest.raises(Failure, match=r"w\.pth: reading it did not finish in 0\.3"):
        checkpoints.rehearse(path)


def test_the_published_name_needs_the_published_md5(tmp_path, reference_state):
    torch.save(reference_state, tmp_path / "xception-c0a72b38.pth.tar")
    result = convert("xception-c0a72b38.pth.tar", tmp_path, status=3)
    assert "203a36dce3e49d45e5d742efbad5ba65" in result.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_missing_file_is_an_environment_error(tmp_path):
    assert "none.pth: No such file or directory" in convert("none.pth", tmp_path, status=4).stderr


@pytest.mark.parametrize("broken", [1.01, float("nan")])
def test_an_onnx_that_differs_from_pytorch_leaves_no_file(broken, work, tmp_path, reference_state, monkeypatch):
    torch.save(reference_state, tmp_path / "x.pth")

    def spoiled(network, _):
        with torch.no_grad():
            network.fc.weight.mul_(broken)
        return onnx.load(work / "xception.onnx")

    monkeypatch.setattr(xception_pth2onnx, "export", spoiled)
    monkeypatch.setattr(sys, "argv", ["xception_pth2onnx.py", str(tmp_path / "x.pth"), str(tmp_path / "out.onnx")])
    with pytest.raises(Failure, match="differs from PyTorch") as failure:
        xception_pth2onnx.main()
    assert failure.value.status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_help_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    assert "Usage:" in run(sys.executable, SCRIPT, "--help", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}).stdout

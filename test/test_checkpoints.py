"""Checkpoints as trainers write them load to the same weights, bit for bit; other files are named, with a cure."""
import argparse
import bz2
import datetime
import pathlib
import sys
import types
import zipfile

import check
import options
import xception_pth2onnx
from common import checkpoints
from common.cli import Failure
from conftest import SUITE, run

import numpy as np
import pytest
import torch
from torch import nn


def load(path, asked=None):
    state, _ = xception_pth2onnx.load_checkpoint(path, asked)
    return xception_pth2onnx.build_network(path, state).state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def head(state, name, change=lambda weight: weight):
    """`state` with its last layer under another name, the weight changed."""
    rest = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return {**rest, f"{name}.weight": change(state["fc.weight"]), f"{name}.bias": state["fc.bias"]}


def matrices(state):
    return {key: value.squeeze() if "pointwise" in key or "skip.w" in key else value for key, value in state.items()}


FORMS = {
    "cadene_b5690688": matrices,
    "depthwise kernels without their side of 1": lambda s: {
        key: value.squeeze(1) if key.endswith(".conv1.weight") else value for key, value in s.items()},
    "batch norm as [1, C, 1, 1]": lambda s: {
        key: value.reshape(1, -1, 1, 1) if ".running" in key or "bn1" in key and value.dim() else value
        for key, value in s.items()},
    "timm_args": lambda s: {"arch": "x", "state_dict": s, "args": argparse.Namespace(lr=0.1, data="/d"), "version": 2},
    "numpy_scalar": lambda s: {"state_dict": s, "best_acc": np.float64(0.7), "best_epoch": np.int64(3)},
    "numpy array, path, date, namespace": lambda s: {
        "net": s, "confusion": np.eye(3), "dir": pathlib.Path("/a"), "at": datetime.datetime(2026, 1, 2),
        "cfg": types.SimpleNamespace(a=[argparse.Namespace(b=np.float32(1))]), "took": datetime.timedelta(1)},
    "compile": lambda s: {"state_dict": prefixed("_orig_mod.", s)},
    "compile and DataParallel": lambda s: prefixed("module._orig_mod.module.", s),
    "FSDP within": lambda s: {key.replace("block4.", "block4._fsdp_wrapped_module."): v for key, v in s.items()},
    "lightning": lambda s: {"state_dict": prefixed("model.", s), "hyper_parameters": {"lr": 0.1}, "loops": {}},
    "a wrapper's own name": lambda s: {"weights": prefixed("encoder.backbone.", s)},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}},
    "two levels": lambda s: {"checkpoint": {"net": s, "epoch": 1}},
    "parameters": lambda s: {key: nn.Parameter(v) if v.is_floating_point() else v for key, v in s.items()},
    "averaged by torch": lambda s: {"n_averaged": torch.tensor(7), **prefixed("module.", s)},
    "last_linear": lambda s: head(s, "last_linear"), "classifier": lambda s: head(s, "classifier"),
    "head in Sequential": lambda s: head(s, "fc.1"), "head of timm": lambda s: head(s, "head.fc"),
    "mmpretrain": lambda s: {"meta": {}, "state_dict": {
        f"head.{key}" if key.startswith("fc.") else f"backbone.{key}": value for key, value in s.items()}},
    "head as a 1x1 convolution": lambda s: head(s, "last_linear", lambda weight: weight[:, :, None, None]),
    "double": lambda s: {key: value.double() if value.is_floating_point() else value for key, value in s.items()},
}


# Only these have other shapes or types than the network's tensors
SHAPED = ("cadene_b5690688", "depthwise kernels without their side of 1", "batch norm as [1, C, 1, 1]",
          "head as a 1x1 convolution", "double")


@pytest.fixture
def few_values(reference_state):
    """The reference's names with two values each: enough where names alone count."""
    return {key: value.flatten()[:2].clone() if value.dim() else value for key, value in reference_state.items()}


def taken(path, asked=None):
    return xception_pth2onnx.load_checkpoint(path, asked)[0]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_the_same_bits(form, tmp_path, reference_state, few_values):
    state, read = (reference_state, load) if form in SHAPED else (few_values, taken)
    torch.save(FORMS[form](state), tmp_path / "x.pth", _use_new_zipfile_serialization="timm" not in form)
    assert_same(read(tmp_path / "x.pth"), state)


def test_what_is_allowed_by_torch_2_5_has_no_names(tmp_path):
    torch.save({"a": argparse.Namespace(b=np.float64(1))}, tmp_path / "x.pth")
    allowed = checkpoints.harmless(False)
    assert not [one for one in allowed if isinstance(one, tuple)]
    with torch.serialization.safe_globals(allowed):
        assert torch.load(tmp_path / "x.pth", weights_only=True)["a"].b == 1


def test_safetensors(tmp_path, reference_state):
    from safetensors.torch import save_file

    save_file(prefixed("model.", reference_state), tmp_path / "x.safetensors", {"format": "pt"})
    assert_same(load(tmp_path / "x.safetensors"), reference_state)
    with open(tmp_path / "x.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(Failure, match="x.safetensors: not a PyTorch checkpoint, or damaged"):
        load(tmp_path / "x.safetensors")


def raised(state):
    return {key: value + 1e-3 if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize(("make", "chosen", "other"), [
    (lambda s: {"state_dict": raised(s), "state_dict_ema": s}, "state_dict_ema", "state_dict"),
    (lambda s: {"model": raised(s), "optimizer": {}, "model_ema": prefixed("module.", s)}, "model_ema", "model"),
    (lambda s: {**prefixed("online_model.", raised(s)), **prefixed("ema_model.", s), "initted": torch.tensor(True)},
     "ema_model", "online_model"),
    (lambda s: {"best": raised(s), "state_dict": s}, "state_dict", "best"),
])
def test_of_several_state_dicts_the_averaged_one_is_taken_aloud(make, chosen, other, tmp_path, few_values, capfd):
    torch.save(make(few_values), tmp_path / "x.pth")
    assert_same(taken(tmp_path / "x.pth"), few_values)
    said = capfd.readouterr().err
    found = ", ".join(sorted([repr(chosen), repr(other)], key=said.find))
    assert f"x.pth: 2 state dicts ({found}); {chosen!r} is taken" in said
    assert ("the averaged weights" in said) == ("ema" in chosen)
    assert_same(taken(tmp_path / "x.pth", other), raised(few_values))
    with pytest.raises(Failure, match=f"no state dict 'x' of this network; there is .*{other}"):
        load(tmp_path / "x.pth", "x")


def test_the_exporter_and_the_reference_take_the_same_state_dict(tmp_path, reference_state):
    """And another one than before makes the ONNX again."""
    torch.save({"student": reference_state, "teacher": raised(reference_state)}, tmp_path / "x.pth")
    script = SUITE / "xception_pth2onnx.py"
    assert "2 state dicts ('student', 'teacher'); pass one of them with --state_dict" in run(
        sys.executable, script, "x.pth", "x.onnx", cwd=tmp_path, status=3).stderr
    assert "1000 classes" in run(sys.executable, script, "x.pth", "x.onnx", "--state_dict=student", cwd=tmp_path).stdout
    assert "up to date" in run(sys.executable, script, "x.pth", "x.onnx", "--state_dict=student", cwd=tmp_path).stdout
    for asked in ("teacher", None):
        made_from = xception_pth2onnx.provenance(tmp_path / "x.pth", asked)
        assert not xception_pth2onnx.is_current(tmp_path / "x.onnx", made_from)


def without(state, *words):
    return {key: value for key, value in state.items() if not any(word in key for word in words)}


@pytest.mark.parametrize(("make", "message"), [
    (lambda s: list(s.items()), "a list of 276 pairs (conv1.weight, bn1.weight, bn1.bias and 273 more); save it as a "
                                "dictionary"),
    (lambda s: without(s, "fc.bias"), "has a weight, but no bias; add one of zeros"),
    (lambda s: without(s, "fc."), "its last layer (fc, last_linear, classifier or head) has no weight of shape"),
    (lambda s: {**s, "last_linear.weight": s["fc.weight"]}, "two tensors for one of the network's: fc.weight, last_"),
    (lambda s: {**s, "fc.weight": torch.ones(1, 2048), "fc.bias": torch.ones(1)}, "its last layer has 1 values; top"),
    (lambda s: without(s, "running_"), "save state_dict(), which parameters() lack these of"),
    (lambda s: {"layer1.0.conv1.weight": torch.ones(3), "fc.weight": torch.ones(2), "epoch": 1},
     "no state dict of this network: 2 tensors (layer1.0.conv1.weight, fc.weight)"),
    (lambda s: {**prefixed("net.", s), "criterion.weight": torch.ones(3)}, "1 unknown (criterion.weight)"),
])
def test_what_cannot_be_loaded_is_named_by_its_keys(make, message, tmp_path, reference_state):
    torch.save(make(reference_state), tmp_path / "x.pth")
    with pytest.raises(Failure) as failure:
        load(tmp_path / "x.pth")
    assert message in str(failure.value)


def zipped(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"content")
    return write


def cut(path):
    torch.save({"a": torch.ones(10_000), "b": torch.ones(5, dtype=torch.int64)}, path)
    path.write_bytes(path.read_bytes()[:20_000])


FOREIGN = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git-lfs pointer.*: git lfs pull"),
    "annex": (b"/annex/objects/MD5E-s1--ab.pth\n", "a git-annex pointer.*; run: git annex get"),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE HTML><html>Virus scan warning", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML, perhaps a server's error message"),
    "json": (b'{"message": "Not Found"}', "JSON, perhaps a server's error message"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "compressed by gzip; unpack it first"),
    "bzip2": (bz2.compress(b"x" * 50), "compressed by bzip2; unpack it first"), "7z": (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "zstd; unpack"), "empty": (b"", "empty; download"),
    "zeros": (bytes(5000), "only zeros"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5, as Keras writes weights"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(99), "a NumPy array"), "text": (b"hello", "text .'hello'"),
    "zip of a checkpoint": (zipped("model.pth"), "a zip archive of model.pth; unpack it first"),
    "npz": (zipped("fc.npy", "conv1.npy"), "a zip archive of fc.npy, conv1.npy"),
    "cut": (cut, "cut short: 20,000 bytes, of which its tensors alone have 40,040; download or copy it ag"),
    "damaged zip": (b"PK\x03\x04" + bytes(50), "a zip that was cut short or damaged, of 54 bytes; download or copy it"),
    "protocol 4": (lambda path: torch.save({"a": torch.ones(1)}, path, pickle_protocol=4), "protocol 4; where it"),
    "protocol 5, old format": (lambda path: torch.save({"a": torch.ones(1)}, path, pickle_protocol=5,
                                                       _use_new_zipfile_serialization=False), "pickle protocol 5"),
    "script": (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path), "TorchScript, a compiled mo"),
    "whole": (lambda path: torch.save(nn.Sequential(nn.Linear(2, 2)), path), "a whole model .torch.nn.modules.cont"),
    "whole, old format": (lambda path: torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=False),
                          "a whole model .torch.nn.modules.linear.Linear"),
    "mindspore": (b"\n&\n\x0cconv1.weight\x12\x16" + bytes(9), "starts with the bytes 0a260a0c.; weights of MindSpore"),
    "onnx": (b"\x08\x06\x12\x07pytorch" + bytes(99), "if it is an ONNX file, give it a name that ends in .onnx"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_file_is_named_with_its_cure_by_exporter_and_check(kind, tmp_path):
    content, message = FOREIGN[kind]
    path = tmp_path / "x.pth"
    content(path) if callable(content) else path.write_bytes(content)
    done = run(sys.executable, SUITE / "xception_pth2onnx.py", "x.pth", "x.onnx", cwd=tmp_path, status=3)
    assert len(done.stderr.splitlines()) == 1 and "weights_only" not in done.stderr
    args = options.parse([f"--weights={path}", "--datasets_path=/", f"--workdir={tmp_path}"])
    with pytest.raises(Failure, match=message):
        check.check_weights(args)
    with pytest.raises(Failure, match=message):
        load(path)
    if isinstance(content, bytes) and kind not in ("onnx", "mindspore"):
        args.weights = str(path.rename(tmp_path / "x.onnx"))
        with pytest.raises(Failure, match=f"not an ONNX file, but .*{message}"):
            check.check_weights(args)


def test_torchscript_s_and_pairs_cures_work(tmp_path, reference_state):
    torch.save(list(reference_state.items()), tmp_path / "pairs.pth")
    torch.save(dict(torch.load(tmp_path / "pairs.pth")), tmp_path / "weights.pth")
    assert_same(load(tmp_path / "weights.pth"), reference_state)
    network = xception_pth2onnx.build_network("x", dict(reference_state))
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 299, 299)), tmp_path / "script.pt")
    torch.save(torch.jit.load(tmp_path / "script.pt").state_dict(), tmp_path / "weights.pth")
    assert_same(load(tmp_path / "weights.pth"), reference_state)

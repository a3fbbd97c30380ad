#!/usr/bin/env python3
"""Feed untrusted input (labels, info files, dumps, configs, oms, flags) to its readers until something breaks.

Usage:    .venv/bin/pip install atheris          (once; CPython on Linux)
          .venv/bin/python test/fuzz.py TARGET [libFuzzer option...]
Example:  .venv/bin/python test/fuzz.py om -max_total_time=300
          (libFuzzer's lines; stops with a stack trace and a file crash-... at the first input that is not handled)

A reader may return, or refuse with its own error class, which a script prints in one line. Anything else is a finding:
fix it, and keep the input in FINDINGS below. test_fuzz.py does the same in CI with hypothesis, for some seconds.
Without TARGET: print the targets' names.
"""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

SUITE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(SUITE), str(SUITE / "tools")]


def load(name: str):
    """A program of host/ as a module; its file has no suffix."""
    loader = importlib.machinery.SourceFileLoader(f"host_{name}", str(SUITE / "host" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


import chips  # noqa: E402
import gen_dataset_info  # noqa: E402
import imagenet_acc_eval  # noqa: E402
import img_preprocess  # noqa: E402
import infer  # noqa: E402
import labels as label_forms  # noqa: E402
import summary  # noqa: E402
from class_maps import read_map  # noqa: E402
from common import checkpoints, filetypes, onnx_file  # noqa: E402
from common.cli import Failure  # noqa: E402
from host import aipp, contract, om  # noqa: E402

atc, benchmark = load("atc"), load("benchmark")
TEMPORARY = tempfile.TemporaryDirectory(prefix="fuzz", dir="/dev/shm")  # in memory: a file for each input
FOLDER = Path(TEMPORARY.name)


def put(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """Decode bytes as Python decodes a command line."""
    return data.decode(errors="surrogateescape")


# ---- the readers; each gets bytes, and raises only what handles() suppresses

def labels(data):
    found = imagenet_acc_eval.read_labels(put("val_label.txt", data))
    assert found
    assert all(isinstance(value, int) and 0 <= value < 10**9 for value in found.values())


def other_labels(data):
    found, _ = label_forms.labels_of(put("labels", data), classes=1000)
    assert found
    assert all(isinstance(value, int) and 0 <= value < 1000 for value in found.values())


def class_map(data):
    ids, kit = read_map(put("map", data))
    assert ids
    assert {*kit.values()} <= {*ids.values()} <= {*range(len(ids))}


def onnx(data):
    path = put("x.onnx", data)
    filetypes.look(path)
    network = onnx_file.check_network(path)
    assert onnx_file.classes_of(network) is None or onnx_file.classes_of(network) >= 0


def checkpoint(data):
    """What is looked at before torch reads it."""
    path = put("x.pth", data)
    checkpoints.claimed(path)
    checkpoints.check_pickle(path)


def info(data):
    path = put("x.info", data)
    for read in (infer.read_info, benchmark.read_info):
        with contextlib.suppress(Failure):
            assert read(path)


def dump_text(data):
    infer.complete_dumps(put("dumps_a_1.txt", data).parent, "txt")
    values = imagenet_acc_eval.read_dump(str(FOLDER / "dumps_a_1.txt"))
    assert values.ndim == 1
    assert np.isfinite(values).all()


def dump_binary(data):
    infer.complete_dumps(put("a_1.bin", data).parent, "bin")
    values = imagenet_acc_eval.read_dump(str(FOLDER / "a_1.bin"))
    assert values.dtype == np.dtype("<f4")
    assert np.isfinite(values).all()


def aipp_config(data):
    settings = aipp.load(str(put("aipp.cfg", data)))
    assert set(settings) >= set(aipp.SETTINGS)
    aipp.source_size(settings, [1, 3, 299, 299])
    aipp.check_support(settings)


def om_file(data):
    path = put("x.om", data)
    om.describe(path)
    if not data.startswith(om.ASCEND_MAGIC):
        header, payload = om.load(path)
        assert len(payload) == header["payload_bytes"]


def om_header(data):
    """Any header, in a file that is otherwise valid."""
    om_file(om.PREFIX.pack(om.MAGIC, len(data)) + data)


def input_shape(data):
    for name, shape in contract.parse_input_shape(text_of(data)).items():
        assert name
        assert all(0 < side < 2**63 for side in shape)


def manifest(data):
    put("manifest.json", data)
    gen_dataset_info.check_manifest(str(FOLDER), 45)
    img_preprocess.read_manifest(FOLDER)
    summary.describe_data_set([FOLDER])


def record(data):
    path = put("record.json", data)
    records = summary.merge([summary.read_record(path)], [path])
    with contextlib.redirect_stdout(io.StringIO()):
        summary.print_table(summary.rows(records, {}, "Ascend310"), records, False)
        summary.device_line(records, "Ascend310")


def result(data):
    text = imagenet_acc_eval.result_text([1, 1, 1, 1, 1], 1, 1000)
    path = put("result.json", data)
    with contextlib.suppress(Failure):
        summary.figures(path)
    assert imagenet_acc_eval.largest_difference(text, path) >= 0


def npu_smi(data):
    with contextlib.suppress(IndexError, ValueError):  # chips.find reports it as one failure
        for chip in chips.parse(text_of(data)):
            assert chip["device"] >= 0


AIPP = b'aipp_op{aipp_mode:static,input_format:"RGB888_U8"}'
HEADER = (b'{"batch_size": 1, "inputs": [{"name": "image", "shape": [1, 3, 8, 8]}], "outputs": [{"name": "class", '
          b'"shape": [1, 6]}], "precision": "f32", "onnx_sha256": "", "onnx_metadata": {}, "openvino": "1", '
          b'"payload_bytes": 0, "payload_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}')
RECORD = (b'{"complete": true, "batch_size": 1, "engine": "host", "device": "CPU", "images": 45, "e2e": 6.7, '
          b'"made_from": {"om": ""}, "rates": {"0": {"interface": 7.7, "images": 45}}}')
NPU_SMI = (b"| NPU     Name     | Health  | Power(W) |\n| 0       310      | OK      | 12.8     |\n"
           b"| 0       0        | 0000:05:00.0 | 0   622 / 8192 |\n| Process id |\n")
def small_onnx() -> bytes:
    from onnx import TensorProto, helper

    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
                     for name, sides in (("image", ["N", 3, 299, 299]), ("class", ["N", 6])))
    graph = helper.make_graph([helper.make_node("X", ["image"], ["class"])], "g", [image], [logits])
    made = helper.make_model(graph)
    helper.set_model_props(made, {"weights_md5": "0"})
    return made.SerializeToString()


def small_checkpoint() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    return file.getvalue()


SEEDS = {  # target: (reader, inputs; it accepts the first)
    "labels": (labels, [b"a.JPEG 65\nb.JPEG 970\n", b"\xff.JPEG 1\r\n\n"]),
    "other_labels": (other_labels, [b"image;class\n\"a.JPEG\";65,0\nb.JPEG;9.70E+02\n", b'{"a.JPEG": 3}',
                                    b"a.JPEG\t3\n", "a.JPEG 3\n".encode("utf-16")]),
    "class_map": (class_map, [b"0 cat\n1 dog\n", b'""\n0 cat\n', b"n01440764 tench\nn01443537 goldfish\n",
                              b'{"cat": 0}',
                              b"n01440764 1 x\nn01443537 2\n", b'{"0": ["n01440764", "tench"]}', b"cat\ndog\n"]),
    "onnx": (onnx, [small_onnx()]), "checkpoint": (checkpoint, [small_checkpoint(), b"\x80\x02}q\x00."]),
    "info": (info, [b"0 ./prep_dataset/a.bin 299 299\n1 ./prep_dataset/b.bin 299 299\n"]),
    "dump_text": (dump_text, [b"0.500000 -1.250000 1e-07 3 \n", b"nan \n"]),
    "dump_binary": (dump_binary, [np.arange(4, dtype="<f4").tobytes(), np.array([np.nan], "<f4").tobytes()]),
    "aipp": (aipp_config, [(SUITE / "tools/xception_aipp.cfg").read_bytes(), AIPP]),
    "om": (om_file, [om.PREFIX.pack(om.MAGIC, len(HEADER)) + HEADER,
                     om.ASCEND_HEADER.pack(om.ASCEND_MAGIC, 256, 44) + bytes(220)]),
    "om_header": (om_header, [HEADER]),
    "input_shape": (input_shape, [b"image:1,3,299,299", b"a:1;b:c:2,2", b"x:-1"]),
    "manifest": (manifest, [b'{"source": "/val", "recipe": {"dtype": "float32"}, "complete": true, "count": 45, '
                              b'"listing_sha256": ""}']),
    "record": (record, [RECORD]),
    "result": (result, [imagenet_acc_eval.result_text([1, 1, 1, 1, 1], 1, 1000).encode()]),
    "npu_smi": (npu_smi, [NPU_SMI]),
}
FINDINGS = [  # (target, input): not handled when found; tried in every run. test_hostile.py has more of info files
    ("record", RECORD.replace(b"interface", b"x")),
    ("record", RECORD.replace(b'"e2e": ', b'"e2e": [], "was": ')),
    ("input_shape", b"image:" + b"9" * 5000),
    ("om_header", b"[" * 100_000),
    ("npu_smi", NPU_SMI.replace(b"| 0       0 ", b"| 0       -1 ")),
]


def handles(target: str, data: bytes):
    """Give `data` to a target's reader; raise whatever is not an expected refusal."""
    with contextlib.suppress(Failure, atc.AtcError, aipp.AippError):
        SEEDS[target][0](data)


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in SEEDS:
        print("\n".join(SEEDS))
        return
    child = os.fork()  # libFuzzer ends its process without Python's clean-up: the parent removes the folder
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    import atheris

    target = sys.argv.pop(1)
    for module in (aipp, chips, gen_dataset_info, imagenet_acc_eval, infer, om, summary, atc, benchmark):
        for name, value in list(vars(module).items()):
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__code__"):
                setattr(module, name, atheris.instrument_func(value))
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[target][1]):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], lambda data: handles(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

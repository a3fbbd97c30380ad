"""Hostile files: checkpoints, ONNX files, oms, info files, labels and dumps that are built to do harm.

CASES holds one file for each check that such a file can reach. The program that reads it runs as a user starts it, and
must refuse: one line that names the file, the documented status, no code run (it would create TRACE), nothing written
outside the work folder, no endless wait, and at most 300 MB more memory than for a harmless refused file.
"""
import hashlib
import io
import json
import os
import re
import shlex
import struct
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from common.cli import Failure
from conftest import CLASSES, SIDE, SUITE, run, small_model
from host import om
from test_run_all_cann import make_data_set, make_onnx, make_suite, run_all

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ATC = SUITE / "host/atc"
BENCHMARK = SUITE / f"host/benchmark.{os.uname().machine}"
CONVERT = SUITE / "xception_pth2onnx.py"
INFER = SUITE / "tools/infer.py"
MEMORY = 300  # MB more than the harmless file takes
ALARM = 60  # seconds after which a program is killed
SECRET = 1234.5  # in a file that no model may read

# Importing torch and OpenVINO takes seconds: one process does it, and each case runs in a fork of it, from the script's
# first line to its last. RLIMIT_DATA keeps a script that asks for all memory from taking this machine's.
SERVER = """
import importlib, json, os, resource, runpy, signal, sys
suite, jobs, logs, room, alarm = json.loads(sys.argv[1])
sys.path[:0] = [suite, suite + "/tools"]
sys.modules["openvino_telemetry"] = None
for module in ("torch", "onnx", "openvino", "host.om", "tqdm", "xception_pth2onnx"):
    importlib.import_module(module)
used = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
for number, (folder, program, *words) in enumerate(jobs):
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(os.open(f"{logs}/{number}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
        resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
        signal.alarm(alarm)
        sys.argv = [program, *words]
        sys.path.insert(0, os.path.dirname(os.path.realpath(program)))
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)  # without the seconds that torch takes to end
    status, usage = os.wait4(child, 0)[1:]
    print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss >> 10]), flush=True)
"""


class Case(NamedTuple):
    """A command, the files in its folder ({name: bytes, or a function of the path}), and how the command ends."""

    words: tuple
    files: dict
    start: str  # of the error line
    text: str = ""  # in it
    status: int = 3


CASES = {}


# ---- checkpoints, written as the bytes of their pickles: no pickler would write them

def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def call(function: str, *arguments: bytes) -> bytes:
    """`function` is "module name"."""
    return b"c" + function.replace(" ", "\n").encode() + b"\n" + several(*arguments) + b"R"


def several(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def mapping(*pairs) -> bytes:
    return b"}" + b"".join(key + value + b"s" for key, value in pairs)


def tensor(values, shape, strides) -> bytes:
    """A float tensor over storage "0", which is said to have that many values."""
    storage = several(text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), number(values))
    return call("torch._utils _rebuild_tensor_v2", storage + b"Q", number(0), several(*map(number, shape)),
                several(*map(number, strides)), b"\x89", call("collections OrderedDict"))


def archive(content: bytes, values=b"", compression=zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes around a pickle; `values` is storage "0", or the number of MB of zeros in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archived:
        archived.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        archived.writestr("archive/version", "3\n")
        with archived.open("archive/data/0", "w") as entry:
            for block in [values] if isinstance(values, bytes) else [bytes(1 << 20)] * values:
                entry.write(block)
    return file.getvalue()


def bomb(megabytes) -> bytes:
    """A small archive whose storage grows to as many megabytes."""
    return archive(mapping((text("fc.weight"), tensor(megabytes << 18, (megabytes << 7, 2048), (2048, 1)))), megabytes,
                   zipfile.ZIP_DEFLATED)


def with_a_false_size() -> bytes:
    """An archive whose directory claims 4 GB for each of its entries."""
    return re.sub(b"(PK\x01\x02.{20}).{4}", b"\\1\xf0\xff\xff\xff", archive(b"}", bytes(100)), flags=re.DOTALL)


def laughs(levels: int) -> bytes:
    """Ten times ten times ... the same text, each time by its number in the memo."""
    if levels == 0:
        return text("ha" * 25)
    return several(laughs(levels - 1) + b"q" + bytes([levels]), *[b"h" + bytes([levels])] * 9)


def torch_saves(content) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def weight(change) -> bytes:
    """A checkpoint whose fc.weight has the right shape, but for what `change` makes of it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse and quantized tensors are in beta
        return torch_saves({**dict.fromkeys(NAMES, zeros(1)), "fc.weight": change(torch, torch.ones(10, 2048))})


def zeros(*shape, dtype="float32"):
    import torch

    return torch.zeros(*shape, dtype=getattr(torch, dtype))


NAME = text("fc.weight")
NAMES = re.findall(r"^\S+\.\w+", (SUITE / "test/xception_state_dict.tsv").read_text(), re.MULTILINE)
EXCESS = "takes more memory or time than"
NO_STATE = "no state dict"
CHECKPOINTS = {  # name: (function that returns the file's content, text of the message)
    # code; test_xception_pth2onnx.py has the pickle that calls os.system
    "INST opcode": (lambda: archive(b"(" + text("touch TRACE") + b"iposix\nsystem\n"), "Unsupported operand"),
    "pickle inside a tensor's storage": (lambda: archive(call("torch.storage _load_from_bytes", text("x"))),
                                         "_load_from_bytes"),
    # claims
    "false size": (with_a_false_size, "not a PyTorch checkpoint, or damaged"),
    "zip bomb": (lambda: bomb(512), EXCESS),
    "zip bomb, small": (lambda: bomb(64), "its tensors claim"),
    "a trillion values of one in the file": (lambda: torch_saves({"fc.weight": zeros(1).expand(10**6, 10**6)}),
                                             "which are not in the file"),
    "100 GB of bytes": (lambda: archive(call("__builtin__ bytearray", number(10**11))), EXCESS),
    "hash that never ends": (lambda: archive(mapping((laughs(20), b"N"))), EXCESS),
    "300 names of one tensor, 4 MB each as float32": (lambda: torch_saves(dict.fromkeys(
        NAMES, zeros(1 << 10, 1 << 10, dtype="float16"))), "keys do not fit"),
    # other kinds of tensors and names
    "meta tensor": (lambda: weight(lambda torch, ones: ones.to("meta")), "not in the file"),
    "sparse tensor": (lambda: weight(lambda torch, ones: ones.to_sparse()), "not in the file"),
    "quantized tensor": (lambda: weight(lambda torch, ones: torch.quantize_per_tensor(ones, 1.0, 0, torch.qint8)),
                         "keys do not fit"),
    "no classes": (lambda: weight(lambda torch, ones: ones[:0]), "its last layer has 0 values"),
    "50,000 dimensions": (lambda: archive(mapping(
        *((text(name), tensor(4096, (1,), (1,))) for name in NAMES), (NAME, tensor(4096, (2, 2048), (2048, 1))),
        (text("block1.rep.0.conv1.weight"), tensor(4096, (1,) * 50_000, (1,) * 50_000))), bytes(16384)),
        "[1, 1, 1, 1, 1, 1, 1, 1], expected"),
    "name of 10 MB": (lambda: archive(mapping((text("n" * 10_000_000), tensor(1, (1,), (1,)))), bytes(4)), NO_STATE),
    "name that is a number": (lambda: torch_saves({5: zeros(1)}), NO_STATE),
    "name with control characters": (lambda: torch_saves({**dict.fromkeys(NAMES, zeros(2, 2048)), "\x1b[2J": zeros(1)}),
                                     "1 unknown (\\x1b[2J)"),
    "detach replaced on a tensor": (lambda: weight(lambda torch, ones: setattr(ones, "detach", "text") or ones),
                                    "keys do not fit"),
    "items replaced on the state dict": (lambda: archive(
        call("collections OrderedDict") + mapping((text("items"), text("x")), (text("keys"), text("x"))) + b"b"),
        "an empty dictionary"),
}


def writer(make):
    """A function of a path that writes what `make` returns, a hostile file's content."""
    return lambda path: path.write_bytes(make())


CASES.update({f"checkpoint: {name}": Case((CONVERT, "x.pth", "x.onnx"), {"x.pth": writer(make)}, "x.pth: ", message)
              for name, (make, message) in CHECKPOINTS.items()})


# ---- ONNX

FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
ATC_FLAGS = ("--framework=5", "--model=m.onnx", "--output=m", "--soc_version=Ascend310",
             f"--input_shape=image:1,3,{SIDE},{SIDE}")


def elsewhere(location, **more) -> TensorProto:
    """A float tensor whose values are in another file, None: in one that is not named."""
    values = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=(3, CLASSES),
                         data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        if value is not None:
            values.external_data.add(key=key, value=value)
    return values


def edited(change, opset=11):
    """The small model after `change` of it."""
    model = small_model(opset=opset)
    change(model)
    return model


def as_initializer(weight):
    return edited(lambda model: model.graph.initializer[0].CopyFrom(weight))


def as_constant(weight):
    model = edited(lambda model: model.graph.ClearField("initializer"))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    return model


def in_branches(weight, depth=1):
    """In both branches of an If, in an If, ..."""
    model = as_initializer(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    node = helper.make_node("Constant", [], ["w"], value=weight)
    for _ in range(depth):
        outer = onnx.NodeProto(op_type="If", input=["yes"], output=["w"])
        for branch in ("then_branch", "else_branch"):
            graph = onnx.GraphProto(name=branch, node=[node if branch == "then_branch" else helper.make_node(
                "Constant", [], ["w"], value=weight)])
            graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, CLASSES]))
            outer.attribute.append(onnx.AttributeProto(name=branch, type=onnx.AttributeProto.GRAPH, g=graph))
        node = outer
    node.output[0] = "weight"
    model.graph.node.insert(0, node)
    return model


def in_function(weight):
    """In a function that the model defines."""
    model = as_constant(numpy_helper.from_array(np.ones((3, CLASSES), "f4"), "weight"))
    node = helper.make_node("Constant", [], ["w"], value=weight)
    model.functions.append(helper.make_function("own", "give", [], ["w"], [node], [helper.make_opsetid("", 11)]))
    return model


def as_sparse(weight, in_branch=False):
    """As the values of a sparse tensor: an attribute, or all that a graph in an attribute has."""
    weight.dims[:] = [3 * CLASSES]
    sparse = onnx.SparseTensorProto(values=weight, dims=[3, CLASSES], indices=numpy_helper.from_array(
        np.arange(3 * CLASSES)))
    node = helper.make_node("Constant", [], ["weight"], sparse_value=sparse)
    if in_branch:
        graph = onnx.GraphProto(name="inner", sparse_initializer=[sparse])
        node = onnx.NodeProto(attribute=[onnx.AttributeProto(name="x", type=onnx.AttributeProto.GRAPH, g=graph)])
    return edited(lambda model: model.graph.node.insert(0, node))


def made_of_constants(shape):
    """The small model plus the mean of a tensor of ones of this shape."""
    model = small_model()
    model.graph.node[-1].output[0] = "product"
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, "i8"), "shape"))
    model.graph.node.extend([helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
                             helper.make_node("ReduceMean", ["ones"], ["mean"], keepdims=0),
                             helper.make_node("Add", ["product", "mean"], ["class"])])
    return model


def place_traps(folder: Path):
    """What a hostile ONNX file may come along with: files and links in its folder, some of which lead out of it."""
    (folder / "*/_ORT_MEM_ADDR_").mkdir(parents=True)
    for name in ("good.bin", "*/_ORT_MEM_ADDR_/*"):
        np.ones(3 * CLASSES, "<f4").tofile(folder / name)
    np.full(3 * CLASSES, SECRET, "<f4").tofile(folder.parent / "secret.bin")
    (folder / "link.bin").symlink_to("../secret.bin")
    os.mkfifo(folder / "pipe.bin")


PLACES = {"initializer": as_initializer, "constant": as_constant, "branches": in_branches, "function": in_function,
          "sparse constant": as_sparse, "sparse in a branch": lambda weight: as_sparse(weight, in_branch=True)}
LOCATIONS = [("initializer", location) for location in (
    "/etc/passwd", "../secret.bin", "link.bin", "pipe.bin", None, "../secret.bin\0", "*/_ORT_MEM_ADDR_/*",
    "\x1b" * 100_000)] + [(place, "../secret.bin") for place in list(PLACES)[1:]]
MODELS = {  # name: (function that returns the model, start of the error line, text in it)
    **{f"weights from {str(location)[:20]!a}, {place}": (
        lambda place=place, location=location: PLACES[place](elsewhere(location)),
        "E19005", "its weights are in [") for place, location in LOCATIONS},
    "28 nested branches": (lambda: in_branches(numpy_helper.from_array(np.ones((3, CLASSES), "f4")), 28),
                           "E19005", "more than 8 nested graphs"),
    "no nodes": (lambda: edited(lambda model: model.graph.ClearField("node"), 25), "E19005", "empty"),
    "no input but weights": (lambda: edited(lambda model: setattr(model.graph.input[0], "name", "weight")),
                             "E19005", "it has no input, or one without a batch"),
    "scalar input": (lambda: edited(lambda model: model.graph.input[0].type.tensor_type.shape.ClearField("dim")),
                     "E19005", "it has no input, or one without a batch"),
    "control characters in an operator": (
        lambda: edited(lambda model: setattr(model.graph.node[0], "op_type", "a\n\x1b[2J" + "x" * 2000), 25),
        "E19010", "\\x1b[2J"),
    "a trillion values, no data": (lambda: as_initializer(TensorProto(name="weight", data_type=1, dims=[10**6, 10**6])),
                                   "E19999", "m.onnx"),
    "100 GB of a small file": (lambda: as_initializer(elsewhere("good.bin", offset="0", length="100000000000")),
                               "E19999", "m.onnx"),
    "2 GB of constants": (lambda: made_of_constants([30_000_000, 3, 6]), "E19999", "bytes of constants"),
    "2 MB of metadata, which the om's header would repeat": (lambda: edited(
        lambda model: model.metadata_props.add(key="license", value="x" * 2_000_000)), "E19999", "m.om: not written"),
}
STATIC = "no input but weights", "scalar input"  # --input_shape would be refused first


def model_writer(make):
    """A function of a path that writes a hostile model, and the traps around it."""
    return lambda path: (place_traps(path.parent), onnx.save(make(), path))


CASES.update({f"onnx: {name}": Case((ATC, *ATC_FLAGS[:4 if name in STATIC else 5]), {"m.onnx": model_writer(make)},
                                    start, message, 255) for name, (make, start, message) in MODELS.items()})
CASES["onnx: huge --input_shape"] = Case(
    (ATC, *ATC_FLAGS[:4], "--input_shape=image:1,3,1000000000,1000000000"), {"m.onnx": model_writer(small_model)}, "E1",
    "", 255)


# ---- oms, infos, labels, dumps

HEADERS = {  # name of a header's fault: what it changes
    "missing field": lambda header: header.pop("openvino"),
    "bool for a number": lambda header: header.update(batch_size=True),
    "number for a text": lambda header: header.update(onnx_sha256=5),
    "metadata that is not text": lambda header: header.update(onnx_metadata={"note": [[]]}),
    "control characters": lambda header: header.update(openvino="\x1b[2J\n"),
    "long version": lambda header: header.update(openvino="9" * 101),
    "no input": lambda header: header.update(inputs=[]),
    "input without a name": lambda header: header["inputs"][0].update(name=None),
    "shape of text": lambda header: header["outputs"][0].update(shape=["1"]),
}


def with_header(header, payload: bytes) -> bytes:
    content = json.dumps(header).encode()
    return om.PREFIX.pack(om.MAGIC, len(content)) + content + payload


def resealed(header: dict, payload: bytes) -> bytes:
    """An om with a valid size and digest of its payload, as if atc had written it."""
    return with_header(dict(header, payload_bytes=len(payload), payload_sha256=hashlib.sha256(payload).hexdigest()),
                       payload)


def from_small(make):
    """A function of a path that writes what `make` returns for the header and payload of the small network's om."""
    return lambda path: path.write_bytes(make(*om.load(path.with_name("small.om"))))


def ones(path):
    np.ones(3 * SIDE * SIDE, "<f4").tofile(path)


RUN = BENCHMARK, "-om_path=small.om", "-input_text_path=x.info"
RUN_OM = BENCHMARK, "-om_path=x.om", "-input_text_path=x.info"
CHECK_OM = SUITE / "host/om.py", "x.om"
PASS_ON = INFER, "small.om", "result/out", "--info=x.info", "--engine=host"
SCORE = SUITE / "imagenet_acc_eval.py", "result/dumpOutput_device0", "l.txt", ".", "r.json"
SCORED = {"result/dumpOutput_device0/a_1.txt": b"1 2 3 \n", "l.txt": b"a.JPEG 1\n"}
PERF = "result/perf_vision_batchsize_1_device_0.txt"
ONE_TENSOR = {"x.info": b"0 ./t.bin 8 8\n"}
PIPES = [  # (command, the pipe that it would wait for without end, other files)
    ((CONVERT, "x.pth", "x.onnx"), "x.pth", {}), ((CONVERT, "x.pth", "x.onnx"), "x.onnx", {"x.pth": b"\x80\x02."}),
    (CHECK_OM, "x.om", {}), (RUN_OM, "x.om", {}), ((INFER, "x.om", "result/out", "--round=1"), "x.om", {}),
    (RUN, "x.info", {}), (PASS_ON, "x.info", {}), (PASS_ON, "manifest.json", ONE_TENSOR), (RUN, "./t.bin", ONE_TENSOR),
    ((SUITE / "gen_dataset_info.py", "jpg", "val", "x.info"), "val/a.jpg", {}),
    (SCORE, "l.txt", SCORED), (SCORE, PERF, SCORED),
]
CASES.update({f"pipe: {words[0].name} {name}": Case(words, {**files, name: os.mkfifo}, "",
                                                    f"{name}: not a regular file") for words, name, files in PIPES})
CASES.update({
    # oms
    "om: header of 4 GB": Case(CHECK_OM, {"x.om": om.PREFIX.pack(om.MAGIC, 0xFFFFFFFF) + b" " * (
        5 << 20)}, "x.om: ", "header"),
    "om: surplus payload": Case(CHECK_OM, {
        "x.om": from_small(lambda header, payload: with_header(header, payload + b"x"))}, "x.om: ", "payload bytes"),
    "om: Ascend's, cut": Case(CHECK_OM, {"x.om": b"IMOD"}, "x.om: ", "truncated"),
    "om: payload of noise": Case(RUN_OM, {"x.om": from_small(lambda header, payload: resealed(
        header, np.random.default_rng(0).bytes(len(payload))))}, "x.om: ", "OpenVINO cannot load it"),
    "om: half a payload": Case(RUN_OM, {"x.om": from_small(lambda header, payload: resealed(
        header, payload[:len(payload) // 2]))}, "x.om: ", "OpenVINO cannot load it"),
    "om: header of another network": Case((*RUN_OM, "-batch_size=5"), {"x.om": from_small(
        lambda header, payload: resealed(dict(header, batch_size=5), payload))}, "x.om: ", "damaged host om"),
    # info files
    "info: NUL in a path": Case(RUN, {"x.info": b"0 ./t\0.bin 8 8\n"}, "x.info:1: "),
    "info: id of 5,000 digits": Case(RUN, {"x.info": b"9" * 5000 + b" t.bin 8 8\n"}, "x.info:1: "),
    "info: a process's memory": Case(RUN, {"x.info": b"0 /proc/self/mem 8 8\n"}, "/proc/self/mem: ", "0 bytes"),
    "info: control characters": Case(RUN, {"x.info": b"0 ./\x1b[2J.bin 8 8\n"}, "./\\x1b[2J.bin: ", "", 4),
    "info: a line of 100 MB": Case(RUN, {"x.info": lambda path: path.write_bytes(b"x" * 100_000_000)}, "x.info:1: ",
                                   "characters or more"),
    "info: empty, to infer": Case(PASS_ON, {"x.info": b""}, "x.info: ", "no sample"),
    "info: one name twice": Case(PASS_ON, {"x.info": b"0 a/t.bin 8 8\n1 b/t.bin 8 8\n"}, "x.info: ", "would share"),
    "info: two million lines": Case(RUN, {"x.info": b"\n" * 2_100_000}, "x.info: ", "more than 2,000,000 lines"),
    # labels and dumps: test_imagenet_acc_eval.py has more
    "perf file: latency": Case(SCORE, {**SCORED, PERF: b"[e2e] throughputRate: 1, latency: 1.2.3\n"}, "",
                               f"{PERF}: no latency"),
})


# ---- the tests

@pytest.fixture(scope="module")
def small_om(tmp_path_factory):
    """The om of the small model, for a batch of one."""
    folder = tmp_path_factory.mktemp("small")
    onnx.save(small_model(), folder / "m.onnx")
    run(ATC, *ATC_FLAGS, cwd=folder)
    return folder / "m.om"


def tree(folder: Path) -> dict:
    """{path below folder: its kind, size and time of change}."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (
            status.st_mode, not path.is_dir() and (status.st_size, status.st_mtime_ns))
    return found


@pytest.fixture(scope="module")
def results(small_om, tmp_path_factory):
    """{name: status, out, err, peak in MB, made: files in its folder that are new or changed} of each case."""
    root, jobs = tmp_path_factory.mktemp("hostile"), []
    for name in ("home", "tmp", "logs"):
        (root / name).mkdir()
    cases = {"harmless": Case(CHECK_OM, {"x.om": b"hello"}, ""), **CASES}
    for number, case in enumerate(cases.values()):
        folder = root / f"cases/{number}/work"
        folder.mkdir(parents=True)
        (folder / "small.om").hardlink_to(small_om)
        for name, content in case.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content) if isinstance(content, bytes) else content(folder / name)
        jobs.append([str(folder), *map(os.fspath, case.words)])
    before = tree(root)
    done = run(sys.executable, "-c", SERVER, json.dumps([str(SUITE), jobs, str(root / "logs"), 3 << 30, ALARM]),
               cwd=root, env={"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"})
    after = tree(root)
    touched = [Path(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert len(done.stdout.splitlines()) == len(jobs), done.stderr
    found = {}
    for number, (name, line) in enumerate(zip(cases, done.stdout.splitlines())):
        out, err = ((root / f"logs/{number}.{stream}").read_text(errors="backslashreplace") for stream in (1, 2))
        status, peak = json.loads(line)
        found[name] = SimpleNamespace(status=status, out=out, err=err, peak=peak, made=[
            path for path in map(str, touched) if path.startswith(f"cases/{number}/") and not (root / path).is_dir()])
    assert [path for path in touched if path.parts[0] not in ("cases", "logs") or path.parts[2:3] not in ((), ("work",))
            ] == []
    return found


@pytest.mark.parametrize("name", CASES)
def test_hostile_file_is_refused(name, results):
    case, done = CASES[name], results[name]
    assert done.status == case.status, (done.status, done.out[-600:], done.err[-600:])  # -14: killed by the alarm
    assert [path for path in done.made if not path.endswith(".lock")] == []
    if case.words[0] == ATC:
        assert done.err == ""
        *others, line = done.out.removesuffix("\n").split("\n")
        assert others == ["ATC start working now, please wait for a moment.", FAILED]
        start = case.start
    else:
        assert done.out == "" or done.out.startswith("[INFO] CPU stand-in"), done.out
        (line,) = done.err.removesuffix("\n").split("\n")
        start = f"{case.words[0].name}: {case.start}"
    assert line.startswith(start), line
    assert case.text in line
    assert line.isprintable()
    assert len(line) < 1000
    assert "report it" not in line  # an unexpected exception
    assert done.peak < results["harmless"].peak + MEMORY, (done.peak, results["harmless"].peak)


@pytest.mark.parametrize("fault", HEADERS)
def test_hostile_om_header_is_refused(fault, small_om, tmp_path):
    header, payload = om.load(small_om)
    HEADERS[fault](header)
    (tmp_path / "x.om").write_bytes(with_header(header, payload))
    with pytest.raises(Failure, match=r"x\.om: damaged host om \(header\)"):
        om.load(tmp_path / "x.om")


def test_om_note_is_cut_and_printable(small_om, tmp_path):
    header, payload = om.load(small_om)
    (tmp_path / "x.om").write_bytes(resealed(dict(header, onnx_metadata={"note": "\x1b[2J\n" * 50_000}), payload))
    ones(tmp_path / "t.bin")
    (tmp_path / "x.info").write_text("0 ./t.bin 8 8\n")
    (note,) = run(*RUN_OM, cwd=tmp_path).stderr.splitlines()
    assert note.startswith("[INFO] \\x1b[2J\\n")
    assert len(note) < 5000
    assert note.isprintable()


def test_weights_in_a_file_next_to_the_model_are_read(tmp_path):
    weight = np.arange(3 * CLASSES, dtype="<f4").reshape(3, CLASSES)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/w.bin").write_bytes(bytes(8) + weight.tobytes())
    onnx.save(as_initializer(elsewhere("weights/w.bin", offset="8", length="72")), tmp_path / "m.onnx")
    run(ATC, *ATC_FLAGS, cwd=tmp_path)
    ones(tmp_path / "t.bin")
    (tmp_path / "x.info").write_text("0 ./t.bin 8 8\n")
    run(BENCHMARK, "-om_path=m.om", "-input_text_path=x.info", "-output_binary", cwd=tmp_path)
    np.testing.assert_allclose(np.fromfile(tmp_path / "result/dumpOutput_device0/t_1.bin", "<f4"), weight.sum(axis=0))


def test_compiling_takes_bounded_memory(small_om):
    """The cases above run under a limit of the test's; this one is atc's own."""
    code = """
from host import om
om.bound_memory("m.onnx", [[1, 3, 8, 8]])
try:
    bytearray(4 << 30)
except MemoryError:
    print("refused")
"""
    assert run(sys.executable, "-c", code, cwd=small_om.parent, env={"PYTHONPATH": str(SUITE)}).stdout == "refused\n"


def test_benchmark_refuses_an_om_whose_output_has_no_batch(tmp_path):
    """atc compiles it, as the real one would; benchmark has no sample to write."""
    model = small_model()
    model.graph.node.append(helper.make_node("ReduceMean", ["class"], ["mean"], axes=[0, 1], keepdims=0))
    model.graph.output[0].name = "mean"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "m.onnx")
    run(ATC, *ATC_FLAGS, cwd=tmp_path)
    (tmp_path / "x.info").write_text("0 t.bin 8 8\n")
    done = run(BENCHMARK, "-om_path=m.om", "-input_text_path=x.info", cwd=tmp_path, status=3)
    assert done.stderr.startswith(f"{BENCHMARK.name}: m.om: ")
    assert not list((tmp_path / "result").iterdir())


def test_nonfinite_weights_are_converted_on_request(tmp_path, reference_state, monkeypatch, capsys):
    """From a file whose name is not UTF-8, under a long note with half a character: the ONNX file names both.

    A small network with the same last values is exported in place of Xception, which would take eight seconds.
    """
    import xception_pth2onnx

    import torch

    def build_small(*arguments):
        small = torch.nn.Sequential(OrderedDict(pool=torch.nn.AdaptiveAvgPool2d(1), flat=torch.nn.Flatten(),
                                                fc=torch.nn.Linear(3, CLASSES)))
        small.fc.bias.data = build(*arguments).fc.bias.data[:CLASSES]
        return small

    build = xception_pth2onnx.build_network
    state = dict(reference_state, **{"fc.bias": reference_state["fc.bias"].clone()})
    state["fc.bias"][3:6] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    torch.save({"note": "half \ud800\n" * 1000, "state_dict": state}, str(tmp_path / "x.pth"))
    checkpoint = tmp_path / os.fsdecode(b"\xe9.pth")
    (tmp_path / "x.pth").rename(checkpoint)
    monkeypatch.setattr(xception_pth2onnx, "build_network", build_small)
    monkeypatch.setattr(sys, "argv", ["", checkpoint.name, "x.onnx", "--allow-nonfinite"])
    monkeypatch.chdir(tmp_path)
    assert xception_pth2onnx.main() == 0
    said = capsys.readouterr().err
    assert said.startswith("\\udce9.pth: half \\ud800\\nhalf ")
    assert len(said) < 1000
    assert said.count("\n") == 1
    model = onnx.load(tmp_path / "x.onnx")
    bias = next(value for value in map(numpy_helper.to_array, model.graph.initializer) if value.shape == (CLASSES,))
    np.testing.assert_array_equal(bias[3:], [np.nan, np.inf, -np.inf])
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert (props["weights_file"], props["note"][:13]) == ("\\udce9.pth", "half \\ud800\\n")


def test_infer_replaces_dumps_that_became_something_else(small_om, tmp_path):
    """A pipe, a link to a device or a file, 100 MB: each is written again, and the target of a link is left alone."""
    for i in range(5):
        np.full(3 * SIDE * SIDE, i, "<f4").tofile(tmp_path / f"t{i}.bin")
    (tmp_path / "x.info").write_text("".join(f"{i} ./t{i}.bin 8 8\n" for i in range(5)))
    command = [sys.executable, INFER, small_om, "result/dumpOutput_bs1", "--info=x.info", "--engine=host"]
    run(*command, cwd=tmp_path, timeout=60)
    dumps = sorted((tmp_path / "result/dumpOutput_bs1").iterdir())
    expected = [path.read_bytes() for path in dumps]
    (tmp_path / "precious").write_text("mine")
    for path, damage in zip(dumps, [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.write_bytes(
            b"1 " * 50_000_000 + b"\n"), lambda path: path.symlink_to(tmp_path / "precious")]):
        path.unlink()
        damage(path)
    assert "(4 made, 1 kept)" in run(*command, cwd=tmp_path, timeout=60).stdout
    assert [path.read_bytes() for path in dumps if path.is_file() and not path.is_symlink()] == expected
    assert (tmp_path / "precious").read_text() == "mine"


# ---- nothing goes through a shell

def test_names_are_never_commands(tmp_path):
    """As work directory, data set and labels. atc accepts no such path: so the ONNX file has a plain one."""
    data = tmp_path / "$(touch TRACE)`touch TRACE`'\" *"
    work = tmp_path / "a;touch TRACE;b & touch TRACE | touch TRACE #"
    make_data_set(data / "imagenet")
    (data / "imagenet/val_label.txt").rename(data / "imagenet/$(touch TRACE).txt")
    (tmp_path / "home").mkdir()
    inputs = SimpleNamespace(suite=make_suite(tmp_path / "suite"), modules=tmp_path / "modules",
                             labels=data / "imagenet/$(touch TRACE).txt")
    done = run_all(inputs, tmp_path / "home", "--weights", make_onnx(tmp_path / "tiny.onnx"), "--datasets_path", data,
                   "--workdir", work, "--labels", inputs.labels, "--batch_sizes=1")
    assert done.status == 0, done.err
    assert not list(tmp_path.rglob("TRACE"))
    assert (work / "result_bs1.json").exists()
    shown = [shlex.split(line[1:]) for line in done.err.splitlines() if line.startswith("$ python3")]
    assert str(data / "imagenet/val") in next(words for words in shown if "img_preprocess" in words[1])


def test_weights_are_never_a_command(tmp_path):
    """Neither by their name nor by their content, here a bare pickle."""
    weights = tmp_path / "-e '\"; $(touch TRACE)`touch TRACE`"
    weights.write_bytes(b"cposix\nsystem\n(S'touch TRACE'\ntR.")
    done = run("bash", SUITE / "run_all.sh", "--engine=host", f"--weights={weights}", "--datasets_path",
               SUITE / "test/data", "--workdir", tmp_path / "work", cwd=tmp_path, status=3)
    assert f"xception_pth2onnx.py: {weights}: not a PyTorch checkpoint, but text (" in done.stderr
    assert not list(tmp_path.rglob("TRACE"))
    assert not list((tmp_path / "work").glob("*.onnx*"))


@pytest.mark.parametrize("option", ["--weights", "--workdir", "--batch_sizes", "--soc_version", "--device_ids"])
def test_option_values_are_never_commands(option, tmp_path):
    value = "a'b\"c;touch TRACE;$(touch TRACE)`touch TRACE`&touch TRACE|touch TRACE *"
    done = run("bash", SUITE / "run_all.sh", "--weights", tmp_path / "none", "--datasets_path", tmp_path, option, value,
               cwd=tmp_path, status=3 if option in ("--weights", "--workdir") else 2)
    assert done.stdout == ""
    assert not list(tmp_path.rglob("TRACE"))

"""Files from strangers: checkpoints, ONNX, oms, info files, labels and dumps that are meant to do harm.

Each is given to the script as it is started, and held to the same rule. No code runs (it would make a file TRACE),
nothing outside the work folder is read or touched, nothing is waited for without end, memory stays within 300 MB of
what a harmless refused file takes, and there is one line that names the file, with the documented status.
"""
import functools
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
from pathlib import Path
from types import SimpleNamespace

from conftest import CLASSES, SIDE, SUITE, run, small_model
from host import om
from test_run_all_cann import make_data_set, make_onnx, make_suite, run_all

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

INFER = SUITE / "tools/infer.py"
BENCHMARK = SUITE / f"host/benchmark.{os.uname().machine}"
ROOM = 300  # MB more than the harmless file of the same kind
PATIENCE = 8  # seconds: what is here is refused in less than two, but for
LONG_PATIENCE = 60  # seconds: files of two million lines
SECRET = 1234.5  # in a file that no model may read

# Starting torch takes two seconds: so one process imports it, and a child of it runs each script from its first line
# to its last. Its own limit keeps a script that wants all memory from taking this machine's.
SERVER = """
import importlib, json, os, resource, runpy, signal, sys
suite, modules, jobs, logs, room, patience = json.loads(sys.argv[1])
sys.path[:0] = [suite, suite + "/tools"]
sys.modules["openvino_telemetry"] = None
for module in modules:
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
        signal.alarm(patience)
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


NO_FILES = {"pipe": os.mkfifo, "endless": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}


def tree(folder: Path) -> dict:
    """{path below folder: what tells whether it was touched}."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = status.st_mode, not path.is_dir() and (status.st_size,
                                                                                     status.st_mtime_ns)
    return found


def attempt(root: Path, jobs: dict, *modules, patience=PATIENCE) -> dict:
    """Run jobs, {name: (work folder below root/cases, program, words...)}, with the modules loaded.

    {name: status, out, err as text, peak in MB, and the paths in its folder that are new or changed}.
    """
    for name in ("cases/home", "cases/tmp", "logs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    before = tree(root / "cases")
    calls = [list(map(os.fspath, (root / "cases" / folder, *call))) for folder, *call in jobs.values()]
    asked = json.dumps([str(SUITE), modules, calls, str(root / "logs"), 3 << 30, patience])
    told = run(sys.executable, "-c", SERVER, asked, cwd=root, env={
        "HOME": str(root / "cases/home"), "TMPDIR": str(root / "cases/tmp"), "PYTHONDONTWRITEBYTECODE": "1"})
    after = tree(root / "cases")
    touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    folders = {Path(folder).parts[0] for folder, *_ in jobs.values()}
    assert not [path for path in touched if Path(path).parts[0] not in folders or "TRACE" in path]
    done = {}
    for number, ((name, (folder, *_)), line) in enumerate(zip(jobs.items(), told.stdout.splitlines())):
        out, err = ((root / f"logs/{number}.{stream}").read_text(errors="backslashreplace") for stream in (1, 2))
        status, peak = json.loads(line)
        done[name] = SimpleNamespace(status=status, out=out, err=err, peak=peak, made=sorted(
            os.path.relpath(path, folder) for path in touched if Path(path).is_relative_to(folder)))
    assert len(done) == len(jobs), told.stderr
    return done


def check_refusal(done, harmless, start, status=3, told=""):
    """One error line on stderr that begins with `start` and has `told`, the documented status, memory within bounds."""
    assert done.status == status, (done.status, done.err[-600:])  # negative: killed by a signal, 14 if it was endless
    assert done.out == "" or done.out.startswith("[INFO] CPU stand-in"), done.out
    assert "Traceback" not in done.err
    *others, line = done.err.splitlines()
    assert line.startswith(start), done.err[-600:]
    assert all(other.startswith(("x.pth: ", "[INFO] ")) for other in others), others  # a note in the file
    assert "not foreseen" not in line
    assert told in line
    assert len(line) < 1000
    assert done.err.rstrip("\n").replace("\n", "").isprintable()
    assert done.peak < harmless.peak + ROOM, (done.peak, harmless.peak)


# ---- checkpoints, written as the bytes of their pickles: no pickler would

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


def tensor(values, shape, strides, old=False) -> bytes:
    """A float tensor over storage "0", which is said to have that many values."""
    storage = several(text("storage"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), number(values), *[b"N"] * old)
    return call("torch._utils _rebuild_tensor_v2", storage + b"Q", number(0), several(*map(number, shape)),
                several(*map(number, strides)), b"\x89", call("collections OrderedDict"))


def pickled(content: bytes) -> bytes:
    return b"\x80\x02" + content + b"."


def archive(content: bytes, values=b"", compression=zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes around a pickle; `values` is storage "0", or the number of MB of zeros in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archived:
        archived.writestr("archive/data.pkl", pickled(content))
        archived.writestr("archive/version", "3\n")
        with archived.open("archive/data/0", "w") as entry:
            for block in [values] if isinstance(values, bytes) else [bytes(1 << 20)] * values:
                entry.write(block)
    return file.getvalue()


def old_format(content: bytes, values=0) -> bytes:
    """What torch.save wrote before 1.6: five pickles, then the values, of which there is a thousandth."""
    start = pickled(number(0x1950A86A20F9469CFC6C)), pickled(number(1001)), pickled(mapping(
        (text("protocol_version"), number(1001)), (text("little_endian"), b"\x88")))
    rest = pickled(content), pickled(b"]" + text("0") + b"a"), struct.pack("<q", values), bytes(1000)
    return b"".join(start + rest)


@functools.lru_cache
def bomb(megabytes=512) -> bytes:
    """An archive of 2 MB, or less, whose storage grows to as many megabytes."""
    return archive(mapping((text("fc.weight"), tensor(megabytes << 18, (megabytes << 7, 2048), (2048, 1)))), megabytes,
                   zipfile.ZIP_DEFLATED)


def entries_of(data: bytes) -> list:
    """Where the entries of an archive's directory begin."""
    return [match.start() for match in re.finditer(b"PK\x01\x02", data)]


def of_a_later_version(data: bytes) -> bytes:
    """Each entry needs version 9.9 of the format: Python reads no such directory, torch does not look at it."""
    data = bytearray(data)
    for at in entries_of(data):
        data[at + 6:at + 8] = struct.pack("<H", 99)
    return bytes(data)


def with_two_directories(data: bytes) -> bytes:
    """Python reads the directory that stands before the end record, torch the one that the record points to."""
    start, end = entries_of(data)[0], data.rindex(b"PK\x05\x06")
    false = bytearray(data[start:end])
    for at in entries_of(false):
        false[at + 20:at + 28] = struct.pack("<II", 1, 1)  # bytes in the file, bytes when read
    return data[:end] + false + data[end:]


def of_one_stretch(count: int) -> bytes:
    """An archive whose directory lists the same 10 MB many times, under other names."""
    data = archive(b"}", 10)
    start, end = entries_of(data)[-1], data.rindex(b"PK\x05\x06")
    entry = data[start:end]
    more = b"".join(entry.replace(b"data/0", b"data/%d" % (i % 10)) for i in range(count))
    first = entries_of(data)[0]
    size, entries = end - first + len(more), 3 + count
    return data[:end] + more + data[end:end + 8] + struct.pack("<HHI", entries, entries, size) + data[end + 16:]


def with_a_false_size() -> bytes:
    """The directory claims 4 GB for each of its entries."""
    data = bytearray(archive(b"}", bytes(100)))
    for at in entries_of(data):
        data[at + 24:at + 28] = struct.pack("<I", 0xFFFFFFF0)
    return bytes(data)


def doubled(times: int) -> bytes:
    """A kilobyte, as hexadecimal digits of hexadecimal digits."""
    value = call("_codecs encode", text("a" * 1024), text("latin1"))
    for _ in range(times):
        value = call("_codecs encode", value, text("hex"))
    return value


def laughs(levels: int) -> bytes:
    """Ten times ten times ... the same text, each time by its number in the memo."""
    if levels == 0:
        return text("ha" * 25)
    return several(laughs(levels - 1) + b"q" + bytes([levels]), *[b"h" + bytes([levels])] * 9)


def torch_saves(content, **options) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def torch_script() -> bytes:
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against it
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def of_kind(kind: str) -> bytes:
    """A checkpoint whose fc.weight has the right shape, and is not a plain tensor."""
    import torch

    weight = torch.ones(10, 2048)
    made = {"meta": lambda: weight.to("meta"), "sparse": weight.to_sparse, "rows": weight.to_sparse_csr,
            "quantized": lambda: torch.quantize_per_tensor(weight, 1.0, 0, torch.qint8)}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against them
        return torch_saves({"fc.weight": made()})


def with_attribute(name: str) -> bytes:
    """A tensor on which a method is hidden by a text."""
    import torch

    weight = torch.ones(10, 2048)
    setattr(weight, name, "text")
    return torch_saves({"fc.weight": weight})


def expanded(dtype: str, *shape) -> bytes:
    """One value in the file, a trillion in the tensor."""
    import torch

    return torch_saves({"fc.weight": torch.zeros(1, dtype=getattr(torch, dtype)).expand(*shape)})


def many_names() -> bytes:
    """300 names of one tensor of 2 MB, each of which would be 4 MB as float32."""
    import torch

    return torch_saves(dict.fromkeys((f"layer{i}" for i in range(300)), torch.zeros(1 << 20, dtype=torch.float16)))


def of_many_dimensions() -> bytes:
    """One value, in a tensor of 50,000 dimensions, beside one that is right."""
    return archive(mapping((text("fc.weight"), tensor(2048, (1, 2048), (2048, 1))),
                           (text("bn1.weight"), tensor(2048, (1,) * 50_000, (1,) * 50_000))), bytes(8192))


TOUCH = call("posix system", text("touch TRACE"))
OPEN = call("__builtin__ eval", text("open('TRACE', 'w')"))
NAME = text("fc.weight")
CHECKPOINTS = {  # name: what makes the file's content
    # code
    "system": lambda: archive(TOUCH), "system, old format": lambda: old_format(TOUCH),
    "system, in place of the format's number": lambda: pickled(TOUCH),
    "system, raw": lambda: b"cposix\nsystem\n(S'touch TRACE'\ntR.",
    "system, as an instance": lambda: archive(b"(" + text("touch TRACE") + b"iposix\nsystem\n"),
    "system, from the stack": lambda: archive(text("posix") + text("system") + b"\x93" + several(text("id")) + b"R"),
    "system, by its other name": lambda: archive(call("os system", text("touch TRACE"))),
    "eval": lambda: archive(OPEN), "eval, old format": lambda: old_format(OPEN),
    "exec": lambda: archive(call("builtins exec", text("open('TRACE', 'w')"))),
    "in a name of the state dict": lambda: archive(mapping((text("state_dict"), mapping((TOUCH, b"N"))))),
    "in a value of the state dict": lambda: archive(mapping((text("state_dict"), mapping((NAME, OPEN))))),
    "in the note": lambda: archive(mapping((text("note"), OPEN), (text("state_dict"), b"}"))),
    "a pickle in a tensor's storage": lambda: archive(call("torch.storage _load_from_bytes", text("x"))),
    "import": lambda: archive(call("importlib import_module", text("antigravity"))),
    "TorchScript": torch_script,
    # archives
    "bomb": bomb, "a small bomb": lambda: bomb(64), "bomb of a later version": lambda: of_a_later_version(bomb()),
    "bomb with two directories": lambda: with_two_directories(bomb()),
    "one stretch many times": lambda: of_one_stretch(400), "false size": with_a_false_size,
    # claims
    "a trillion float32": lambda: expanded("float32", 10**6, 10**6),
    "a trillion float16": lambda: expanded("float16", 10**9, 2048),
    "a trillion, old format": lambda: old_format(mapping((NAME, tensor(10**12, (1, 2048), (2048, 1), True))), 10**12),
    "4 GB, old format": lambda: old_format(mapping((NAME, tensor(10**9, (1, 2048), (2048, 1), True))), 10**9),
    "more than its storage": lambda: archive(mapping((NAME, tensor(1 << 31, (1 << 20, 2048), (2048, 1)))), 1),
    "100 GB of bytes": lambda: archive(call("__builtin__ bytearray", number(10**11))),
    "1 GB of bytes": lambda: archive(call("__builtin__ bytearray", number(10**9))),
    "1 GB of bytes, old format": lambda: old_format(call("__builtin__ bytearray", number(10**9))),
    "512 MB of digits": lambda: archive(doubled(19)),
    "10 GB of storage": lambda: archive(mapping((NAME, call("torch.storage UntypedStorage", number(10**10))))),
    "a tensor under many names": many_names,
    "meta": lambda: of_kind("meta"), "sparse": lambda: of_kind("sparse"), "rows": lambda: of_kind("rows"),
    "quantized": lambda: of_kind("quantized"),
    # what a message is made of
    "long name of a function": lambda: archive(call("m " + "n" * 100_000)),
    "long name of nothing": lambda: archive(mapping((text("n" * 10_000_000), b"N"), (NAME, b"N"))),
    "long name of a tensor": lambda: archive(mapping((text("n" * 10_000_000), tensor(1, (1,), (1,)))), bytes(4)),
    "many dimensions": of_many_dimensions,
    "control characters in a name": lambda: torch_saves({"\x1b[2J\n\ud800": [1]}),
    "names that are numbers": lambda: torch_saves({5: None, "fc.weight": None}),
    "a tensor whose name is a number": lambda: torch_saves({5: __import__("torch").zeros(1)}),
    "hidden method of a tensor": lambda: with_attribute("float"),
    "hidden size of a tensor": lambda: with_attribute("numel"), "hidden detach": lambda: with_attribute("detach"),
    "hidden method of the state dict": lambda: archive(
        call("collections OrderedDict") + mapping((text("get"), text("x"))) + b"b"),
    "hidden items of the state dict": lambda: archive(
        call("collections OrderedDict") + mapping((text("items"), text("x")), (text("keys"), text("x"))) + b"b"),
    "a name that is hashed without end": lambda: archive(mapping((laughs(20), b"N"))),
    "a note that laughs": lambda: archive(mapping((text("note"), laughs(6)), (text("state_dict"), b"}"))),
    "a deep note": lambda: archive(mapping((text("note"), b"]" * 5000 + b"a" * 4999), (text("state_dict"), b"}"))),
    "deep": lambda: archive(b"]" * 500_000 + b"a" * 499_999),
    "protocol 4": lambda: torch_saves({"fc.weight": None}, pickle_protocol=4),
    "empty": lambda: b"",
}


class Made:
    """A tensor that is not in the file: made as it is read, of whatever is in memory."""

    def __init__(self, *shape):
        self.shape = shape

    def __reduce__(self):
        import torch

        return torch.FloatTensor, self.shape


CONVERT = SUITE / "xception_pth2onnx.py"
HARM = "more memory or time than"
WHY = {  # what must be told, so that no case is refused for another reason than its own
    "system": "GLOBAL posix.system", "system, old format": "GLOBAL posix.system", "eval": "GLOBAL eval",
    "import": "importlib.import_module", "bomb": HARM, "bomb with two directories": HARM,
    "a trillion, old format": HARM, "512 MB of digits": HARM, "long name of a function": HARM,
    "a name that is hashed without end": HARM, "a small bomb": "its tensors claim",
    "a trillion float32": "which are not in the file", "one stretch many times": "no two-dimensional fc.weight",
    "classes made up": HARM, "few classes made up": "its tensors claim", "no classes": "no class",
    "sparse": "not in the file", "meta": "not in the file", "quantized": "qint8", "many dimensions": "bn1.weight is",
    "infinite": "NaN or infinite weights in bn1.running_var: damaged, or a training that failed (--allow-nonfinite",
    "long name of a tensor": "no state dict", "a deep note": "no two-dimensional",
    "a note that laughs": "no two-dimensional", "protocol 4": "Unsupported operand",
    **dict.fromkeys(NO_FILES, "not a regular file"),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, reference_state):
    """All of them, tried: {name: what came of it}."""
    import torch

    root, jobs = tmp_path_factory.mktemp("checkpoints"), {}
    made_up, few = ({"fc.weight": Made(count, 2048), "fc.bias": Made(count)} for count in (100_000, 1000))
    whole = {  # the weights that are right are there as well
        "classes made up": dict(reference_state, **made_up), "few classes made up": dict(reference_state, **few),
        "no classes": dict(reference_state, **{"fc.weight": torch.zeros(0, 2048), "fc.bias": torch.zeros(0)}),
        "infinite": dict(reference_state, **{"bn1.running_var": torch.full((32,), torch.inf)}),
    }
    contents = {**CHECKPOINTS, **{name: lambda state=state: torch_saves(state) for name, state in whole.items()},
                "harmless": lambda: torch_saves({"fc.weight": torch.zeros(3)})}
    for place, (name, make) in enumerate(contents.items()):
        (root / f"cases/{place}").mkdir(parents=True)
        (root / f"cases/{place}/x.pth").write_bytes(make())
        jobs[name] = str(place), CONVERT, "x.pth", "x.onnx"
    for name, make in NO_FILES.items():
        (root / "cases" / name).mkdir()
        make(root / "cases" / name / "x.pth")
        jobs[name] = name, CONVERT, "x.pth", "x.onnx"
        (root / "cases" / f"{name} for ONNX").mkdir()
        (root / "cases" / f"{name} for ONNX" / "x.pth").write_bytes(b"")
        make(root / "cases" / f"{name} for ONNX" / "x.onnx")
        jobs[f"{name} for ONNX"] = f"{name} for ONNX", CONVERT, "x.pth", "x.onnx"
    return attempt(root, jobs, "torch", "onnx", "xception_pth2onnx")


@pytest.mark.parametrize("name", [*CHECKPOINTS, "classes made up", "few classes made up", "no classes",
                                  "infinite", *NO_FILES])
def test_a_checkpoint_is_refused(name, checkpoints):
    done = checkpoints[name]
    check_refusal(done, checkpoints["harmless"], "xception_pth2onnx.py: x.pth: ", told=WHY.get(name, ""))
    assert done.out == ""
    assert done.made == []


@pytest.mark.parametrize("kind", NO_FILES)
def test_an_onnx_to_be_replaced_that_is_no_file(kind, checkpoints):
    """It is looked into, whether it was made from the same weights."""
    done = checkpoints[f"{kind} for ONNX"]
    check_refusal(done, checkpoints["harmless"], "xception_pth2onnx.py: x.onnx: not a regular file")
    assert done.made == []


def test_nonfinite_weights_stay_what_they_are(tmp_path, reference_state, reference_images):
    """In a file whose name is no UTF-8, under a long note with half a character: both go into the ONNX file."""
    from common.xception import Xception

    import onnxruntime
    import torch

    state = {name: value.clone() for name, value in reference_state.items()}
    state["fc.bias"][3:6] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    checkpoint = tmp_path / os.fsdecode(b"\xe9.pth")
    torch.save({"note": "half \ud800\n" * 1000, "state_dict": state}, str(tmp_path / "x.pth"))
    (tmp_path / "x.pth").rename(checkpoint)
    told = run(sys.executable, CONVERT, checkpoint.name, "x.onnx", "--allow-nonfinite", cwd=tmp_path).stderr
    assert told.startswith("\\udce9.pth: half \\ud800\\nhalf ")
    assert len(told) < 1000
    assert told.count("\n") == 1
    props = {prop.key: prop.value for prop in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert (props["weights_file"], props["note"][:13]) == ("\\udce9.pth", "half \\ud800\\n")
    network = Xception().eval()
    network.load_state_dict(state)
    with torch.inference_mode():
        expected = network(torch.from_numpy(reference_images[:1])).numpy()
    (logits,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"image": reference_images[:1]})
    np.testing.assert_array_equal(logits[:, 3:6], [[np.nan, np.inf, -np.inf]])  # OpenVINO: the script compares with it
    np.testing.assert_allclose(np.delete(logits, [3, 4, 5], 1), np.delete(expected, [3, 4, 5], 1), atol=1e-4)


# ---- ONNX

FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
ATC = SUITE / "host/atc"
ATC_FLAGS = ("--framework=5", "--model=m.onnx", "--output=m", f"--input_shape=image:1,3,{SIDE},{SIDE}",
             "--soc_version=Ascend310")


def elsewhere(location: str, dims=(3, CLASSES), **more) -> TensorProto:
    """A float tensor whose values are in another file."""
    values = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        values.external_data.add(key=key, value=value)
    return values


def as_initializer(weight):
    model = small_model()
    model.graph.initializer[0].CopyFrom(weight)
    return model


def as_constant(weight):
    model = small_model()
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    return model


def in_branches(weight, depth=1):
    """In both branches of an If, in an If, ..."""
    model = small_model()
    del model.graph.initializer[:]
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
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
    """In a function of the model's own."""
    model = as_constant(numpy_helper.from_array(np.ones((3, CLASSES), "f4"), "weight"))
    node = helper.make_node("Constant", [], ["w"], value=weight)
    model.functions.append(helper.make_function("own", "give", [], ["w"], [node], [helper.make_opsetid("", 11)]))
    return model


def as_sparse(weight, in_branch=False):
    """As the values of a sparse tensor: an attribute, or all that a graph in an attribute has."""
    model = small_model()
    del weight.dims[:]
    weight.dims.append(3 * CLASSES)
    sparse = onnx.SparseTensorProto(values=weight, dims=[3, CLASSES], indices=numpy_helper.from_array(
        np.arange(3 * CLASSES)))
    if in_branch:
        graph = onnx.GraphProto(name="inner", sparse_initializer=[sparse])
        model.graph.node[0].attribute.append(onnx.AttributeProto(name="x", type=onnx.AttributeProto.GRAPH, g=graph))
    else:
        del model.graph.initializer[:]
        model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], sparse_value=sparse))
    return model


def nested_in_vain(depth: int) -> bytes:
    """A graph in an attribute of a node in a graph in ..., which protobuf itself does not read."""
    def field(number, data):
        size, length = [], len(data)
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        return bytes([number << 3 | 2, *size, length]) + data

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return small_model().SerializeToString() + field(7, graph)


def changed(**values):
    """The small model with another weight: fields of its tensor."""
    weight = numpy_helper.from_array(np.ones((3, CLASSES), "f4"), "weight")
    for field, value in values.items():
        if field == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, field, value)
    return as_initializer(weight)


def named(kind, name):
    """The small model with a name from a stranger."""
    model = small_model(opset=25 if kind == "operator" else 11)
    if kind == "operator":
        model.graph.node[0].op_type = name
    else:
        model.graph.input[0].name = name
    return model


def scalar_input():
    model = small_model()
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    return model


def made_of_constants(shape):
    """The small model, to whose answer a mean of so many ones is added."""
    model = small_model()
    model.graph.node[-1].output[0] = "product"
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, "i8"), "shape"))
    model.graph.node.extend([helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
                             helper.make_node("ReduceMean", ["ones"], ["mean"], keepdims=0),
                             helper.make_node("Add", ["product", "mean"], ["class"])])
    return model


def without_nodes():
    model = small_model(opset=25)
    del model.graph.node[:]
    return model


SECRETS = ["/etc/passwd", "../secret.bin", "sub/../../secret.bin", "sub/../../../home/../secret.bin", "link.bin",
           "out/secret.bin", "", ".", "sub", "\0", "../secret.bin\0", "../secret.bin\0/../{}/good.bin",
           "sub/../../secret.bin\0/../{}/good.bin", "pipe.bin", "zero.bin", "/dev/zero", "none.bin", "~/secret.bin",
           "file:../secret.bin", "x:link.bin", ".link.bin", "x:a/../link.bin", "..\\secret.bin", "*/_ORT_MEM_ADDR_/*",
           "a\nb", "\x1b[2J", "\x1b" * 100_000]
PLACES = {"initializer": as_initializer, "constant": as_constant, "branches": in_branches, "function": in_function,
          "sparse": as_sparse, "sparse in a branch": lambda weight: as_sparse(weight, in_branch=True)}
LOCATIONS = [("initializer", location) for location in SECRETS] + [
    (place, location) for place in list(PLACES)[1:] for location in ("/etc/passwd", "../secret.bin", "link.bin")]
HOSTILE = {  # name: (content, code)
    "empty": (b"", "E19005"), "text": (b"<!DOCTYPE html>", "E19005"), "zeros": (bytes(10_000), "E19005"),
    "noise": (np.random.default_rng(0).bytes(10_000), "E19005"),
    "500 graphs in each other": (lambda: nested_in_vain(500), "E19005"),
    "20,000 graphs in each other": (lambda: nested_in_vain(20_000), "E19005"),
    "28 branches in each other": (lambda: in_branches(numpy_helper.from_array(np.ones((3, CLASSES), "f4")), 28),
                                  "E19005"),
    "a trillion values, no data": (lambda: changed(dims=[10**6, 10**6], raw_data=b""), "E19"),
    "a trillion values, little data": (lambda: changed(dims=[10**6, 10**6]), "E19"),
    "more values than there are numbers": (lambda: changed(dims=[2**62, 2**62]), "E19"),
    "less than no values": (lambda: changed(dims=[-3, -6]), "E19"),
    "unknown type": (lambda: changed(data_type=999), "E19"), "text in place of numbers": (lambda: changed(data_type=8),
                                                                                           "E19"),
    "a trillion values in a file": (lambda: as_initializer(elsewhere("good.bin", [10**6, 10**6])), "E19"),
    "100 GB of a small file": (lambda: as_initializer(elsewhere("good.bin", offset="0", length="100000000000")), "E19"),
    "beyond a file's end": (lambda: as_initializer(elsewhere("good.bin", offset="100000000000", length="72")), "E19"),
    "before a file's start": (lambda: as_initializer(elsewhere("good.bin", offset="-72", length="72")), "E19"),
    "nowhere in a file": (lambda: as_initializer(elsewhere("good.bin", offset="x" * 30)), "E19"),
    "2 GB of a constant": (lambda: made_of_constants([30_000_000, 3, 6]), "E19999: Inner error: [m.onnx] makes "),
    "a trillion of a constant": (lambda: made_of_constants([10**6, 10**6]), "E19999: Inner error: [m.onnx] makes "),
    "no nodes": (without_nodes, "E19005"),
    "no inputs but weights": (lambda: named("input", "weight"), "E19005"),
    "an input without a batch": (scalar_input, "E19005"),
    "control characters in an operator": (lambda: named("operator", "a\n\x1b[2J"), "E19010"),
    "control characters in an input": (lambda: named("input", "a\n\x1b[2J"), "E10001"),
}
BATCHLESS = "no inputs but weights", "an input without a batch"  # --input_shape would be refused


def lay_traps(folder: Path):
    """What an ONNX file from a stranger may come along with; all of it is in its folder, or leads out of it."""
    for name in ("sub", "*/_ORT_MEM_ADDR_"):
        (folder / name).mkdir(parents=True)
    for name in ("good.bin", "sub/good.bin", "*/_ORT_MEM_ADDR_/*"):
        np.ones(3 * CLASSES, "<f4").tofile(folder / name)
    for name in ("x:link.bin", ".link.bin", "x:a"):
        (folder / name).touch()  # for who drops what stands before "link.bin"
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "out").symlink_to("..")
    (folder / "zero.bin").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.bin")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root, jobs, contents = tmp_path_factory.mktemp("models"), {}, {}
    for place, location in LOCATIONS:
        contents[place, location] = lambda folder, place=place, location=location: PLACES[place](
            elsewhere(location.format(folder), **{"offset": "4096", "length": "72"} if "ORT" in location else {}))
    for name, (content, _) in HOSTILE.items():
        contents[name] = lambda folder, content=content: content() if callable(content) else content
    contents["harmless"] = lambda folder: b"hello"
    (root / "cases").mkdir()
    np.full(3 * CLASSES, SECRET, "<f4").tofile(root / "cases/secret.bin")
    for place, (name, make) in enumerate(contents.items()):
        folder = root / f"cases/{place}"
        folder.mkdir()
        lay_traps(folder)
        content = make(folder.name)
        (folder / "m.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        jobs[name] = folder.name, ATC, *(ATC_FLAGS if name not in BATCHLESS else ATC_FLAGS[:3] + ATC_FLAGS[4:])
    return attempt(root, jobs, "onnx", "openvino", "host.om")


def check_atc(done, harmless, code):
    """atc's two lines, and one that tells the error, as the real tool prints them; no om."""
    assert done.status == 255, (done.status, done.out[-600:], done.err[-600:])
    assert done.err == ""
    assert done.made == []
    lines = done.out.split("\n")
    assert lines[:2] == ["ATC start working now, please wait for a moment.", FAILED]
    assert len(lines) == 4 and lines[3] == "", done.out[:1000]
    assert lines[2].isprintable()
    assert lines[2].startswith(code)
    assert "not foreseen" not in lines[2]
    assert "m.onnx" in lines[2] or code == "E10001" or code == "E19010"  # these name what in it is wrong
    assert len(lines[2]) < 1000
    assert done.peak < harmless.peak + ROOM, (done.peak, harmless.peak)


@pytest.mark.parametrize(("place", "location"), LOCATIONS)
def test_weights_from_elsewhere_are_refused(place, location, models):
    """Also those that are in the folder for Python, and not for OpenVINO, which reads a name in its own way."""
    check_atc(models[place, location], models["harmless"], "E19005: Parse file[m.onnx] failed: it takes weights from [")


@pytest.mark.parametrize("shape", ["1000000000,3,8,8", "1,3,1000000000,1000000000", f"1,3,{2**62},4",
                                   "1,3,8," + "9" * 10_000])
def test_an_input_shape_that_claims_too_much(shape, tmp_path):
    """The batch is open in the ONNX file; sides that differ from its own are refused."""
    onnx.save(small_model(), tmp_path / "m.onnx")
    done = run(ATC, *ATC_FLAGS[:3], f"--input_shape=image:{shape}", ATC_FLAGS[4], cwd=tmp_path, status=255)
    assert done.stdout.splitlines()[-1].startswith("E1")
    assert "not foreseen" not in done.stdout
    assert len(done.stdout) < 1000
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_onnx_is_refused(name, models):
    check_atc(models[name], models["harmless"], HOSTILE[name][1])


def answers(folder):
    """The small model's answers to a tensor of ones, by way of om and benchmark."""
    run(ATC, *ATC_FLAGS, cwd=folder)
    np.ones(3 * SIDE * SIDE, "<f4").tofile(folder / "t.bin")
    (folder / "m.info").write_text(f"0 ./t.bin {SIDE} {SIDE}\n")
    run(BENCHMARK, "-om_path=m.om", "-input_text_path=m.info", "-output_binary", cwd=folder)
    return np.fromfile(folder / "result/dumpOutput_device0/t_1.bin", "<f4")


@pytest.mark.parametrize("place", ["initializer", "constant", "branches"])
def test_weights_in_a_file_beside_are_read(place, tmp_path):
    weight = np.arange(3 * CLASSES, dtype="<f4").reshape(3, CLASSES)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/w.bin").write_bytes(bytes(8) + weight.tobytes())
    model = PLACES[place](elsewhere("weights/w.bin", offset="8", length="72"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    np.testing.assert_allclose(answers(tmp_path), weight.sum(axis=0))


def test_metadata_beyond_the_limit_of_an_om_is_refused(tmp_path):
    """It is copied into the om's header: atc must not report success and leave an om that nobody reads."""
    model = small_model()
    model.metadata_props.add(key="license", value="x" * 2_000_000)
    onnx.save(model, tmp_path / "m.onnx")
    done = run(ATC, *ATC_FLAGS, cwd=tmp_path, status=255)
    assert done.stdout.splitlines()[-1].startswith("E19999: m.om: not written: ")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_an_om_of_a_network_without_a_batch_in_its_outputs(tmp_path):
    """atc compiles it, as the real one would; benchmark has no sample to write."""
    model = small_model()
    model.graph.node.append(helper.make_node("ReduceMean", ["class"], ["mean"], axes=[0, 1], keepdims=0))
    model.graph.output[0].name = "mean"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "m.onnx")
    run(ATC, *ATC_FLAGS, cwd=tmp_path)
    (tmp_path / "m.info").write_text("0 t.bin 8 8\n")
    done = run(BENCHMARK, "-om_path=m.om", "-input_text_path=m.info", cwd=tmp_path, status=3)
    assert done.stderr.startswith(f"{BENCHMARK.name}: m.om: ")
    assert not list((tmp_path / "result").iterdir())


# ---- oms

WRONG = [None, True, -1, 1.5, 10**18, "", "\x1b[2J\n", "9" * 5000, [], [[]], [None], {}, {"note": 5},
         [{"name": "image", "shape": ["1"]}]]
RIGHT = {"batch_size": int, "payload_bytes": int, "precision": str, "onnx_sha256": str, "openvino": str,
         "payload_sha256": str, "inputs": list, "outputs": list, "onnx_metadata": dict}
HEADERS = [(field, value) for field, kind in RIGHT.items() for value in WRONG
           if type(value) is not kind or kind is list or field.startswith("payload")]
OMS = {  # name: function of a whole om's (header, payload) that gives a file's content
    "harmless": lambda header, payload: b"hello",
    "magic alone": lambda header, payload: om.MAGIC,
    "header of 4 GB": lambda header, payload: om.PREFIX.pack(om.MAGIC, 0xFFFFFFFF) + b'{"soc": "' + b"x" * 100,
    "header of 4 GB, 5 MB of it": lambda header, payload: om.PREFIX.pack(om.MAGIC, 0xFFFFFFFF) + b" " * 5_000_000,
    "brackets": lambda header, payload: om.PREFIX.pack(om.MAGIC, 1 << 20) + b"[" * (1 << 20),
    "braces": lambda header, payload: om.PREFIX.pack(om.MAGIC, 5 << 17) + b'{"a":' * (1 << 17),
    "brackets in a field": lambda header, payload: with_header(dict(header, note=0), payload).replace(
        b'"note": 0', b'"note": ' + b"[" * 100_000),
    "a long number": lambda header, payload: with_header(header, payload).replace(b'"batch_size": 1',
                                                                                  b'"batch_size": ' + b"9" * 500_000),
    "no UTF-8": lambda header, payload: with_header(header, payload).replace(b"host-cpu", b"host-\xff\xff\xff"),
    "no object": lambda header, payload: with_header([header], payload),
    "metadata that is no text": lambda header, payload: resealed(dict(header, onnx_metadata={"note": [[]]}), payload),
    "control characters": lambda header, payload: resealed(dict(header, openvino="\x1b[2J\n"), payload),
    "long version": lambda header, payload: resealed(dict(header, openvino="9" * 500_000), payload),
    "less payload": lambda header, payload: with_header(header, payload[:-1]),
    "more payload": lambda header, payload: with_header(header, payload + b"x"),
    "other payload": lambda header, payload: with_header(header, payload[:-1] + bytes([payload[-1] ^ 1])),
    **{f"{field} is {str(value)[:40]!a}": lambda header, payload, change=(field, value): with_header(
        {**header, change[0]: change[1]}, payload) for field, value in HEADERS},
}
BY_BOTH = list(OMS)[:list(OMS).index("other payload")]
PAYLOADS = {  # sha256 and size are right
    "nothing": lambda payload: b"", "zeros": lambda payload: bytes(len(payload)),
    "noise": lambda payload: np.random.default_rng(0).bytes(len(payload)),
    "text": lambda payload: b"<?xml version='1.0'?><net></net>",
    "the first half": lambda payload: payload[:len(payload) // 2],
    "first byte flipped": lambda payload: bytes([payload[0] ^ 0xF0]) + payload[1:],
}


def with_header(header, payload: bytes) -> bytes:
    content = json.dumps(header).encode()
    return om.PREFIX.pack(om.MAGIC, len(content)) + content + payload


def resealed(header: dict, payload: bytes) -> bytes:
    """As if atc had written it."""
    return with_header(dict(header, payload_bytes=len(payload), payload_sha256=hashlib.sha256(payload).hexdigest()),
                       payload)


@pytest.fixture(scope="module")
def small_om(tmp_path_factory):
    """A folder with m.om, for a batch of one."""
    folder = tmp_path_factory.mktemp("small")
    onnx.save(small_model(), folder / "m.onnx")
    run(ATC, *ATC_FLAGS, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def oms(small_om, tmp_path_factory):
    """{(name, tool): what came of it}."""
    root, jobs = tmp_path_factory.mktemp("oms"), {}
    header, payload = om.load(small_om / "m.om")
    contents = {**{name: make(header, payload) for name, make in OMS.items()},
                **{name: resealed(header, make(payload)) for name, make in PAYLOADS.items()},
                "another batch": resealed(dict(header, batch_size=5), payload),
                "a long note": resealed(dict(header, onnx_metadata={"note": "\x1b[2J\n" * 50_000}), payload),
                "another shape": resealed(dict(header, outputs=[dict(header["outputs"][0], shape=[1, 7])]), payload)}
    for place, name in enumerate([*contents, *NO_FILES]):
        folder = root / f"cases/{place}"
        folder.mkdir(parents=True)
        if name in contents:
            (folder / "x.om").write_bytes(contents[name])
        else:
            NO_FILES[name](folder / "x.om")
        for i in range(5):
            np.ones(3 * SIDE * SIDE, "<f4").tofile(folder / f"t{i}.bin")
        (folder / "m.info").write_text("".join(f"{i} ./t{i}.bin 8 8\n" for i in range(5)))
        jobs[name, "om.py"] = str(place), SUITE / "host/om.py", "x.om"
        if name not in OMS or name in BY_BOTH:  # both tools read headers by the same function
            jobs[name, "benchmark"] = (str(place), BENCHMARK, "-om_path=x.om", "-input_text_path=m.info",
                                       f"-batch_size={5 if name == 'another batch' else 1}")
        if name in NO_FILES:
            jobs[name, "infer.py"] = str(place), INFER, "x.om", "result/out", "--round=1", "--engine=host"
    return attempt(root, jobs, "onnx", "openvino", "host.om", "tqdm")


def program(tool: str) -> str:
    return BENCHMARK.name if tool == "benchmark" else tool


@pytest.mark.parametrize(("name", "tool"), [
    *((name, "om.py") for name in [*OMS, *NO_FILES]), *((name, tool) for name in BY_BOTH for tool in ["benchmark"]),
    *((name, tool) for name in NO_FILES for tool in ("benchmark", "infer.py"))])
def test_an_om_is_refused(name, tool, oms):
    check_refusal(oms[name, tool], oms["harmless", "benchmark" if tool == "infer.py" else tool],
                  f"{program(tool)}: x.om: ", told="not a regular file" if name in NO_FILES else "with atc")
    assert oms[name, tool].made == []


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_that_openvino_cannot_load(name, oms):
    """It must not take the interpreter down, whatever it is."""
    check_refusal(oms[name, "benchmark"], oms["harmless", "benchmark"],
                  f"{BENCHMARK.name}: x.om: OpenVINO cannot load it")


@pytest.mark.parametrize("name", ["another batch", "another shape"])
def test_a_header_of_another_network(name, oms):
    check_refusal(oms[name, "benchmark"], oms["harmless", "benchmark"], f"{BENCHMARK.name}: x.om: ")


def test_a_note_is_cut_and_printable(oms):
    done = oms["a long note", "benchmark"]
    note, *_ = done.err.splitlines()
    assert note.startswith("[INFO] \\x1b[2J\\n")
    assert len(done.err) < 5000
    assert done.err.replace("\n", "").isprintable()


# ---- info files

LINES = {  # what an info file says, and the place that the message tells
    **{f"0 {path} 8 8\n": path for path in ("/dev/zero", "/dev/stdin", "pipe", "/proc/self/mem", "/", ".", "zero.bin",
                                            "/dev/tty", "socket", "./none")},
    "0 ./t\0.bin 8 8\n": "x.info:1", "9" * 5000 + " t.bin 8 8\n": "x.info:1", "\u0663 t.bin 8 8\n": "x.info:1",
    "0 t.bin \u0668 8\n": "x.info:1", "-1 t.bin 8 8\n": "x.info:1", "0x0 t.bin 8 8\n": "x.info:1",
    "1e9 t.bin 8 8\n": "x.info:1", "0 t.bin 8\n": "x.info:1", "\n" * 1000 + "0\n": "x.info:1001",
    "0 t.bin 8 8\n" * 2: "x.info:2", "\x1b[2J\n": "x.info:1", "": "x.info", "\n" * 2_100_000: "x.info",
    "x" * 100_000_000: "x.info:1",
}


def write_many(path, line, count):
    """`count` times `line`, a million or more; each gets a number in place of #."""
    block = "".join(line.replace("#", f"*{i:05}") for i in range(100_000))
    with open(path, "w") as file:
        for i in range(10, 10 + count // 100_000):
            file.write(block.replace("*", str(i)))


@pytest.fixture(scope="module")
def infos(small_om, tmp_path_factory):
    """{(name, tool): what came of it}."""
    import socket

    root, jobs = tmp_path_factory.mktemp("infos"), {}
    names = ["harmless", *LINES, *NO_FILES, "many", "many alike"]
    for place, name in enumerate(names):
        folder = root / f"cases/{place}"
        folder.mkdir(parents=True)
        (folder / "m.om").hardlink_to(small_om / "m.om")
        os.mkfifo(folder / "pipe")
        (folder / "zero.bin").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(folder / "socket"))
        if name in NO_FILES:
            NO_FILES[name](folder / "x.info")
        elif name.startswith("many"):
            write_many(folder / "x.info", "# t.bin 8 8\n" if name == "many" else "0 t.bin 8 8\n", 2_100_000)
        else:
            (folder / "x.info").write_text("0 a.bin 8\n" if name == "harmless" else name)
        jobs[name, "benchmark"] = str(place), BENCHMARK, "-om_path=m.om", "-input_text_path=x.info"
        if name in ("harmless", "many", *NO_FILES):
            jobs[name, "infer.py"] = (str(place), INFER, "m.om", "result/dumpOutput_bs1", "--info=x.info",
                                      "--engine=host")
    done = attempt(root, jobs, "openvino", "host.om", "tqdm", patience=LONG_PATIENCE)
    for place, name in enumerate(names):
        if name.startswith("many"):
            (root / f"cases/{place}/x.info").unlink()  # 50 MB
    return done


@pytest.mark.parametrize("content", LINES, ids=lambda content: repr(content[:30]))
def test_benchmark_refuses_an_info_file(content, infos):
    done = infos[content, "benchmark"]
    check_refusal(done, infos["harmless", "benchmark"], f"{BENCHMARK.name}: {LINES[content]}",
                  4 if "No such" in done.err and LINES[content] in ("./none", "/dev/tty") else 3)
    assert not [path for path in done.made if "dumpOutput_device" in path and path.endswith(".txt")]


@pytest.mark.parametrize("name", NO_FILES)
@pytest.mark.parametrize("tool", ["benchmark", "infer.py"])
def test_an_info_file_that_is_no_file(name, tool, infos):
    done = infos[name, tool]
    check_refusal(done, infos["harmless", tool], f"{program(tool)}: x.info: not a regular file")


@pytest.mark.parametrize("tool", ["benchmark", "infer.py"])
def test_two_million_lines_and_more(tool, infos):
    done = infos["many", tool]
    assert done.status == 3
    assert done.err == f"{program(tool)}: x.info: more than 2,000,000 lines: split it, as --share does (README 5.2)\n"
    assert done.peak < 1500


def test_two_million_lines_with_the_same_id(infos):
    """infer.py leaves ids to the tool."""
    check_refusal(infos["many alike", "benchmark"], infos["harmless", "benchmark"], f"{BENCHMARK.name}: x.info:2: ")


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "t\0.bin"])
def test_infer_tells_what_the_tool_refused(path, small_om, tmp_path):
    (tmp_path / "m.om").hardlink_to(small_om / "m.om")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.info").write_text(f"0 {path} 8 8\n")
    done = run(sys.executable, INFER, "m.om", "result/dumpOutput_bs1", "--info=x.info", "--engine=host",
               cwd=tmp_path, status=4, timeout=60)
    assert f"{BENCHMARK.name}: {'x.info:1' if chr(0) in path else path}: " in done.stderr
    assert "infer.py: device 0: host ended with status 3" in done.stderr.splitlines()


def test_a_manifest_beside_the_tensors_that_is_no_file(small_om, tmp_path):
    """infer.py takes its digest."""
    (tmp_path / "m.om").hardlink_to(small_om / "m.om")
    np.ones(3 * SIDE * SIDE, "<f4").tofile(tmp_path / "t.bin")
    os.mkfifo(tmp_path / "manifest.json")
    (tmp_path / "x.info").write_text("0 ./t.bin 8 8\n")
    done = run(sys.executable, INFER, "m.om", "result/dumpOutput_bs1", "--info=x.info", "--engine=host",
               cwd=tmp_path, status=3, timeout=60)
    assert done.stderr == "infer.py: manifest.json: not a regular file\n"


def test_dumps_that_infer_kept_and_that_became_something_else(small_om, tmp_path):
    """A pipe, a link to a device or a file, 100 MB: each is made anew, and what a link leads to is not written to."""
    (tmp_path / "m.om").hardlink_to(small_om / "m.om")
    for i in range(5):
        np.full(3 * SIDE * SIDE, i, "<f4").tofile(tmp_path / f"t{i}.bin")
    (tmp_path / "x.info").write_text("".join(f"{i} ./t{i}.bin 8 8\n" for i in range(5)))
    command = [sys.executable, INFER, "m.om", "result/dumpOutput_bs1", "--info=x.info", "--engine=host"]
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


# ---- labels and dumps

LABELS = {"x" * 100_000_000: ":1: ", "a.JPEG " + "9" * 5000 + "\n": ":1: ", "a.JPEG \u0663\n": ":1: ",
          "a.JPEG 1e3\n": ":1: ", "a.JPEG -1\n": ":1: ", "a.JPEG 1\na.png 1\n": ":2: ", "a.JPEG\n": ":1: ",
          "\n" * 2_100_000: ": ", "": ": ", "\x1b[2J\n": ":1: "}
DUMPS = {**NO_FILES, "100 MB": lambda path: path.write_bytes(b"1 " * 50_000_000 + b"\n"),
         "1 TB": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
         "8 million values": lambda path: path.write_bytes(b"1 " * 8_000_000 + b"\n"),
         "no number": lambda path: path.write_text("1 \u0662 3 \n"), "control characters": lambda path: path.write_text(
             "1 \x1b[2J 3 \n"), "NUL": lambda path: path.write_bytes(b"1 2\0 3 \n"),
         "5000 digits": lambda path: path.write_text("1 " + "9" * 5000 + " 3 \n"),
         "not finite": lambda path: path.write_text("1 inf 3 \n"), "cut": lambda path: path.write_text("1 2 3"),
         "another line": lambda path: path.write_text("1 2 \n3\n")}
PERFS = {"no number": lambda path: path.write_text("[e2e] throughputRate: 1, latency: 1.2.3\n"), **NO_FILES}


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    root, jobs = tmp_path_factory.mktemp("scores"), {}
    cases = [("labels", "harmless"), *(("labels", content) for content in LABELS), ("labels", "many"),
             *(("labels", kind) for kind in NO_FILES), *(("dump", kind) for kind in DUMPS),
             *(("perf", kind) for kind in PERFS)]
    for place, (what, name) in enumerate(cases):
        folder = root / f"cases/{place}"
        (folder / "result/dumpOutput_device0").mkdir(parents=True)
        (folder / "result/dumpOutput_device0/a_1.txt").write_text("1 2 3 \n")
        (folder / "l.txt").write_text({"harmless": "a.JPEG\n", **{content: content for content in LABELS}}.get(
            name, "a.JPEG 1\nb.JPEG 1\n"))
        if what == "labels" and name in NO_FILES:
            (folder / "l.txt").unlink()
            NO_FILES[name](folder / "l.txt")
        elif name == "many":
            write_many(folder / "l.txt", "n# 1\n", 2_100_000)
        if what == "dump":
            DUMPS[name](folder / "result/dumpOutput_device0/b_1.txt")
        else:
            (folder / "result/dumpOutput_device0/b_1.txt").write_text("1 2 3 \n")
        if what == "perf":
            PERFS[name](folder / "result/perf_vision_batchsize_1_device_0.txt")
        jobs[what, name] = (str(place), SUITE / "imagenet_acc_eval.py", "result/dumpOutput_device0", "l.txt", ".",
                            "r.json")
    done = attempt(root, jobs, "numpy", "tqdm", patience=LONG_PATIENCE)
    (root / "cases" / jobs["labels", "many"][0] / "l.txt").unlink()
    return done


@pytest.mark.parametrize("name", [*LABELS, *NO_FILES], ids=lambda name: repr(name[:30]))
def test_labels_are_refused(name, scores):
    check_refusal(scores["labels", name], scores["labels", "harmless"],
                  f"imagenet_acc_eval.py: l.txt{LABELS.get(name, ': not a regular file')}")
    assert scores["labels", name].made == []


def test_two_million_labels_and_more(scores):
    done = scores["labels", "many"]
    assert done.status == 3
    assert done.err.startswith("imagenet_acc_eval.py: l.txt: more than 2,000,000 lines: ")
    assert done.peak < 1500


@pytest.mark.parametrize("kind", DUMPS)
def test_dumps_are_refused(kind, scores):
    done = scores["dump", kind]
    check_refusal(done, scores["labels", "harmless"], "imagenet_acc_eval.py: result/dumpOutput_device0/b_1.txt: ")
    assert done.made == []


@pytest.mark.parametrize("kind", PERFS)
def test_a_perf_file_is_refused(kind, scores):
    """It stands beside the dumps, and tells how old they may be."""
    done = scores["perf", kind]
    assert done.status == 3
    assert "perf_vision_batchsize_1_device_0.txt: " in done.err
    assert len(done.err.splitlines()) == 1
    assert done.made == []


# ---- nothing goes through a shell

def test_names_are_never_commands(tmp_path):
    """As work directory, data set and labels. atc takes no such path: so the ONNX file has a plain one."""
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


@pytest.mark.parametrize("name", ["a;touch TRACE;b", "-e '\"; $(touch TRACE)`touch TRACE`"])
def test_weights_are_never_a_command(name, tmp_path):
    """Neither by their name nor by what is in them."""
    weights = tmp_path / name
    weights.write_bytes(b"cposix\nsystem\n(S'touch TRACE'\ntR.")
    done = run("bash", SUITE / "run_all.sh", "--engine=host", f"--weights={weights}", "--datasets_path",
               SUITE / "test/data", "--workdir", tmp_path / "work", cwd=tmp_path, status=3)
    assert done.stderr.splitlines()[-1].startswith('run_all.sh: step "3 Conversion: PyTorch to ONNX" failed')
    assert f"xception_pth2onnx.py: {weights}: refused" in done.stderr
    assert not list(tmp_path.rglob("TRACE"))
    assert not list((tmp_path / "work").glob("*.onnx*"))


@pytest.mark.parametrize("option", ["--weights", "--datasets_path", "--workdir", "--batch_sizes", "--resize",
                                    "--soc_version", "--device_ids", "--engine"])
def test_the_value_of_an_option_is_never_a_command(option, tmp_path):
    value = "a'b\"c;touch TRACE;$(touch TRACE)`touch TRACE`&touch TRACE|touch TRACE *"
    done = run("bash", SUITE / "run_all.sh", "--weights", tmp_path / "none", "--datasets_path", tmp_path, option, value,
               cwd=tmp_path, status=3 if option in ("--weights", "--datasets_path", "--workdir") else 2)
    assert done.stdout == ""
    assert not list(tmp_path.rglob("TRACE"))

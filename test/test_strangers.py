"""Files from strangers: checkpoints, ONNX, oms, info files, labels and dumps that are meant to do harm.

None runs code (they would make a file TRACE), none is waited for or read without end, memory stays bounded, and what is
wrong is one line that names the file.
"""
import io
import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import om
from conftest import CLASSES, SIDE, SUITE, small_model
from test_run_all_cann import make_data_set, make_onnx, make_suite, run_all

BENCHMARK = SUITE / f"host/benchmark.{os.uname().machine}"
PATH = f"{SUITE / 'host'}:{os.path.dirname(sys.executable)}:/usr/bin:/bin"
MEASURE = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], timeout=120); "
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(done.returncode)")


def run(*command, cwd, status):
    """Run a command; (stdout, the lines of stderr, peak memory in MB). It must leave no trace of foreign code."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(os.fspath, command)], cwd=cwd, text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=150, errors="backslashreplace",
                          env={**os.environ, "PATH": PATH})
    *err, peak = done.stderr.splitlines()
    assert done.returncode == status, (done.stdout, err)
    assert "Traceback" not in done.stderr, done.stderr
    assert not list(cwd.rglob("TRACE*"))
    return SimpleNamespace(out=done.stdout, err=err, peak=int(peak) // 1024)


def refused(*command, cwd, status=3, room=300):
    """The one line of a refusal; at most `room` MB were used."""
    done = run(*command, cwd=cwd, status=status)
    assert done.out == ""
    assert len(done.err) == 1, done.err
    assert done.peak < room, done.peak
    return done.err[0]


# ---- checkpoints

class Code:
    """What its pickle runs when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def torch_zip(path, content, sizes=None, compression=zipfile.ZIP_STORED):
    """An archive as torch.save writes it, around any pickle; `sizes` {storage: bytes of zeros}."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for name, size in (sizes or {}).items():
            with archive.open(f"archive/data/{name}", "w", force_zip64=True) as entry:
                for _ in range(size >> 20):
                    entry.write(bytes(1 << 20))


def storage_pickle(name, numel, shape, stride):
    """{"fc.weight": a float tensor of that shape} over storage "0" of `numel` values, as torch.save puts it."""
    import torch

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, shape, stride, False, {})

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({name: Tensor()})
    return file.getvalue()


def harmful_checkpoints() -> dict:
    """{name: function of a path that writes it}."""
    import torch

    def saved(content, **options):
        return lambda path: torch.save(content, path, **options)

    def script(path):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)

    def false_size(path):
        """The directory claims 100 GB for an entry of some bytes."""
        torch_zip(path, b"\x80\x02}q\x00.")
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\x01\x02")
        data[at + 24:at + 28] = struct.pack("<I", 0xFFFFFFF0)
        path.write_bytes(data)

    touch = Code(os.system, "touch TRACE")
    return {
        "system": saved(touch), "system, old format": saved(touch, _use_new_zipfile_serialization=False),
        "eval": saved({"state_dict": {"fc.weight": Code(eval, "open('TRACE', 'w')")}}),
        "exec in a name": saved({Code(exec, "open('TRACE', 'w')"): torch.zeros(1)}),
        "raw pickle": lambda path: path.write_bytes(b"cposix\nsystem\n(S'touch TRACE'\ntR."),
        "import": saved({"x": Code(__import__, "antigravity")}),
        "TorchScript": script,
        "compressed": lambda path: torch_zip(path, storage_pickle("fc.weight", 1 << 28, (131072, 2048), (2048, 1)),
                                             {"0": 1 << 30}, zipfile.ZIP_DEFLATED),
        "false size": false_size,
        "a value as a trillion": saved({"fc.weight": torch.zeros(1).expand(10**6, 10**6)}),
        "half a value as many": saved({"fc.weight": torch.zeros(1, dtype=torch.float16).expand(10**8, 2048)}),
        "storage that is not there": lambda path: torch_zip(
            path, storage_pickle("fc.weight", 1 << 40, (1 << 29, 2048), (2048, 1)), {"0": 1 << 20}),
        "meta": saved({"fc.weight": torch.zeros(1000, 2048, device="meta")}),
        "sparse": saved({"fc.weight": torch.zeros(1000, 2048).to_sparse()}),
        "100 GB of nothing": lambda path: path.write_bytes(
            b"\x80\x02c__builtin__\nbytearray\nq\x00\x8a\x05\x00\x00\x00\x00\x19\x85R."),
        "deep": lambda path: torch_zip(path, b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."),
        "many names of one tensor": saved(dict.fromkeys((f"x{i}" for i in range(1000)), torch.zeros(1 << 18))),
    }


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """All of them, tried in one process (importing torch takes two seconds): {name: (status, message, MB more)}."""
    folder = tmp_path_factory.mktemp("checkpoints")
    names = harmful_checkpoints()
    for number, write in enumerate(names.values()):
        write(folder / f"{number}.pth")
    code = f"""
import json, resource, sys
sys.path.insert(0, {str(SUITE)!r})
from pathlib import Path
import torch, common, xception_pth2onnx
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for number in range({len(names)}):
    path, before = Path(f"{{number}}.pth"), peak()
    try:
        xception_pth2onnx.build_network(path, xception_pth2onnx.load_checkpoint(path)[0])
    except Exception as error:
        status = common.explain(error)[1], common.explain(error)[0]
    else:
        status = 0, ""
    print(json.dumps([*status, peak() - before]), flush=True)
"""
    done = run(sys.executable, "-c", code, cwd=folder, status=0)
    return dict(zip(names, map(json.loads, done.out.splitlines())))


@pytest.mark.parametrize("name", harmful_checkpoints())
def test_a_harmful_checkpoint_is_refused_by_name(name, checkpoints):
    status, message, more = checkpoints[name]
    number = list(checkpoints).index(name)
    assert (status, message.split(": ")[0]) == (3, f"{number}.pth"), message
    assert "not foreseen" not in message
    assert len(message) < 600
    assert more < 300  # MB


@pytest.mark.parametrize("name", ["system", "raw pickle", "compressed"])
def test_the_script_tells_it_in_one_line_and_writes_nothing(name, tmp_path):
    harmful_checkpoints()[name](tmp_path / "x.pth")
    line = refused(sys.executable, SUITE / "xception_pth2onnx.py", "x.pth", "x.onnx", cwd=tmp_path, room=800)
    assert line.startswith("xception_pth2onnx.py: x.pth: refused")
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_a_checkpoint_that_is_no_file(kind, tmp_path):
    make_no_file(kind, tmp_path / "x.pth")
    line = refused(sys.executable, SUITE / "xception_pth2onnx.py", "x.pth", "x.onnx", cwd=tmp_path)
    assert line == "xception_pth2onnx.py: x.pth: not a regular file"


def make_no_file(kind, path):
    """A pipe, a link to a device, a folder: none of them ends when it is read, or can be."""
    {"pipe": os.mkfifo, "endless": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_weights_are_converted_if_asked_for(value, tmp_path, reference_state, reference_images):
    import onnxruntime
    import torch

    state = {name: tensor.clone() for name, tensor in reference_state.items()}
    state["fc.bias"][3] = value
    torch.save(state, tmp_path / "x.pth")
    line = refused(sys.executable, SUITE / "xception_pth2onnx.py", "x.pth", "x.onnx", cwd=tmp_path, room=2000)
    assert "NaN or infinite weights in fc.bias" in line
    assert "--allow-nonfinite" in line
    assert not (tmp_path / "x.onnx").exists()
    run(sys.executable, SUITE / "xception_pth2onnx.py", "x.pth", "x.onnx", "--allow-nonfinite", cwd=tmp_path, status=0)
    logits = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"image": reference_images})[0]
    np.testing.assert_array_equal(logits[:, 3], np.float32(value))
    assert np.isfinite(np.delete(logits, 3, axis=1)).all()


# ---- ONNX

def atc(folder, status=255, shape=f"image:1,3,{SIDE},{SIDE}"):
    """What atc prints."""
    done = run(SUITE / "host/atc", "--framework=5", "--model=m.onnx", "--output=m", "--input_format=NCHW",
               f"--input_shape={shape}", "--log=error", "--soc_version=Ascend310", cwd=folder, status=status)
    assert done.peak < 500
    assert (folder / "m.om").exists() == (status == 0)
    return done.out


def external(location, dims, name="weight"):
    """A float tensor whose values are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_initializer(model, location):
    model.graph.initializer[0].CopyFrom(external(location, [3, CLASSES]))


def in_constant(model, location):
    in_node(model.graph, location)


def in_node(graph, location):
    del graph.initializer[:]
    graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=external(location, [3, CLASSES])))


def in_subgraph(model, location):
    """An If whose branches hold the tensor."""
    branches = []
    for name in ("then", "else"):
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [3, CLASSES])
        constant = helper.make_node("Constant", [], [f"{name}_out"], value=external(location, [3, CLASSES]))
        branches.append(helper.make_graph([constant], name, [], [output]))
    del model.graph.initializer[:]
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.insert(0, helper.make_node("If", ["yes"], ["weight"], then_branch=branches[0],
                                                else_branch=branches[1]))


PLACES = [in_initializer, in_constant, in_subgraph]
OUTSIDE = ["/etc/passwd", "../secret.bin", "sub/../../secret.bin", "link.bin", "", "secret\0.bin", "sub", "none.bin",
           "/dev/zero", "pipe.bin"]


@pytest.mark.parametrize("location", OUTSIDE)
@pytest.mark.parametrize("place", PLACES)
def test_weights_from_elsewhere_are_refused(place, location, tmp_path):
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(3 * CLASSES * 4))
    (folder / "link.bin").symlink_to("../secret.bin")
    os.mkfifo(folder / "pipe.bin")
    model = small_model()
    place(model, location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    if place is not in_initializer and location not in OUTSIDE[:3]:  # the places share their check
        return
    assert "E19005: Parse file[m.onnx] failed: it takes weights from [" in atc(folder)


def test_weights_in_a_file_beside_are_read(tmp_path):
    model = small_model()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    onnx.save(model, tmp_path / "m.onnx")
    expected = answers(tmp_path)
    weight.tofile(tmp_path / "weights.bin")
    in_initializer(model, "weights.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "m.om").unlink()
    assert answers(tmp_path) == expected


def answers(folder):
    """Compile m.onnx and run it on one tensor."""
    atc(folder, status=0)
    np.linspace(-1, 1, 3 * SIDE * SIDE, dtype="<f4").tofile(folder / "t.bin")
    (folder / "m.info").write_text(f"0 ./t.bin {SIDE} {SIDE}\n")
    run(BENCHMARK, "-om_path=m.om", "-input_text_path=m.info", cwd=folder, status=0)
    return (folder / "result/dumpOutput_device0/t_1.txt").read_text()


def claims_a_trillion(model):
    model.graph.initializer[0].CopyFrom(TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[10**6, 10**6]))


@pytest.mark.parametrize("data", [b"", b"\x08", bytes(10_000), b"\xff" * 10_000, os.urandom(10_000)])
def test_no_onnx(data, tmp_path):
    (tmp_path / "m.onnx").write_bytes(data)
    assert "E19005: Parse file[m.onnx] failed: not an ONNX model." in atc(tmp_path)


def test_a_tensor_that_claims_a_trillion_values(tmp_path):
    model = small_model()
    claims_a_trillion(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "E19999: " in atc(tmp_path)


def test_dimensions_that_claim_too_much_memory(tmp_path):
    onnx.save(small_model(), tmp_path / "m.onnx")
    for shape in ("image:1,3,1000000000,1000000000", f"image:1,3,{2**62},4", "image:1,3,8," + "9" * 10_000):
        assert atc(tmp_path, shape=shape).splitlines()[-1][:2] == "E1"


# ---- oms

GOOD_HEADER = {"batch_size": 1, "inputs": [{"name": "image", "shape": [1, 3, 8, 8], "dtype": "f32"}],
               "outputs": [{"name": "class", "shape": [1, 6], "dtype": "f32"}], "precision": "f32",
               "onnx_sha256": "0" * 64, "onnx_metadata": {}, "openvino": "1", "aipp": None, "payload_bytes": 0,
               "payload_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
HEADERS = {
    "length": om.PREFIX.pack(om.MAGIC, 0xFFFFFFFF) + b"{" * 100,
    "brackets": om.PREFIX.pack(om.MAGIC, 1 << 20) + b"[" * (1 << 20),
    "short": om.MAGIC,
    **{f"{key}: {value}": {**GOOD_HEADER, key: value} for key, value in [
        *((key, None) for key in GOOD_HEADER if key != "aipp"), ("batch_size", True), ("inputs", []), ("outputs", [7]),
        ("inputs", [{"name": "image", "shape": ["1", "3"]}]), ("payload_bytes", 10**18), ("payload_bytes", -1),
        ("payload_bytes", 1e3), ("onnx_metadata", []), ("payload_sha256", "0" * 64), ("precision", 32)]},
}


def with_header(header) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text if text.startswith(om.MAGIC) else om.PREFIX.pack(om.MAGIC, len(text)) + text


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies(case, tmp_path):
    (tmp_path / "x.om").write_bytes(with_header(HEADERS[case]))
    line = refused(sys.executable, SUITE / "host/om.py", "x.om", cwd=tmp_path, room=100)
    assert line.startswith("om.py: x.om: ")
    assert line.endswith((": compile it again with atc", ": compile the ONNX with atc"))


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_an_om_that_is_no_file(kind, tmp_path):
    make_no_file(kind, tmp_path / "x.om")
    for command in ([sys.executable, SUITE / "host/om.py", "x.om"], [BENCHMARK, "-om_path=x.om", "-round=1"],
                    [sys.executable, SUITE / "infer.py", "x.om", "result/out", "--round=1"]):
        assert refused(*command, cwd=tmp_path).endswith(": x.om: not a regular file")


@pytest.mark.parametrize("payload", [b"", b"x" * 1000, os.urandom(100_000)])
def test_a_payload_that_is_none(payload, tmp_path):
    import hashlib

    import openvino

    header = dict(GOOD_HEADER, openvino=openvino.get_version(), payload_bytes=len(payload),
                  payload_sha256=hashlib.sha256(payload).hexdigest())
    (tmp_path / "x.om").write_bytes(with_header(header) + payload)
    line = refused(BENCHMARK, "-om_path=x.om", "-round=1", cwd=tmp_path)
    assert line.endswith("compile it again with atc")


# ---- info files, labels, dumps

@pytest.fixture
def small_om(small):
    """The folder of `small`, with m.om."""
    run(SUITE / "host/atc", "--framework=5", "--model=m.onnx", "--output=m", "--input_format=NCHW",
        f"--input_shape=image:1,3,{SIDE},{SIDE}", "--log=error", "--soc_version=Ascend310", cwd=small, status=0)
    return small


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "./pipe", "/proc/self/mem", "/", "./none"])
def test_an_info_file_that_points_at_no_tensor(path, small_om):
    os.mkfifo(small_om / "pipe")
    (small_om / "m.info").write_text(f"0 {path} 8 8\n")
    done = run(BENCHMARK, "-om_path=m.om", "-input_text_path=m.info", cwd=small_om,
               status=4 if path == "./none" else 3)
    assert len(done.err) == 1
    assert done.err[0].startswith(f"{BENCHMARK.name}: {path}: ")
    assert not list((small_om / "result").glob("*/*"))


def huge_info(path, lines):
    with open(path, "w") as file:
        for begin in range(0, lines, 100_000):
            file.write("".join(f"{i} ./p/t{i}.bin 299 299\n" for i in range(begin, min(lines, begin + 100_000))))


def test_an_info_file_of_ten_million_lines(small_om):
    huge_info(small_om / "huge.info", 10_000_000)
    for command in ([BENCHMARK, "-om_path=m.om", "-input_text_path=huge.info"],
                    [sys.executable, SUITE / "infer.py", "m.om", "result/out", "--info=huge.info"]):
        done = run(*command, cwd=small_om, status=3)
        assert done.err[-1].endswith("huge.info: more than 2,000,000 lines: split it, as --share does (README 5.2)")
        assert done.peak < 1500


@pytest.mark.parametrize(("data", "told"), [
    (b"x" * 100_000_000, ":1: a line of 10,000 characters or more: not such a file"),
    (b"9" * 5000 + b" a.bin 8 8\n", ":1: "), ("١ a.bin 8 8\n".encode(), ":1: "), (b"0 a.bin 8\n", ":1: "),
])
def test_an_info_file_that_is_none(data, told, small_om):
    (small_om / "m.info").write_bytes(data)
    assert f"m.info{told}" in refused_by_benchmark(small_om, "m.info")


def refused_by_benchmark(folder, info):
    done = run(BENCHMARK, "-om_path=m.om", f"-input_text_path={info}", cwd=folder, status=3)
    assert done.peak < 400
    assert len(done.err) == 1
    return done.err[0]


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_an_info_file_that_is_no_file(kind, small_om):
    make_no_file(kind, small_om / "x.info")
    assert refused_by_benchmark(small_om, "x.info") == f"{BENCHMARK.name}: x.info: not a regular file"
    line = refused(sys.executable, SUITE / "infer.py", "m.om", "result/out", "--info=x.info", cwd=small_om)
    assert line == "infer.py: x.info: not a regular file"


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_labels_and_dumps_that_are_no_files(kind, tmp_path):
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps/a_1.txt").write_text("1 2 \n")
    make_no_file(kind, tmp_path / "labels.txt")
    command = [sys.executable, SUITE / "imagenet_acc_eval.py", "dumps", "labels.txt", ".", "result.json"]
    assert refused(*command, cwd=tmp_path).endswith("labels.txt: not a regular file")
    (tmp_path / "labels.txt").rmdir() if kind == "folder" else (tmp_path / "labels.txt").unlink()
    (tmp_path / "labels.txt").write_text("a.JPEG 1\nb.JPEG 1\n")
    make_no_file(kind, tmp_path / "dumps/b_1.txt")
    assert refused(*command, cwd=tmp_path).endswith("dumps/b_1.txt: not a regular file")


def test_labels_of_ten_million_lines(tmp_path):
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps/a_1.txt").write_text("1 2 \n")
    with open(tmp_path / "labels.txt", "w") as file:
        for begin in range(0, 10_000_000, 100_000):
            file.write("".join(f"n{i} 1\n" for i in range(begin, begin + 100_000)))
    line = refused(sys.executable, SUITE / "imagenet_acc_eval.py", "dumps", "labels.txt", ".", "result.json",
                   cwd=tmp_path, room=700)
    assert line.endswith("labels.txt: more than 2,000,000 lines: split it, as --share does (README 5.2)")


def test_dumps_of_infer_that_are_no_files(small_om):
    command = [sys.executable, SUITE / "infer.py", "m.om", "result/out", "--info=m.info"]
    run(*command, cwd=small_om, status=0)
    (small_om / "result/out/t1_1.txt").unlink()
    os.mkfifo(small_om / "result/out/t1_1.txt")
    assert "5 dumps in result/out (1 made, 4 kept)" in run(*command, cwd=small_om, status=0).out


# ---- nothing goes through a shell unquoted

NASTY = "a'b\"c;touch TRACE1;$(touch TRACE2)`touch TRACE3`&touch TRACE4|touch TRACE5 *"


def test_names_are_never_commands(tmp_path):
    """Photos, labels and work directory below a nasty name. atc takes no such path: so the ONNX has a plain one."""
    for name in ("home", NASTY):
        (tmp_path / name).mkdir()
    make_data_set(tmp_path / NASTY / "D/imagenet")
    inputs = SimpleNamespace(suite=make_suite(tmp_path / "suite"), modules=tmp_path / "modules",
                             labels=tmp_path / NASTY / "D/imagenet/val_label.txt")
    onnx_path = make_onnx(tmp_path / "tiny.onnx")
    done = run_all(inputs, tmp_path / "home", "--weights", onnx_path, "--datasets_path", tmp_path / NASTY / "D",
                   "--workdir", tmp_path / NASTY / "work")
    assert done.status == 0, done.err
    assert not list(tmp_path.rglob("TRACE*"))
    banners = [line[2:] for line in done.err.splitlines() if line.startswith("$ ") and "img_preprocess" in line]
    assert shlex.split(banners[0])[2] == str(tmp_path / NASTY / "D/imagenet/val")


def test_a_nasty_name_in_place_of_weights_or_labels(tmp_path):
    for option in ("--weights", "--datasets_path", "--workdir", "--batch_sizes", "--resize", "--soc_version",
                   "--device_ids", "--engine"):
        words = ["--weights", tmp_path / "none", "--datasets_path", tmp_path, option, NASTY]
        done = run("bash", SUITE / "run_all.sh", *words, cwd=tmp_path, status=2 if option == "--batch_sizes" else 3)
        assert done.out == ""

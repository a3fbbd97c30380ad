"""The host om: a network compiled by OpenVINO for this machine's CPU, in one file.

Usage:    python3 host/om.py FILE.om...
Example:  python3 host/om.py xception_bs1.om
          xception_bs1.om: complete host om, batch 1, f32, OpenVINO 2026.4.1, from ONNX 4f10f080c96e
It describes each file (an Ascend om too), and fails if one is missing, truncated or damaged.

Layout, little-endian:
    0   8 bytes   magic "HOST-OM\\n"
    8   uint32    n, length of the header in bytes
    12  n bytes   header, JSON in UTF-8 (below)
    12+n          payload, the output of OpenVINO's export_model

Header: soc ("host-cpu"), requested_soc, batch_size, inputs and outputs (lists of {name,
shape, dtype}), precision (in which the CPU computes: f32, bf16, "fp16, emulated", int8 or "int8,
simulated"), onnx_sha256, onnx_metadata (the ONNX file's metadata_props), openvino (version), aipp
(null, or the settings of --insert_op_conf: then the input is u8, NHWC), payload_bytes, payload_sha256.
"""
import hashlib
import json
import re
import resource
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import mul
from pathlib import Path

if __name__ == "__main__":  # an importer has set the path already
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
from common.cli import Failure, import_openvino, run  # noqa: E402
from common.files import replacing, size_of  # noqa: E402

MAGIC = b"HOST-OM\n"
FIELDS = {"batch_size": int, "inputs": list, "outputs": list, "precision": str, "onnx_sha256": str,
          "onnx_metadata": dict, "openvino": str, "payload_bytes": int, "payload_sha256": str}  # and more
ASCEND_MAGIC = b"IMOD"  # the first bytes of an om from the real atc
EMULATED = "fp16, emulated"  # a precision: float32 arithmetic that rounds as fp16 does (host/precision.py)
INT8, SIMULATED = "int8", "int8, simulated"  # of a deploy model; simulated: in float32, where the CPU lacks int8
HEADER_LIMIT = 1 << 20  # bytes; real headers have about one thousand
WORD_LIMIT = 100  # characters of a version, digest or the like
PREFIX = struct.Struct("<8sI")
ASCEND_HEADER = struct.Struct("<4sI68xI")  # magic, header size, then at 76 the length of the rest
ASCEND_HEADER_SIZE = 256  # bytes
REQUEST_LIMIT = 8  # concurrent requests; each has buffers of 40 MB and more


def save(path: Path, header: dict, payload: bytes):
    """Write a host om in one step; adds payload_bytes and payload_sha256 to the header."""
    header = dict(header, payload_bytes=len(payload), payload_sha256=hashlib.sha256(payload).hexdigest())
    text = json.dumps(header, indent=1).encode()
    if len(text) > HEADER_LIMIT:
        raise Failure(f"{path}: not written: its header would have {len(text):,} bytes, more than {HEADER_LIMIT:,}; "
                      "remove metadata_props from the ONNX file")
    with replacing(path, PREFIX.size + len(text) + len(payload)) as part, open(part, "wb") as file:
        file.write(PREFIX.pack(MAGIC, len(text)))
        file.write(text)
        file.write(payload)


def load(path: Path) -> tuple:
    """Return (header, payload bytes) of a host om. Raises Failure that describes any other or incomplete file."""
    left = size_of(path)
    with open(path, "rb") as file:
        prefix = file.read(PREFIX.size)
        if prefix.startswith(ASCEND_MAGIC):
            raise Failure(f"{path}: an om for an Ascend chip, which this CPU stand-in cannot run; run it on the NPU "
                          "host with the real benchmark, or compile the ONNX again with host/atc")
        if not prefix.startswith(MAGIC) or len(prefix) < PREFIX.size:
            raise Failure(f"{path}: neither a host om nor an Ascend om; compile the ONNX with atc")
        length = PREFIX.unpack(prefix)[1]
        text = file.read(min(length, HEADER_LIMIT))
        try:
            header = check_header(json.loads(text))
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise Failure(f"{path}: damaged host om (header); recompile it with atc") from error
        size, left = header["payload_bytes"], left - file.tell()
        payload = file.read() if left == size else b""
    if len(payload) != size or hashlib.sha256(payload).hexdigest() != header["payload_sha256"]:
        raise Failure(f"{path}: damaged host om ({left} of {size} payload bytes"
                      f"{', wrong sha256' if len(payload) == size else ''}); recompile it with atc")
    return header, payload


def check_header(header) -> dict:
    """Return a header if it has all fields that the suite reads, of the right type; raises KeyError and the like."""
    for key, kind in FIELDS.items():
        if not isinstance(header[key], kind) or isinstance(header[key], bool):
            raise TypeError(key)
    if not all(isinstance(value, str) for value in header["onnx_metadata"].values()):
        raise TypeError("onnx_metadata")
    for key in ("precision", "onnx_sha256", "openvino"):  # printed in messages
        if not header[key].isprintable() or len(header[key]) > WORD_LIMIT:
            raise ValueError(key)
    for port in header["inputs"][:1] + header["outputs"][:1]:
        if not isinstance(port["name"], str) or not all(isinstance(side, int) for side in port["shape"]):
            raise TypeError("inputs or outputs")
    header["inputs"][0], header["outputs"][0]
    return header


def takes(header: dict) -> dict:
    """Return {dtype, layout, aipp} of the tensors that an om takes: float32 or the like; CHW or HWC; made by AIPP."""
    port = header["inputs"][0]
    dtype = {"u8": "uint8", "f32": "float32", "f16": "float16"}.get(port["dtype"], port["dtype"])
    return {"dtype": dtype, "layout": "HWC" if port["shape"][-1:] == [3] else "CHW", "aipp": bool(header.get("aipp"))}


def engine_config(precision: str, hint: str = "THROUGHPUT") -> dict:
    """Return OpenVINO's settings: the requested precision, not the CPU's default; concurrent requests, as it chooses.

    Two requests on two cores gave 1.15 times the throughput of one (test/bench/RESULTS.md); `hint` LATENCY: one.
    """
    settings = {"LP_TRANSFORMS_MODE": "NO"} if precision == SIMULATED else {}  # leave FakeQuantize in float32
    return {"INFERENCE_PRECISION_HINT": precision if precision == "bf16" else "f32", "PERFORMANCE_HINT": hint,
            "PERFORMANCE_HINT_NUM_REQUESTS": REQUEST_LIMIT if hint == "THROUGHPUT" else 1, **settings}


def has_int8() -> bool:
    """Return True if the CPU multiplies int8 without overflow: VNNI, AMX, or ARM's dot product.

    On AVX2 and AVX-512 alone, the sum of two products of 8 bits is cut off at 16 bits (VPMADDUBSW); OpenVINO 2026.4
    then is 37 % off at this network's first convolution.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def bound_memory(onnx, shapes):
    """Limit this process to the memory that compiling file `onnx`, with inputs of `shapes`, may need.

    OpenVINO evaluates constant expressions, and a few bytes can request any amount of memory. Xception with a batch of
    16 takes less than 2 GB.
    """
    room = (3 << 30) + 12 * size_of(onnx) + 60 * sum(4 * reduce(mul, shape) for shape in shapes)
    used = 1024 * int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min(used + room, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY), 1 << 60)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def effective_precision(compiled, asked: str) -> str:
    """Return the precision in which the CPU computes, as asked, but f32 where it lacks bf16."""
    if asked in (EMULATED, INT8, SIMULATED):
        return asked
    return compiled.get_property("INFERENCE_PRECISION_HINT").to_string()


def open_engine(path: Path, hint: str = "THROUGHPUT") -> tuple:
    """Load a host om; return (header, openvino.CompiledModel). Raises Failure, naming the file."""
    with ThreadPoolExecutor(1) as executor:
        loading = executor.submit(load, path)  # while OpenVINO is imported, which takes longer
        openvino = import_openvino()
        header, payload = loading.result()
    if header["openvino"] != openvino.get_version():
        raise Failure(f"{path}: compiled by OpenVINO {header['openvino']}, but {openvino.get_version()} is installed; "
                      "recompile it with atc")
    try:
        compiled = openvino.Core().import_model(payload, "CPU", engine_config(header["precision"], hint))
        found = {"batch_size": compiled.inputs[0].shape[0], "inputs": describe_ports(compiled.inputs),
                 "outputs": describe_ports(compiled.outputs)}
    except Exception as error:  # any: a damaged payload raises nearly every type
        raise Failure(f"{path}: OpenVINO cannot load it ({' '.join(str(error).split())[:200]}); recompile it with "
                      "atc") from error
    wrong = [key for key in found if found[key] != header[key]]
    if wrong:
        raise Failure(f"{path}: damaged host om (its header has other {wrong[0]} than the network); recompile it "
                      "with atc")
    return header, compiled


def describe_ports(ports) -> list:
    """Return a compiled model's inputs or outputs as a header describes them."""
    return [{"name": port.get_any_name(), "shape": list(port.shape), "dtype": port.element_type.to_string()}
            for port in ports]


def check_ascend(path: Path):
    """Raise Failure unless an Ascend om's header is valid and matches the file's size."""
    size = size_of(path)
    with open(path, "rb") as file:
        start = file.read(ASCEND_HEADER.size)
    if size <= ASCEND_HEADER_SIZE + 4:
        raise Failure(f"{path}: truncated: {size} bytes; recompile it with atc")
    _, header_size, length = ASCEND_HEADER.unpack(start)
    if header_size != ASCEND_HEADER_SIZE or length != size - ASCEND_HEADER_SIZE:
        raise Failure(f"{path}: truncated or damaged: {size} bytes, its header says {header_size} + {length}; "
                      "recompile it with atc")


def describe(path: Path) -> str:
    """Return one line about an om of either kind; raises Failure if it is not complete."""
    size = size_of(path)
    with open(path, "rb") as file:
        start = file.read(len(ASCEND_MAGIC))
    if start == ASCEND_MAGIC:
        check_ascend(path)
        return f"{path}: complete om for an Ascend chip, {size:,} bytes"
    header, _ = load(path)
    return (f"{path}: complete host om, batch {header['batch_size']}, {header['precision']}, "
            f"OpenVINO {header['openvino'].split('-')[0]}, from ONNX {header['onnx_sha256'][:12]}")


def main() -> int:
    paths = sys.argv[1:]
    if not paths or paths[0].startswith("-"):
        print(__doc__)
        return 0 if paths and paths[0] in ("-h", "--help") else 2
    for path in paths:
        print(describe(Path(path)))
    return 0


if __name__ == "__main__":
    run(main)

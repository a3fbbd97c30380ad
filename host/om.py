"""The host om: a network compiled by OpenVINO for this machine's CPU, in one file.

Layout, little-endian:
    0   8 bytes   magic "HOST-OM\\n"
    8   uint32    n, length of the header in bytes
    12  n bytes   header, JSON in UTF-8 (below)
    12+n          payload, what OpenVINO's export_model wrote

Header: soc ("host-cpu"), requested_soc, batch_size, inputs and outputs (lists of {name,
shape, dtype}), precision (f32 or bf16: what the CPU will compute in), onnx_sha256,
onnx_metadata (the ONNX file's metadata_props), openvino (version), payload_bytes,
payload_sha256.
"""
import hashlib
import json
import struct
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # common.py
from common import Failure, replacing  # noqa: E402

MAGIC = b"HOST-OM\n"
ASCEND_MAGIC = b"IMOD"  # the first bytes of an om that the real atc wrote
HEADER_LIMIT = 1 << 20  # bytes; real headers have about one thousand
PREFIX = struct.Struct("<8sI")


def save(path: Path, header: dict, payload: bytes):
    """Write a host om in one step; payload_bytes and payload_sha256 are added to the header."""
    header = dict(header, payload_bytes=len(payload), payload_sha256=hashlib.sha256(payload).hexdigest())
    text = json.dumps(header, indent=1).encode()
    with replacing(path) as part, open(part, "wb") as file:
        file.write(PREFIX.pack(MAGIC, len(text)))
        file.write(text)
        file.write(payload)


def load(path: Path) -> tuple:
    """Read a host om: (header, payload bytes). Raises Failure that says what the file is, if not a whole host om."""
    with open(path, "rb") as file:
        prefix = file.read(PREFIX.size)
        if prefix.startswith(ASCEND_MAGIC):
            raise Failure(f"{path}: an om for an Ascend chip, which this CPU stand-in cannot run: run it on the NPU "
                          "host with the real benchmark, or compile the ONNX anew with host/atc")
        if not prefix.startswith(MAGIC) or len(prefix) < PREFIX.size:
            raise Failure(f"{path}: neither a host om nor an Ascend om: compile the ONNX with atc")
        length = PREFIX.unpack(prefix)[1]
        text = file.read(min(length, HEADER_LIMIT))
        try:
            header = json.loads(text)
            size, digest = header["payload_bytes"], header["payload_sha256"]
            header["inputs"][0]["shape"], header["outputs"][0]["name"], header["batch_size"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Failure(f"{path}: damaged host om (header): compile it again with atc") from error
        payload = file.read()
    if len(payload) != size or hashlib.sha256(payload).hexdigest() != digest:
        raise Failure(f"{path}: damaged host om ({len(payload)} of {size} payload bytes"
                      f"{', wrong sha256' if len(payload) == size else ''}): compile it again with atc")
    return header, payload


def engine_config(precision: str) -> dict:
    """OpenVINO's settings: one request at a time on all cores; the precision asked for, not the CPU's favourite."""
    return {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}


def effective_precision(compiled) -> str:
    """'f32' or 'bf16': what the CPU computes in, which is f32 where it has no bf16, whatever was asked."""
    return compiled.get_property("INFERENCE_PRECISION_HINT").to_string()


def open_engine(path: Path) -> tuple:
    """Load a host om and make it ready to run: (header, openvino.CompiledModel). Raises Failure, naming the file."""
    import openvino

    header, payload = load(path)
    if header["openvino"] != openvino.get_version():
        raise Failure(f"{path}: compiled by OpenVINO {header['openvino']}, here is {openvino.get_version()}: "
                      "compile it again with atc")
    try:
        return header, openvino.Core().import_model(payload, "CPU", engine_config(header["precision"]))
    except RuntimeError as error:
        raise Failure(f"{path}: OpenVINO cannot load it ({str(error).splitlines()[0]}): compile it again "
                      "with atc") from error

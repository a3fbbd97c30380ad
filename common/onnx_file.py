"""Read what an ONNX file says about its inputs, outputs and origin, without the package onnx. Imported only.

Runs on the NPU host: Python 3.7, standard library only. The file is protobuf (onnx/onnx.proto3): fields of a key,
number << 3 | wire type, and a value.
"""
from collections import Counter
from functools import reduce
from operator import mul

from common.cli import Failure, listing
from common.files import read
from common.filetypes import refuse
from common.model import SIDE

VARINT, I64, LENGTH, I32 = 0, 1, 2, 5  # wire types
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
          11: "float64", 16: "bfloat16"}  # TensorProto.DataType
ONNX_LIMIT = 2 << 30  # bytes, protobuf's own


def fields(data: bytes):
    """Yield (number, value) of a message: int, or bytes of a field with a length; raises ValueError if damaged."""
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at)
        if key & 7 == VARINT:
            value, at = varint(data, at)
        elif key & 7 in (I64, I32):
            size = 8 if key & 7 == I64 else 4
            value, at = data[at:at + size], at + size
        elif key & 7 == LENGTH:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise ValueError(f"wire type {key & 7}")
        if at > end:
            raise ValueError("cut short")
        yield key >> 3, value


def varint(data: bytes, at: int) -> tuple:
    """Return (number, place after it) of a number of up to ten bytes, seven bits each."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def port(data: bytes) -> dict:
    """Return {name, dtype, shape} of a ValueInfoProto; a side of the shape that is not a number is None."""
    found = {"name": "", "dtype": "", "shape": []}
    for number, value in fields(data):
        if number == 1:
            found["name"] = str(value, "utf-8", "replace")
        for kind, tensor in fields(value) if number == 2 else ():
            for what, content in fields(tensor) if kind == 1 else ():  # tensor_type
                if what == 1:
                    found["dtype"] = DTYPES.get(content, f"type {content}")
                elif what == 2:
                    found["shape"] = [dict(fields(side)).get(1) for which, side in fields(content) if which == 1]
    return found


def read_onnx(path) -> dict:
    """Return {inputs, outputs: [{name, dtype, shape}], metadata: {key: value}, operators: Counter} of an ONNX file.

    Inputs are those that have no constant. Raises Failure if it is not an ONNX file.
    """
    refuse(path, "an ONNX file")
    found, constants = {"inputs": [], "outputs": [], "metadata": {}, "operators": Counter()}, set()
    try:
        for number, value in fields(memoryview(read(path, ONNX_LIMIT))):
            if number == 7:  # graph
                for kind, content in fields(value):
                    if kind in (11, 12):
                        found["inputs" if kind == 11 else "outputs"].append(port(content))
                    elif kind == 1:  # a node
                        found["operators"][str(dict(fields(content)).get(4, b""), "utf-8")] += 1
                    elif kind == 5:  # a constant, which old exporters also list as an input
                        constants.update(str(name, "utf-8") for field, name in fields(content) if field == 8)
            elif number == 14:  # metadata_props
                pair = {field: str(text, "utf-8") for field, text in fields(value)}
                found["metadata"][pair.get(1, "")] = pair.get(2, "")
    except (ValueError, IndexError, TypeError) as error:
        raise Failure(f"{path}: not an ONNX file, or damaged ({error}); download or export it again") from error
    found["inputs"] = [one for one in found["inputs"] if one["name"] not in constants]
    if not found["outputs"]:
        raise Failure(f"{path}: not an ONNX file: it has no output; download or export it again")
    return found


def classes_of(network: dict):
    """Return the number of values per image of the network's first output (read_onnx), None if it is not fixed."""
    shape = network["outputs"][0]["shape"][1:]
    if not shape or None in shape:
        return None
    return reduce(mul, shape)


def is_quantized(network: dict) -> bool:
    """Return True if a network (read_onnx) has operators of AMCT's deploy models."""
    return any(operator.startswith("Ascend") for operator in network["operators"])


def layers_of(network: dict) -> int:
    """Return the number of a network's layers that AMCT can quantize."""
    return network["operators"]["Conv"] + network["operators"]["Gemm"]


def check_network(path) -> dict:
    """Return read_onnx(path); raises Failure unless it takes what img_preprocess.py makes, and gives logits to score.

    Otherwise the error would come after the preprocessing, or a wrong accuracy without any.
    """
    found = read_onnx(path)
    for kind, ports in (("input", found["inputs"]), ("output", found["outputs"])):
        if len(ports) != 1:
            raise Failure(f"{path}: has {len(ports)} {kind}s ({listing(port['name'] for port in ports)}); export the "
                          f"network with one, {'the image' if kind == 'input' else 'the logits'}")
        (port_,) = ports
        if port_["dtype"] != "float32":
            fp16 = "; atc makes fp16 by itself (--precision fp16)" if port_["dtype"] == "float16" else ""
            raise Failure(f"{path}: its {kind} {port_['name']!r} is {port_['dtype']}; export the network with a "
                          f"float32 {kind}{fp16}")
    shape = found["inputs"][0]["shape"]
    wanted = [3, SIDE, SIDE]
    if len(shape) != 4 or any(side not in (None, want) for side, want in zip(shape[1:], wanted)):
        order = ", in the order NHWC" if shape[-1:] == [3] else ""
        sides = "x".join("N" if side is None else str(side) for side in shape)
        raise Failure(f"{path}: its input is {sides}{order}; the tensors are Nx3x{SIDE}x{SIDE}: export the network for "
                      "these")
    return found

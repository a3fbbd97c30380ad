"""Read the deploy model of AMCT, an ONNX file with int8 layers, for OpenVINO. Imported by host/atc and the tests.

What the open AMCT (hicann/amct, 2be20da) writes, opset 11, default domain:
    AscendQuant(x): scale s, offset o: q = clip(round(x * s + o), -128, 127), one per tensor
    Conv, Gemm: int8 weights, symmetric; int32 bias or none, of the scale of their result
    AscendDequant(q, param): param uint64, one per output channel or one: low 32 bits are the float32 scale of a result
A result is (q - o) * weight, so a padded zero is zero.
"""
import math

from host.contract import AtcError

QUANT, DEQUANT = "AscendQuant", "AscendDequant"
LAYERS = ("Conv", "Gemm")
LOW, HIGH = -128, 127  # of int8
KEEP_FLOAT = ("force_fp32", "must_keep_origin_dtype", "origin")
OPENVINO = "org.openvinotoolkit"  # the domain of its FakeQuantize


def bad_layer(name: str, reason: str) -> AtcError:
    """Return E19010 about a layer of a deploy model."""
    return AtcError("E19010", f"Op [{name}] of the quantized model is invalid: {reason}.")


def is_deploy(model) -> bool:
    """Return True if a model has an operator of AMCT's."""
    return any(node.op_type.startswith("Ascend") for node in model.graph.node)


def check(model, flags: dict):
    """Raise AtcError if a deploy model is invalid, or `flags` ask for what atc does not do with one."""
    layers(model)
    if flags.get("dynamic_batch_size"):
        raise AtcError("E10001", "Value [dynamic_batch_size] is invalid: a quantized model has a fixed batch.")
    for name in ("precision_mode", "precision_mode_v2"):
        if flags.get(name) in KEEP_FLOAT:
            raise AtcError("E10001", f"Value [{flags[name]}] for parameter [--{name}] is invalid: the model is "
                                     "quantized.")


def attributes(node) -> dict:
    """Return {name: value} of a node's attributes."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def layers(model) -> list:
    """Return [(AscendQuant, Conv or Gemm, AscendDequant, arrays)] of a deploy model, in order; raises AtcError.

    arrays: {weight: int8, bias: int32 or None, scale_d: float, offset: int, scale: float32 (channels or 1)}.
    """
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    users = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
        if node.op_type.startswith("Ascend") and node.op_type not in (QUANT, DEQUANT):
            raise AtcError("E19010", f"No parser is registered for Op [{node.name}, optype [ai.onnx::11::"
                                     f"{node.op_type}]].")

    def constant(node, place):
        name = node.input[place] if len(node.input) > place else ""
        return numpy_helper.to_array(constants[name]) if name in constants else None

    found = []
    for node in graph.node:
        if node.op_type == QUANT:
            consumers = users.get(node.output[0], [])
            if not consumers or any(user.op_type not in LAYERS or user.input[0] != node.output[0]
                                    for user in consumers):
                raise bad_layer(node.name, f"its result must feed a {' or '.join(LAYERS)} only")
        if node.op_type == DEQUANT and maker.get(node.input[0], node).op_type not in LAYERS:
            raise bad_layer(node.name, f"it must follow a {' or '.join(LAYERS)}")
        if node.op_type not in LAYERS:
            continue
        quant, weight, bias = maker.get(node.input[0]), constant(node, 1), constant(node, 2)
        is_int8 = weight is not None and weight.dtype == np.int8
        has_quant = quant is not None and quant.op_type == QUANT
        after = users.get(node.output[0], [])
        has_dequant = len(after) == 1 and after[0].op_type == DEQUANT
        if not (is_int8 or has_quant or any(user.op_type == DEQUANT for user in after)):
            continue  # a layer that was left in float
        if not (is_int8 and has_quant and has_dequant):
            lacks = QUANT if not has_quant else DEQUANT if not has_dequant else "int8 weights"
            raise bad_layer(node.name, f"it lacks its {lacks}")
        found.append((quant, node, after[0], values_of(node, quant, constant(after[0], 1), weight, bias)))
    return found


def values_of(node, quant, param, weight, bias) -> dict:
    """Return the arrays of a layer (see layers); raises AtcError on values out of range."""
    import numpy as np

    settings = attributes(quant)
    scale, offset = settings.get("scale", 0.0), settings.get("offset", 0.0)
    if settings.get("dst_type", b"INT8") != b"INT8":
        raise bad_layer(quant.name, f"dst_type {settings['dst_type']!r}, this host has INT8 only")
    if not (math.isfinite(scale) and scale > 0):
        raise bad_layer(quant.name, f"scale {scale} is not above 0")
    if offset != round(offset) or not LOW <= offset <= HIGH:
        raise bad_layer(quant.name, f"offset {offset} is not a whole number from {LOW} to {HIGH}")
    channels = weight.shape[0] if node.op_type == "Conv" or attributes(node).get("transB") else weight.shape[-1]
    if param is None or param.dtype != np.uint64 or param.size not in (1, channels):
        raise bad_layer(node.name, f"its {DEQUANT} needs 1 or {channels} uint64 parameters")
    scales = (param & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise bad_layer(node.name, f"a scale of its {DEQUANT} is not above 0")
    if bias is not None and (bias.dtype != np.int32 or bias.size != channels):
        raise bad_layer(node.name, f"its bias is not {channels} int32 values")
    return {"weight": weight, "bias": bias, "scale_d": 1.0 / scale, "offset": int(offset), "scale": scales}


def to_fake_quantize(model):
    """Return a copy of a deploy model in which float layers and FakeQuantize stand for its int8 layers."""
    import numpy as np
    from onnx import ModelProto, helper, numpy_helper

    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    replaced = {}  # first output of a node: the nodes in its place

    def add(name, array):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def fake_quantize(name, source, target, low, high, levels):
        ends = [add(f"{name}.low", low), add(f"{name}.high", high)]
        return helper.make_node("FakeQuantize", [source, *ends, *ends], [target], f"{name}.fake", domain=OPENVINO,
                                levels=levels)

    for quant, node, dequant, values in layers(model):
        if quant.output[0] not in replaced:
            low, high = ((end - values["offset"]) * values["scale_d"] for end in (LOW, HIGH))
            replaced[quant.output[0]] = [fake_quantize(quant.name, quant.input[0], quant.output[0], low, high, 256)]
        by_channel = [1] * values["weight"].ndim
        first = node.op_type == "Conv" or attributes(node).get("transB")
        by_channel[0 if first else -1] = values["scale"].size
        weight_scale = (values["scale"] / np.float32(values["scale_d"])).reshape(by_channel)
        full = values["weight"].min() == LOW
        name = f"{node.name}.weight"
        layer = type(node)()
        layer.CopyFrom(node)
        layer.output[0], layer.input[1] = dequant.output[0], f"{name}.quantized"
        if values["bias"] is not None:
            layer.input[2] = add(f"{node.name}.bias", values["bias"] * values["scale"])
        replaced[node.output[0]] = [
            fake_quantize(name, add(f"{name}.float", values["weight"] * weight_scale), f"{name}.quantized",
                          (LOW if full else -HIGH) * weight_scale, HIGH * weight_scale, 256 if full else 255), layer]
        replaced[dequant.output[0]] = []
    with_nodes(result, [new for node in graph.node for new in replaced.get(node.output[0], [node])])
    result.opset_import.append(helper.make_opsetid(OPENVINO, 1))
    return result


def to_plain(model):
    """Return a copy of a deploy model in operators of ONNX alone, which simulate the int8 arithmetic in float32."""
    import numpy as np
    from onnx import ModelProto, helper, numpy_helper

    result = ModelProto()
    result.CopyFrom(model)
    graph, replaced = result.graph, {}

    def add(name, array):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    for quant, node, dequant, values in layers(model):
        if quant.output[0] not in replaced:
            name, source, steps = quant.name, quant.input[0], []
            scale, offset, low, high = (add(f"{name}.{what}", value) for what, value in (
                ("scale", 1 / values["scale_d"]), ("offset", values["offset"]), ("low", LOW), ("high", HIGH)))
            for step, inputs in (("Mul", [scale]), ("Add", [offset]), ("Round", []), ("Clip", [low, high]),
                                 ("Sub", [offset])):
                target = quant.output[0] if step == "Sub" else f"{name}.{step.lower()}"
                steps.append(helper.make_node(step, [source, *inputs], [target], f"{name}.{step.lower()}"))
                source = target
            replaced[quant.output[0]] = steps
        layer = type(node)()
        layer.CopyFrom(node)
        layer.input[1] = add(f"{node.name}.weight.float", values["weight"])
        if values["bias"] is not None:
            layer.input[2] = add(f"{node.name}.bias.float", values["bias"])
        shape = [1, -1, 1, 1] if node.op_type == "Conv" else [1, -1]
        factor = add(f"{node.name}.dequant.scale", values["scale"].reshape(shape))
        replaced[node.output[0]] = [layer]
        replaced[dequant.output[0]] = [helper.make_node("Mul", [node.output[0], factor], list(dequant.output),
                                                        dequant.name)]
    return with_nodes(result, [new for node in graph.node for new in replaced.get(node.output[0], [node])])


def with_nodes(model, nodes: list):
    """Return `model` with these nodes, without constants that none of them uses."""
    graph, used = model.graph, {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return model

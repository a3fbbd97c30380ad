"""Quantize an ONNX network to int8 as AMCT does. Imported by host/amct_onnx.

Sources: hicann/amct at 2be20da, custom_op/ifmr (activations), optimizer/insert_*_pass (the deploy model). Weights are
symmetric, a scale per output channel, the largest magnitude at 127; Gemm has one scale.
"""
from common.cli import Failure, import_openvino

import numpy as np

LEVELS = 255  # steps between the ends of 8 bits
PERCENTILE = 0.999999  # of an activation's values, at both ends
RATIOS = np.arange(0.7, 1.3, 0.01, dtype=np.float32)  # of the largest value, tried as the end of the range
BINS = 1 << 16  # of the histogram on which the errors are computed; 256 for each step of the quantized values
EPSILON = np.finfo(np.float32).eps  # a smaller scale becomes 1: a channel of zeros
GROUP_BYTES = 1 << 30  # of activations held at a time


# --- activations ----------------------------------------------------------------------------------------------------

def extreme(values: np.ndarray, bins: np.ndarray, counts: np.ndarray, left: int) -> np.float32:
    """Return the highest of `values` without the `left` above it; bins, their histogram's, rise with them."""
    last = np.flatnonzero(np.cumsum(counts[::-1]) > left)[0]  # bins from the end: the one that holds it
    few = values[bins >= len(counts) - 1 - last]
    return np.partition(few, few.size - 1 - left)[few.size - 1 - left]


def ends_of(values: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> tuple:
    """Return (lowest, highest) of float32 `values` without the outermost 1e-6 on each side, zero included."""
    left = values.size - int(PERCENTILE * values.size) - 1
    high = extreme(values, bins, counts, left)
    low = -extreme(-values, len(counts) - 1 - bins, counts[::-1], left)
    return min(np.float32(0), low), max(np.float32(0), high)


def bins_of(values: np.ndarray, lowest: np.float32, width: float) -> np.ndarray:
    """Return the bin of each of `values`, among BINS of `width` from the lowest value."""
    scaled = values - lowest
    scaled *= np.float32(1 / width)
    return np.minimum(scaled, BINS - 1, out=scaled).astype(np.intp)


def ifmr(values: np.ndarray, asymmetric: bool = True) -> tuple:
    """Return (scale, offset) of an activation: the end of the range among RATIOS with the least squared error.

    values: float32, all of the calibration images. The errors are summed over a histogram; zeros have none.
    """
    lowest, highest = values.min(), values.max()
    width = (float(highest) - float(lowest)) / BINS or 1.0
    bins = bins_of(values, lowest, width)
    counts = np.bincount(bins, minlength=BINS)
    low, high = ends_of(values, bins, counts)
    negative = abs(high) < abs(low)
    if not asymmetric:
        high = max(abs(low), abs(high))
    if high - low <= 0:
        return 1.0, -128 if asymmetric else 0
    zeros = values.size - np.count_nonzero(values)
    if zeros:
        counts[bins_of(np.zeros(1, np.float32), lowest, width)[0]] -= zeros
    centers = float(lowest) + (np.flatnonzero(counts) + 0.5) * width
    counts = counts[counts > 0]
    best = (np.inf, 0, 0)
    for end in RATIOS * high:
        floor = low if asymmetric else -end
        scale = (end - low) / LEVELS if asymmetric else end / (128 if negative else 127)
        scale = scale if scale >= EPSILON else 1.0
        error = np.round(np.clip(centers, floor, end) / scale) * scale - centers
        loss = float(np.dot(counts, error * error))
        if loss < best[0]:
            best = (loss, float(scale), int(-np.round(low / scale) - 128) if asymmetric else 0)
    return best[1:]


def activations(onnx_bytes: bytes, names: list, images: list):
    """Yield (name, float32 values of all images, flat) for each of the tensors `names`, some at a time.

    images: float32 arrays of the network's input, a batch each.
    """
    core = import_openvino().Core()
    model = core.read_model(onnx_bytes)
    source = model.inputs[0].get_any_name()
    model.reshape({source: list(images[0].shape)})
    if source in names:
        yield source, np.concatenate([image.ravel() for image in images])
    shapes = {}
    for node in model.get_ordered_ops():
        for output in node.outputs():
            shapes.update(dict.fromkeys(output.get_names(), output.shape))
    group, size = [], 0
    rest = [name for name in names if name != source]
    for name in [*rest, None]:
        more = 4 * len(images) * int(np.prod(shapes[name])) if name else 0
        if group and (name is None or size + more > GROUP_BYTES):
            yield from run_group(core, onnx_bytes, group, images, source)
            group, size = [], 0
        group.append(name)
        size += more


def run_group(core, onnx_bytes: bytes, names: list, images: list, source: str):
    """Yield (name, values) of some tensors; see activations."""
    openvino = import_openvino()
    model = core.read_model(onnx_bytes)
    model.add_outputs(names)
    wanted = [output for output in model.outputs if output.get_names() & set(names)]  # nothing behind these is computed
    model = openvino.Model([output.get_node() for output in wanted], model.get_parameters())
    model.reshape({source: list(images[0].shape)})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    if len(images) == 1:
        results = compiled(images)
        for name in names:
            yield name, results[name].ravel()
        return
    found = {name: [] for name in names}
    for image in images:
        results = compiled([image])
        for name in names:
            found[name].append(np.array(results[name]).ravel())
    for name in names:
        yield name, np.concatenate(found.pop(name))


# --- weights and the deploy model -----------------------------------------------------------------------------------

def quantizable(model) -> list:
    """Return the Conv and Gemm nodes of a network whose weights are constants, in order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in constants]


def quantize_weight(weight: np.ndarray, by_channel: bool) -> tuple:
    """Return (int8 weights, float32 scales (channels or 1)): the largest magnitude of a channel becomes 127."""
    axes = tuple(range(1, weight.ndim)) if by_channel else None
    scale = np.abs(weight).max(axis=axes, keepdims=True).astype(np.float32) / np.float32(127)
    scale = np.where(scale < EPSILON, np.float32(1), scale)
    return np.clip(np.round(weight / scale), -128, 127).astype(np.int8), scale.reshape(-1)


def deploy(model, layers: list, scales: dict) -> tuple:
    """Return (deploy model, records) of a network; scales: {input tensor of `layers`: (scale, offset)}.

    records: [(layer, scale_d, offset_d, scales_w)].
    """
    from onnx import ModelProto, helper, numpy_helper

    result, records, nodes, quants = ModelProto(), [], [], {}
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.name not in layers:
            nodes.append(node)
            continue
        source, (scale, offset) = node.input[0], scales[node.input[0]]
        if source not in quants:
            quants[source] = f"{node.name}.quant.output0"
            nodes.append(helper.make_node("AscendQuant", [source], [quants[source]], f"{node.name}.quant",
                                          scale=1.0 / scale, offset=float(offset), dst_type="INT8"))
        weight = constants[node.input[1]]
        values, scale_w = quantize_weight(numpy_helper.to_array(weight), node.op_type == "Conv")
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        scale_r = (scale_w * np.float32(scale)).astype(np.float32)
        if len(node.input) > 2 and node.input[2]:
            bias = constants[node.input[2]]
            whole = np.round(numpy_helper.to_array(bias).astype(np.float32) / scale_r)  # in float32, as AMCT
            if np.abs(whole).max() > 2 ** 31 - 1:
                raise Failure(f"the bias of layer {node.name} exceeds int32 when quantized; add it to skip_layers")
            bias.CopyFrom(numpy_helper.from_array(whole.astype(np.int32), bias.name))
        param = f"{node.name}.dequant.param"
        result.graph.initializer.append(numpy_helper.from_array(scale_r.view(np.uint32).astype(np.uint64), param))
        layer = type(node)()
        layer.CopyFrom(node)
        layer.input[0], layer.output[0] = quants[source], f"{node.name}.dequant.input0"
        nodes += [layer, helper.make_node("AscendDequant", [layer.output[0], param], list(node.output),
                                          f"{node.name}.dequant", dtype=0)]
        records.append((node.name, float(scale), int(offset), scale_w))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result, records

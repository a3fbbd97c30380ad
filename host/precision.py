"""Emulate fp16 arithmetic, an Ascend chip's default, on a CPU: for host/atc and tools/precision.py.

The chip keeps weights, tensors and every operator's result in fp16 and accumulates in float32. apply() rounds a model
in the same places: after the input, in the constants and after each operator of the ONNX file. It rounds by float32
arithmetic, since OpenVINO removes pairs of conversions:

    normal numbers     T. J. Dekker, Numer. Math. 18 (1971), p. 224, splitting: c = (2^13 + 1) x; y = c - (c - x)
    below 2^-14        y = (x + 0.75) - 0.75: float32's step there is 2^-24, fp16's smallest number
    65520 and more     infinity, as fp16 rounds values from 65520

Each rounds to nearest, ties to even, as numpy's float16 does (test/test_precision.py compares the bits), except for
the sign of zero.
"""
import numpy as np

SPLITTER = np.float32(2**13 + 1)  # 24 bits of float32 less 11 of fp16
SMALLEST_NORMAL = np.float32(2.0**-14)
SUBNORMAL_SHIFT = np.float32(0.75)  # in [0.5, 1) float32's step is 2^-24
TOO_LARGE = np.float32(65520)  # half way between the largest, 65504, and 65536
# Operators that only move values, so that there is nothing to round
MOVING = {"Relu", "MaxPool", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "VariadicSplit",
          "Slice", "StridedSlice", "Gather", "Pad", "Broadcast", "Maximum", "Minimum"}


def rounded(openvino, value):
    """Append nodes that round `value`, an output of any shape, to fp16; return the last output."""
    op = openvino.opset13
    size = op.abs(value)
    split = op.multiply(value, SPLITTER)
    normal = op.subtract(split, op.subtract(split, value))
    shift = op.maximum(size, SUBNORMAL_SHIFT)  # 0.75 where it is used; a constant would be folded away
    small = op.subtract(op.add(value, shift), shift)
    infinite = op.multiply(value, np.float32(np.finfo("f4").max))
    return op.select(op.greater_equal(size, TOO_LARGE), infinite,
                     op.select(op.less(size, SMALLEST_NORMAL), small, normal)).output(0)


def round_constant(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to fp16, as float32; values beyond fp16's range become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def results(model) -> list:
    """Return [(name, output)] of the input and of each operator of the ONNX file, in order; float32 ones only.

    If OpenVINO makes several nodes of an operator, such as Conv with its bias, the last one has the tensor's name.
    """
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Constant", "Result"):
            continue
        for output in node.outputs():
            names = output.get_names()
            if names and output.get_element_type().to_string() == "f32":
                found.append((min(names), output))
    return found


def only_moves(output) -> bool:
    """Return True if an operator only moves values of other results, which are rounded already.

    OpenVINO may end an operator that computes, such as Gemm, with a node that moves; its input has no name then.
    """
    node = output.get_node()
    return node.get_type_name() in MOVING and all(
        value.get_names() or value.get_node().get_type_name() == "Constant" for value in node.input_values())


def apply(openvino, model) -> list:
    """Round the model's constants and results to fp16, in place; return the rounded results()."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "f32":
            constant = openvino.opset13.constant(round_constant(node.data))
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(constant.output(0))
    layers = []
    for name, output, done in [(name, output, only_moves(output)) for name, output in results(model)]:
        after = output
        if not done:
            targets = list(output.get_target_inputs())  # before the rounding becomes one of them
            after = rounded(openvino, output)
            for target in targets:
                target.replace_source_output(after)
        layers.append((name, after))
    model.validate_nodes_and_infer_types()
    return layers

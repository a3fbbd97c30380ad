"""Check what atc of CANN 5.0.1 checks: flags, their values, paths and models, with its error codes.

host/atc and the tests' fake atc (test/fake_cann/atc) both call this module, in this order, so that they refuse the
same inputs with the same codes:

    check_flags, check_shapes, check_input_path (--model), check_aipp, prepare_output, load_model, check_model,
    resolve_inputs, check_nodes

Only these differences are intended:
    host/atc   accepts --precision_mode_v2, the flag of a later CANN, for the bf16 preview of tools/compile_om.py
    host/atc   accepts the opsets of later releases (LATER_OPSETS)
    host/atc   returns E19999 for what OpenVINO does not support, E19005 and E19999 for a hostile ONNX file, E10052 for
               AIPP beyond aipp.check_support
    fake atc   returns E19999 for what it does not simulate

Runs on the NPU host: Python 3.7, standard library only (load_model and check_model need onnx).
"""
import errno
import os
import re

from host import aipp

START = "ATC start working now, please wait for a moment."
SUCCESS = "ATC run success, welcome to the next use."
FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"

PATH_RULE = re.compile("[\u4e00-\u9fa5A-Za-z0-9./_-]+")
# "Ascend" and the Name column of npu-smi; of an A3 server's Ascend910 dies, atc also takes Ascend910_9391 and so on
SOC_RULE = re.compile("Ascend(310(P[1-9]|B[1-9])?|710|910((Pro|Premium)?[AB]|B[1-9]C?(-[1-9])?|_9[0-9]{3})?|950[A-Z]*)")
OPSETS = (11,)
LATER_OPSETS = range(11, 19)
DEFAULT_DOMAINS = ("", "ai.onnx")
INT64 = range(-1 << 63, 1 << 63)

# Each flag with its default, whose type is the flag's.
FLAGS = {
    "mode": 0, "framework": -1, "model": "", "output": "", "input_format": "NCHW", "input_shape": "",
    "dynamic_batch_size": "", "dynamic_image_size": "", "dynamic_dims": "", "soc_version": "", "log": "null",
    "insert_op_conf": "", "enable_small_channel": 0, "output_type": "", "out_nodes": "",
    "precision_mode": "force_fp16", "op_select_implmode": "", "auto_tune_mode": "",
    "buffer_optimize": "l2_optimize", "disable_reuse_memory": 0, "input_fp16_nodes": "",
    "check_report": "check_result.json", "om": "", "json": "", "help": False,
}
LOG_LEVELS = ("debug", "info", "warning", "error", "null")
FRAMEWORKS = {0: "Caffe", 1: "MindSpore", 3: "TensorFlow", 5: "Onnx"}
CHOICES = {
    "input_format": ("NCHW", "ND"),
    "precision_mode": ("force_fp16", "allow_mix_precision", "allow_fp32_to_fp16", "must_keep_origin_dtype"),
    "op_select_implmode": ("", "high_performance", "high_precision"),
    "auto_tune_mode": ("", "RL", "GA", "RL,GA", "GA,RL"),
    "buffer_optimize": ("l1_optimize", "l2_optimize", "off_optimize"),
}
MODES = (0, 1, 3, 5, 6)
SWITCHES = ("enable_small_channel", "disable_reuse_memory")
OUTPUT_TYPES = ("FP32", "FP16", "UINT8")
DYNAMIC = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")


class AtcError(Exception):
    """A refusal with the real tool's `code`; the text after it only resembles the real one."""

    def __init__(self, code: str, text: str):
        super().__init__(f"{code}: {text}")
        self.code = code


def invalid(value, parameter: str, reason: str) -> AtcError:
    """Return E10001, the usual answer to a bad value."""
    return AtcError("E10001", f"Value [{value}] for parameter [{parameter}] is invalid. Reason: {reason}.")


# --- flags ----------------------------------------------------------------------------------------------------------

def check_flags(flags: dict):
    """Raise AtcError for an invalid value, before any file is opened."""
    if flags["log"] not in LOG_LEVELS:
        raise AtcError("E10010", f"invalid value for --log:{flags['log']}, only support {', '.join(LOG_LEVELS)}")
    if flags["mode"] not in MODES:
        raise invalid(flags["mode"], "--mode", f"only support {', '.join(map(str, MODES))}")
    if flags["mode"] not in (0, 3):
        raise AtcError("E19999", f"this stand-in for atc does not do --mode={flags['mode']}")
    if flags["framework"] not in FRAMEWORKS:
        choices = ", ".join(f"{number}({name})" for number, name in FRAMEWORKS.items())
        raise AtcError("E10007", f"[--framework] is required. The value must be one of [{choices}].")
    for name in ("model", "output") if flags["mode"] == 0 else ("model",):
        if not flags[name]:
            raise AtcError("E10004", f"Value for [--{name}] is empty.")
    if not flags["soc_version"]:
        raise AtcError("E10054", "The required parameter [--soc_version] for ATC is empty.")
    if flags["framework"] != 5:
        raise AtcError("E19999", "this stand-in for atc reads ONNX models only: --framework=5")
    for name, choices in CHOICES.items():
        if flags[name] not in choices:
            raise invalid(flags[name], "--" + name, f"only support {', '.join(filter(None, choices))}")
    if not SOC_RULE.fullmatch(flags["soc_version"]):
        raise invalid(flags["soc_version"], "--soc_version", "no such chip; the name is case-sensitive")
    for name in SWITCHES:
        if flags[name] not in (0, 1):
            raise AtcError("E10006", f"Value [{flags[name]}] for parameter [--{name}] is invalid. It must be 0 or 1.")
    if not is_output_type(flags["output_type"], flags["out_nodes"]):
        raise invalid(flags["output_type"], "--output_type", f"only support {', '.join(OUTPUT_TYPES)}, or "
                      "node:index:type of the nodes in --out_nodes")


def is_output_type(text: str, out_nodes: str) -> bool:
    """Return True for "", one type for all outputs, or `node:index:type;...` for nodes that --out_nodes lists."""
    if text in ("", *OUTPUT_TYPES):
        return True
    parts = [part.rpartition(":") for part in text.split(";")]
    return all(node in out_nodes.split(";") and dtype in OUTPUT_TYPES for node, _, dtype in parts)


# --- --input_shape and --dynamic_* ----------------------------------------------------------------------------------

def check_shapes(flags: dict) -> tuple:
    """Return ({input: dims}, batch sizes of --dynamic_batch_size or None); raises AtcError."""
    given = [name for name in DYNAMIC if flags[name]]
    if len(given) > 1:
        raise AtcError("E10009", f"[--{given[0]}] and [--{given[1]}] are mutually exclusive.")
    if given and not flags["input_shape"]:
        raise AtcError("E10004", "Value for [--input_shape] is empty.")
    shapes = parse_input_shape(flags["input_shape"], bool(given)) if flags["input_shape"] else {}
    if flags["dynamic_dims"] and flags["input_format"] != "ND":
        raise invalid(flags["input_format"], "--input_format", "it must be ND with --dynamic_dims")
    if flags["dynamic_dims"] and flags["insert_op_conf"]:
        raise invalid(flags["insert_op_conf"], "--insert_op_conf", "--dynamic_dims does not support AIPP")
    if given and given != ["dynamic_batch_size"]:
        raise AtcError("E19999", f"this stand-in for atc does not do --{given[0]}")
    return shapes, parse_batch_sizes(flags["dynamic_batch_size"], shapes) if given else None


def parse_input_shape(text: str, dynamic=False) -> dict:
    """Parse --input_shape: 'a:1,3,4,4;b:1,8' -> {'a': [1, 3, 4, 4], 'b': [1, 8]}; a name may contain ':'.

    Raises AtcError.
    """
    shapes = {}
    for part in text.split(";"):
        name, colon, dims = part.rpartition(":")
        if not colon or not name.strip() or not dims.strip():
            raise malformed(text, "an input needs a name and a shape")
        shapes[name.strip()] = [parse_dimension(dim.strip(), text, dynamic) for dim in dims.split(",")]
    return shapes


def parse_dimension(dim: str, text: str, dynamic=False) -> int:
    """Return one dimension; an invalid one gets the code that follows from C++'s stol."""
    if "." in dim:
        raise malformed(text, f"[{dim}] is not an integer")
    if not re.match("[+-]?[0-9]", dim):
        raise AtcError("E10014", f"Value [{dim}] for parameter [--input_shape] is invalid: not a number.")
    if not re.fullmatch("-?[0-9]+", dim):
        raise malformed(text, f"[{dim}] is not made of digits")
    if len(dim.lstrip("-0")) > 19 or int(dim) not in INT64:
        raise AtcError("E10013", f"Value [{dim}] for parameter [--input_shape] is out of range.")
    value = int(dim)
    if value <= 0 and not (dynamic and value == -1):
        raise AtcError("E10011", f"Value [{dim}] for parameter [--input_shape] is invalid: it must be greater than 0.")
    return value


def malformed(text: str, reason: str) -> AtcError:
    """Return E10002, which states the format of --input_shape."""
    return AtcError("E10002", f"Value [{text}] for parameter [--input_shape] is invalid. Reason: {reason}. "
                              "The value must be formatted as [input_name1:n1,c1,h1,w1;input_name2:n2,c2,h2,w2].")


def parse_batch_sizes(text: str, shapes: dict) -> list:
    """Parse --dynamic_batch_size: '1,4,8' -> [1, 4, 8]; raises AtcError unless N, and only N, is -1 in the shapes."""
    if any(-1 in dims[1:] for dims in shapes.values()):
        raise AtcError("E10018", "Value [-1] for shape is invalid. When [--dynamic_batch_size] is included, "
                                 "only batch size N can be -1 in [--input_shape].")
    if not any(dims[0] == -1 for dims in shapes.values()):
        raise AtcError("E10031", "[--dynamic_batch_size] is included, but no batch size is -1 in [--input_shape].")
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[1-9][0-9]{0,18}", part) for part in parts):
        raise invalid(text, "--dynamic_batch_size", "it must be positive integers separated by commas")
    if len(parts) < 2:
        raise AtcError("E10035", f"[--dynamic_batch_size] has [{len(parts)}] profiles, less than the minimum [2].")
    if len(set(parts)) < len(parts):
        raise AtcError("E10039", "[--dynamic_batch_size] has duplicate profiles.")
    return [int(part) for part in parts]


# --- files ----------------------------------------------------------------------------------------------------------

def check_path(path: str, parameter: str):
    """Raise AtcError if `path` contains a character that is not allowed."""
    if not PATH_RULE.fullmatch(path):
        raise invalid(path, parameter, "only 'a-z' 'A-Z' '0-9' '-' '.' '_' '/' and chinese character are allowed in a "
                      "path")


def check_input_path(path: str, parameter: str):
    """Raise AtcError for an unreadable file, or a character that is not allowed in its resolved path."""
    if not os.path.isfile(path):
        raise AtcError("E19000", f"Path[{path}] is wrong: the file does not exist or cannot be read.")
    check_path(os.path.realpath(path), parameter)
    if not os.access(path, os.R_OK):
        raise AtcError("E19003", f"Read file[{path}] failed: no permission.")


def check_aipp(flags: dict):
    """Return the settings of the --insert_op_conf file, None without one; raises AtcError."""
    path = flags["insert_op_conf"]
    if not path:
        return None
    check_input_path(path, "--insert_op_conf")
    if flags["input_format"] != "NCHW":
        raise invalid(flags["input_format"], "--input_format", "it must be NCHW with --insert_op_conf")
    try:
        return aipp.load(path)
    except aipp.AippError as error:
        raise bad_aipp(path, error) from error


def bad_aipp(path: str, error) -> AtcError:
    """Return E10052 for an aipp.AippError."""
    return AtcError("E10052", f"AIPP configuration [{path}] is invalid: {error}.")


def prepare_output(flags: dict):
    """Make the folder of --output, as the real tool does before it compiles; raises AtcError."""
    if flags["mode"] != 0:
        return
    path = flags["output"]
    check_path(path, "--output")
    if path.endswith("/"):
        raise AtcError("E10022", f"Parameter [--output]'s path [{path}] has no file name.")
    folder, target = os.path.dirname(path) or ".", path + ".om"
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise AtcError("E19006", f"Create directory[{folder}] failed: {error.strerror}.") from error
    if os.path.isdir(target) or not os.access(target if os.path.exists(target) else folder, os.W_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS) if read_only else "no permission"
        raise AtcError("E19004", f"Write file[{target}] failed: {reason}.")


# --- the model ------------------------------------------------------------------------------------------------------

def bad_model(path: str, reason: str) -> AtcError:
    """Return E19005 for a file that is not a valid model."""
    return AtcError("E19005", f"Parse file[{path}] failed: {reason}.")


def load_model(path: str):
    """Read an ONNX file without its external weights; raises AtcError."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise bad_model(path, "not an ONNX model") from error


def check_model(path: str, model, opsets=OPSETS):
    """Raise AtcError unless `model` has one of `opsets` as its only one, and no float64."""
    from onnx import TensorProto

    if not model.graph.input or not model.graph.node:
        raise bad_model(path, "not an ONNX model, or an empty one")
    if len(model.opset_import) != 1:
        raise AtcError("E16005", f"The model has [{len(model.opset_import)}] [--domain_version] fields, but only one "
                                 "is allowed.")
    opset = model.opset_import[0]
    for node in model.graph.node:
        domain = node.domain or opset.domain
        if opset.version not in opsets or domain not in DEFAULT_DOMAINS:
            raise AtcError("E19010", f"No parser is registered for Op [{node.name}, optype "
                                     f"[{domain or 'ai.onnx'}::{opset.version}::{node.op_type}]].")
    types = [(tensor.name, tensor.data_type) for tensor in model.graph.initializer]
    types += [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input]
    for name, dtype in types:
        if dtype == TensorProto.DOUBLE:
            raise AtcError("EZ3003", f"No supported Ops kernel and engine are found for [{name}], optype [Data]: "
                                     "float64.")


def dims_of(value) -> list:
    """Return the dims of an ONNX input or output, -1 for each that is symbolic or unknown."""
    return [dim.dim_value if dim.dim_value > 0 else -1 for dim in value.type.tensor_type.shape.dim]


def resolve_inputs(path: str, model, shapes: dict, dynamic=False) -> dict:
    """Return {input: dims} of the graph after --input_shape; raises AtcError.

    A remaining -1 is reported before an unknown name, so a misspelt name on a graph with a dynamic batch is reported
    as a missing --input_shape.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    graph = {value.name: dims_of(value) for value in model.graph.input if value.name not in weights}
    resolved = {name: shapes.get(name, dims) for name, dims in graph.items()}
    for name, dims in resolved.items():
        if -1 in dims and not dynamic:
            raise invalid(-1, name, "maybe you should set input_shape to specify its shape")
    for name in shapes:
        if name not in graph:
            raise AtcError("E10016", f"Opname [{name}] specified in [--input_shape] is not found in the model.")
    for name, dims in resolved.items():
        if len(dims) != len(graph[name]):
            raise AtcError("E10049", f"Dimension count [{len(dims)}] in [--input_shape] does not match the "
                                     f"[{len(graph[name])}] of [{name}].")
        if any(fixed != -1 and dim != fixed for dim, fixed in zip(dims, graph[name])):
            raise invalid(dims, name, f"the model has the fixed shape {graph[name]}")
    if not resolved or [] in resolved.values():
        raise bad_model(path, "it has no input, or one without a batch")
    return resolved


def check_nodes(model, flags: dict, inputs: dict, settings: dict):
    """Raise AtcError if --out_nodes, --input_fp16_nodes or the AIPP settings do not fit the model."""
    outputs = {f"{node.name}:{i}" for node in model.graph.node if node.name
               for i in range(len(node.output))}
    for name in flags["out_nodes"].split(";") if flags["out_nodes"] else ():
        if name not in outputs:
            raise AtcError("E10016", f"Opname [{name}] specified in [--out_nodes] is not found in the model.")
    for name in flags["input_fp16_nodes"].split(";") if flags["input_fp16_nodes"] else ():
        if name not in inputs:
            raise AtcError("E10016", f"Opname [{name}] specified in [--input_fp16_nodes] is not found in the model.")
        if flags["insert_op_conf"] and name == next(iter(inputs)):
            raise AtcError("E10034", f"Nodes (for example, [{name}]) connected to AIPP must not be of type fp16.")
    if settings:
        try:
            aipp.source_size(settings, next(iter(inputs.values())))
        except aipp.AippError as error:
            raise bad_aipp(flags["insert_op_conf"], error) from error

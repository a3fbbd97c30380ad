"""Read AIPP settings (preprocessing on the chip, --insert_op_conf), and prepend them to a host network.

`parse` and `source_size` refuse what the real atc refuses, for both of its doubles (host/contract.py). The stand-in
does static AIPP on RGB888_U8 images: channel swap, then (x - mean_chn - min_chn) * var_reci_chn for each channel, in
float32 (a chip computes it in fp16); `check_support` refuses the keys that ask for more.
"""
import re
from pathlib import Path

SIZE_LIMIT = 1 << 16  # bytes of a config; real ones have about 500
HEAD = re.compile(r"(?:\s|#[^\n]*(?:\n|$))*aipp_op\s*:?\s*\{")
BLANK = re.compile(r"(?:[\s,;]|#[^\n]*(?:\n|$))*")  # allowed between two pairs
PAIR = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*:\s*("[^"\n]*"|[^\s{}#:]+)')
CHANNELS = range(3)

# key: (type, default). The stand-in uses SETTINGS; REST may only have the value that changes nothing there.
SETTINGS = {
    "aipp_mode": (str, None), "input_format": (str, None), "related_input_rank": (int, 0),
    "src_image_size_w": (int, 0), "src_image_size_h": (int, 0), "rbuv_swap_switch": (bool, False),
    **{f"mean_chn_{c}": (int, 0) for c in range(4)}, **{f"min_chn_{c}": (float, 0.0) for c in range(4)},
    **{f"var_reci_chn_{c}": (float, 1.0) for c in range(4)},
}
REST = {
    "crop": (bool, False), "padding": (bool, False), "csc_switch": (bool, False), "ax_swap_switch": (bool, False),
    "load_start_pos_w": (int, 0), "load_start_pos_h": (int, 0), "crop_size_w": (int, 0), "crop_size_h": (int, 0),
    **{f"{side}_padding_size": (int, 0) for side in ("left", "right", "top", "bottom")}, "padding_value": (float, 0.0),
}
BYTES_PER_PIXEL = {"YUV420SP_U8": 1.5, "XRGB8888_U8": 4, "RGB888_U8": 3, "YUV400_U8": 1}  # the input formats
LIMITS = {**{f"mean_chn_{c}": 255 for c in CHANNELS}, "src_image_size_w": 4096, "src_image_size_h": 4096,
          **{f"{side}_padding_size": 32 for side in ("left", "right", "top", "bottom")}}
UNUSED = re.compile(r"matrix_r[0-2]c[0-2]|(input|output)_bias_[0-2]")  # of the color matrix


class AippError(Exception):
    """A fault of a config: "KEY: what is wrong"."""


def convert(key: str, text: str, kind: type):
    """Return a value of type bool, int, float or str; raises AippError naming the key."""
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        value = kind(text)
    except (KeyError, ValueError) as error:
        raise AippError(f"{key}: {text!r} is not a valid {kind.__name__}") from error
    if kind is float and not abs(value) <= 65504:  # the largest fp16
        raise AippError(f"{key}: {text} is out of range")
    return value


def read_pairs(text: str) -> dict:
    """Return {key: value as text} of the one aipp_op block; raises AippError naming line and key."""
    start = HEAD.match(text)
    if not start:
        raise AippError("it does not begin with aipp_op {")
    position, pairs = start.end(), {}
    while True:
        position = BLANK.match(text, position).end()
        if text.startswith("}", position):
            break
        pair = PAIR.match(text, position)
        line = text.count("\n", 0, position) + 1
        if not pair:
            raise AippError(f"line {line}: not \"key : value\"" if position < len(text) else "the closing } is missing")
        key = pair.group(1)
        if key not in SETTINGS and key not in REST and not UNUSED.fullmatch(key):
            raise AippError(f"line {line}: {key}: not a known key")
        if key in pairs:
            raise AippError(f"line {line}: duplicate {key}")
        pairs[key] = pair.group(2).strip('"')
        position = pair.end()
    rest = re.sub(r"#[^\n]*", "", text[position + 1:]).strip()
    if rest:
        raise AippError("more than one aipp_op: the model has one input")
    return pairs


def parse(text: str) -> dict:
    """Return the settings of a config, {key: value} with defaults; raises AippError naming an invalid key."""
    pairs = read_pairs(text)
    settings = {key: convert(key, pairs[key], kind) if key in pairs else default
                for key, (kind, default) in {**SETTINGS, **REST}.items()}
    for key in ("aipp_mode", "input_format"):
        if settings[key] is None and settings["aipp_mode"] != "dynamic":
            raise AippError(f"{key} is missing")
    if settings["aipp_mode"] != "static":
        raise AippError(f"aipp_mode: {settings['aipp_mode']}: not supported, only static is")
    if settings["input_format"] not in BYTES_PER_PIXEL:
        raise AippError(f"input_format: {settings['input_format']} is not one of {', '.join(BYTES_PER_PIXEL)}")
    if settings["related_input_rank"] != 0:
        raise AippError(f"related_input_rank: {settings['related_input_rank']}: the model has one input, 0")
    for key, limit in LIMITS.items():
        if not 0 <= settings[key] <= limit:
            raise AippError(f"{key}: {settings[key]} is not between 0 and {limit}")
    for channel in CHANNELS:
        if settings[f"var_reci_chn_{channel}"] == 0:
            raise AippError(f"var_reci_chn_{channel}: 0 would blank the image")
    return settings


def source_size(settings: dict, dims: list) -> tuple:
    """Return (width, height) of the images for an input of shape `dims`; raises AippError if they do not fit it."""
    if len(dims) != 4:
        raise AippError(f"the model's input must be (N, C, H, W), not {dims}")
    sizes = []
    for axis, side, before, after in (("w", dims[3], "left", "right"), ("h", dims[2], "top", "bottom")):
        key = f"src_image_size_{axis}"
        source = settings[key]
        if not source and (settings["crop"] or settings["padding"]):
            raise AippError(f"{key} is missing: crop and padding need it")
        source = source or side
        length = source
        if settings["crop"]:
            length = settings[f"crop_size_{axis}"] or side
            if not 0 <= settings[f"load_start_pos_{axis}"] <= source - length:
                raise AippError(f"{key}: {source} ends before the crop does")
        if settings["padding"]:
            length += settings[f"{before}_padding_size"] + settings[f"{after}_padding_size"]
        if length != side:
            raise AippError(f"{key}: {source}, but the model reads {side} after crop and padding")
        sizes.append(source)
    if sizes[0] < 2 or settings["input_format"] == "YUV420SP_U8" and (sizes[0] % 2 or sizes[1] % 2):
        raise AippError(f"images of {sizes[0]} x {sizes[1]}: {settings['input_format']} does not have this size")
    return tuple(sizes)


def check_support(settings: dict) -> dict:
    """Return the settings that the stand-in uses; raises AippError for one that it does not support."""
    for key, (_, neutral) in REST.items():
        if settings[key] != neutral:
            raise AippError(f"{key}: {str(settings[key]).lower()}: not supported by the CPU stand-in")
    if settings["input_format"] != "RGB888_U8":
        raise AippError(f"input_format: {settings['input_format']}: not supported by the CPU stand-in, which does "
                        "RGB888_U8")
    return {key: settings[key] for key in SETTINGS}


def load(path: str) -> dict:
    """Read a config file; raises AippError."""
    data = Path(path).read_bytes()
    if len(data) > SIZE_LIMIT:
        raise AippError(f"{len(data)} bytes are too many for an AIPP config")
    return parse(data.decode("utf-8", "replace"))


def apply(openvino, model, settings: dict):
    """Return the model with a uint8 (N, H, W, 3) input and the settings' arithmetic in front; raises AippError.

    `model` is an openvino.Model with one static float32 (N, 3, H, W) input of source_size.
    """
    from openvino.preprocess import ColorFormat, PrePostProcessor

    shape = list(model.inputs[0].shape)
    if len(model.inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise AippError(f"RGB888_U8 needs a model with one input (N, 3, H, W), not {shape}")
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC")) \
        .set_color_format(ColorFormat.RGB)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    chain = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    if settings["rbuv_swap_switch"]:
        chain = chain.reverse_channels()
    chain.mean([float(settings[f"mean_chn_{c}"] + settings[f"min_chn_{c}"]) for c in CHANNELS])
    steps.input().preprocess().scale([1.0 / settings[f"var_reci_chn_{c}"] for c in CHANNELS])
    return steps.build()

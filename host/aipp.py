"""AIPP for the host atc: read the --insert_op_conf file, and put what it asks for in front of the network.

Static AIPP on RGB888_U8 images is done: channel swap, then (x - mean_chn - min_chn) * var_reci_chn for each
channel, in float32 (a chip computes it in fp16). Keys that ask for more are refused by name.
"""
import re
from pathlib import Path

SIZE_LIMIT = 1 << 16  # bytes of a config; real ones have about 500
HEAD = re.compile(r"(?:\s|#[^\n]*(?:\n|$))*aipp_op\s*:?\s*\{")
BLANK = re.compile(r"(?:[\s,;]|#[^\n]*(?:\n|$))*")  # what may stand between two pairs
PAIR = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*:\s*("[^"\n]*"|[^\s{}#:]+)')
CHANNELS = range(3)

# key: (type, default). Those in NEUTRAL may only be written with the value that changes nothing.
SETTINGS = {
    "aipp_mode": (str, None), "input_format": (str, None), "related_input_rank": (int, 0),
    "src_image_size_w": (int, 0), "src_image_size_h": (int, 0), "rbuv_swap_switch": (bool, False),
    **{f"mean_chn_{c}": (int, 0) for c in range(4)}, **{f"min_chn_{c}": (float, 0.0) for c in range(4)},
    **{f"var_reci_chn_{c}": (float, 1.0) for c in range(4)},
}
NEUTRAL = {
    "crop": (bool, False), "padding": (bool, False), "csc_switch": (bool, False), "ax_swap_switch": (bool, False),
    "load_start_pos_w": (int, 0), "load_start_pos_h": (int, 0), "crop_size_w": (int, 0), "crop_size_h": (int, 0),
    **{f"{side}_padding_size": (int, 0) for side in ("left", "right", "top", "bottom")}, "padding_value": (float, 0.0),
}
UNUSED = re.compile(r"matrix_r[0-2]c[0-2]|(input|output)_bias_[0-2]")  # of the colour matrix, which is off


class AippError(Exception):
    """What is wrong with a config, in words."""


def convert(key: str, text: str, kind: type):
    """A value of type bool, int, float or str; raises AippError naming the key."""
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        value = kind(text)
    except (KeyError, ValueError) as error:
        raise AippError(f"{key}: {text!r} is no {kind.__name__}") from error
    if kind is float and not abs(value) <= 65504:  # the largest fp16
        raise AippError(f"{key}: {text} is out of range")
    return value


def read_pairs(text: str) -> dict:
    """{key: value as text} of the one aipp_op block; raises AippError naming line and key."""
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
        if key not in SETTINGS and key not in NEUTRAL and not UNUSED.fullmatch(key):
            raise AippError(f"line {line}: {key}: no such key, or not supported by the CPU stand-in")
        if key in pairs:
            raise AippError(f"line {line}: {key} comes twice")
        pairs[key] = pair.group(2).strip('"')
        position = pair.end()
    rest = re.sub(r"#[^\n]*", "", text[position + 1:]).strip()
    if rest:
        raise AippError("more than one aipp_op: the CPU stand-in does one input")
    return pairs


def parse(text: str) -> dict:
    """The settings of a config, all keys of SETTINGS; raises AippError naming a key that will not do."""
    pairs = read_pairs(text)
    for key, (kind, neutral) in NEUTRAL.items():
        if key in pairs and convert(key, pairs[key], kind) != neutral:
            raise AippError(f"{key}: {pairs[key]}: not supported by the CPU stand-in")
    settings = {key: convert(key, pairs[key], kind) if key in pairs else default
                for key, (kind, default) in SETTINGS.items()}
    for key, wanted in (("aipp_mode", "static"), ("input_format", "RGB888_U8")):
        if settings[key] is None:
            raise AippError(f"{key} is missing")
        if settings[key] != wanted:
            raise AippError(f"{key}: {settings[key]}: not supported by the CPU stand-in, which does {wanted}")
    if settings["related_input_rank"] != 0:
        raise AippError(f"related_input_rank: {settings['related_input_rank']}: the model has one input, 0")
    for channel in CHANNELS:
        if not 0 <= settings[f"mean_chn_{channel}"] <= 255:
            raise AippError(f"mean_chn_{channel}: {settings[f'mean_chn_{channel}']} is not within 0 and 255")
        if settings[f"var_reci_chn_{channel}"] == 0:
            raise AippError(f"var_reci_chn_{channel}: 0 leaves nothing of the image")
    return settings


def load(path: str) -> dict:
    """Read a config file; raises AippError."""
    data = Path(path).read_bytes()
    if len(data) > SIZE_LIMIT:
        raise AippError(f"{len(data)} bytes are no AIPP config")
    return parse(data.decode("utf-8", "replace"))


def apply(openvino, model, settings: dict):
    """The model with a uint8 (N, H, W, 3) input and the settings' arithmetic in front; raises AippError.

    `model` is an openvino.Model with one static float32 (N, 3, H, W) input.
    """
    from openvino.preprocess import ColorFormat, PrePostProcessor

    shape = list(model.inputs[0].shape)
    if len(model.inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise AippError(f"RGB888_U8 needs a model with one input (N, 3, H, W), not {shape}")
    for key, side in (("src_image_size_h", shape[2]), ("src_image_size_w", shape[3])):
        if settings[key] not in (0, side):
            raise AippError(f"{key}: {settings[key]}, but the model reads {side}, and there is no crop or padding")
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

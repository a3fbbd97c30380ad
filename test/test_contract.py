"""What atc refuses, once for both of its doubles: host/atc and the fake atc. What one refuses the other refuses too.

Both run in this process. The stand-in's compile_model is left out: by then it has accepted the command line.
"""
import itertools
import os
import random
import re
import sys
from collections import namedtuple

from conftest import SUITE
from host.contract import FAILED, FLAGS, START, SUCCESS
from test_fake_cann import ATC as FAKE
from test_fake_cann import load, make_onnx

import onnx
import pytest
from onnx import TensorProto

HOST = load(SUITE / "host/atc")
DOUBLES = ("host", "fake")
LIMIT = re.compile("E[0-9]{5}: .*the (CPU stand-in|fake atc) ?")  # a double's own limit, not the contract's
AIPP = "aipp_op { aipp_mode: static input_format: RGB888_U8 %s }"

Result = namedtuple("Result", "status code out err")


@pytest.fixture
def atc(tmp_path, monkeypatch, capsys):
    """Call a double with a good command line changed by keywords (None drops a flag), in a folder with tiny.onnx."""
    for name in [name for name in os.environ if name.startswith("FAKE_CANN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HOST, "compile_model", lambda *_: {"openvino": "0", "precision": "f32"})
    make_onnx("tiny.onnx")

    def run(double, *more, **changes):
        flags = {"framework": 5, "model": "tiny.onnx", "output": "tiny", "input_shape": "image:1,3,4,5",
                 "soc_version": "Ascend310", **changes}
        words = ["atc", *(f"--{k}={v}" for k, v in flags.items() if v is not None), *more]
        monkeypatch.setattr(sys, "argv", words)
        try:
            status = HOST.main() if double == "host" else FAKE.main(words)
        except SystemExit as end:  # of gflags: the message, for stderr and status 1
            print(end.code, file=sys.stderr)
            status = 1
        out, err = capsys.readouterr()
        code = next((line for line in out.splitlines() if re.match("E[0-9Z]", line)), "")
        return Result(status, code, out, err)
    return run


REFUSED = [
    ("E10001", {"mode": 2}),
    ("E19999", {"mode": 1}),
    ("E10007", {"framework": None}),
    ("E10007", {"framework": 7}),
    ("E19999", {"framework": 3}),
    ("E10004: Value for [--model] is empty.", {"model": ""}),
    ("E10004", {"output": None}),
    ("E10054", {"soc_version": ""}),
    ("E10001", {"soc_version": "ascend310"}),
    ("E10001", {"soc_version": "Ascend310P"}),
    ("E10001", {"input_format": "nchw"}),
    ("E10001", {"input_format": "NHWC"}),
    ("E10001", {"precision_mode": "fp16"}),
    ("E10001", {"precision_mode": "force_fp32"}),
    ("E10001", {"precision_mode": ""}),
    ("E10001", {"output_type": "FP64"}),
    ("E10001", {"output_type": "MatMul_1:0:FP16"}),
    ("E10001", {"buffer_optimize": "on"}),
    ("E10001", {"op_select_implmode": "fast"}),
    ("E10001", {"auto_tune_mode": "XX"}),
    ("E10006", {"enable_small_channel": 2}),
    ("E10006", {"disable_reuse_memory": 2}),
    ("E19000", {"model": "missing.onnx"}),
    ("E19000", {"model": "."}),
    ("E19000: Path[missing.cfg]", {"insert_op_conf": "missing.cfg"}),
    ("E10022", {"output": "dir/"}),
    ("E10001", {"output": "a b"}),
    ("E10001", {"output": "a+b"}),
    ("E19006", {"output": "tiny.onnx/x"}),
    ("E10002", {"input_shape": "1,3,4,5"}),
    ("E10002", {"input_shape": "image:"}),
    ("E10002", {"input_shape": ":1,3,4,5"}),
    ("E10002", {"input_shape": "image:1.0,3,4,5"}),
    ("E10002", {"input_shape": "image:1x,3,4,5"}),
    ("E10002", {"input_shape": "image:1,3,4,5;"}),
    ("E10014", {"input_shape": "image:N,3,4,5"}),
    ("E10014", {"input_shape": "image:1,,4,5"}),
    ("E10013", {"input_shape": "image:9223372036854775808,3,4,5"}),
    ("E10013", {"input_shape": f"image:{'9' * 10_000},3,4,5"}),
    ("E10011", {"input_shape": "image:0,3,4,5"}),
    ("E10011", {"input_shape": "image:-1,3,4,5"}),
    ("E10001: Value [-1] for parameter [image] is invalid. Reason: maybe you should set input_shape to specify its "
     "shape.", {"input_shape": None}),
    ("E10001: Value [-1] for parameter [image]", {"input_shape": "img:1,3,4,5"}),
    ("E10016: Opname [extra]", {"input_shape": "image:1,3,4,5;extra:1"}),
    ("E10049", {"input_shape": "image:1,3,20"}),
    ("E10001", {"input_shape": "image:1,3,5,5"}),
    ("E10009", {"dynamic_batch_size": "1,4", "dynamic_dims": "1;4"}),
    ("E10004", {"dynamic_batch_size": "1,4", "input_shape": None}),
    ("E10031", {"dynamic_batch_size": "1,4"}),
    ("E10018", {"dynamic_batch_size": "1,4", "input_shape": "image:-1,3,-1,5"}),
    ("E10011", {"dynamic_batch_size": "1,4", "input_shape": "image:-2,3,4,5"}),
    ("E10035", {"dynamic_batch_size": "4", "input_shape": "image:-1,3,4,5"}),
    ("E10039", {"dynamic_batch_size": "4,4", "input_shape": "image:-1,3,4,5"}),
    ("E10001", {"dynamic_batch_size": "1;4", "input_shape": "image:-1,3,4,5"}),
    ("E10016: Opname [img]", {"dynamic_batch_size": "1,4", "input_shape": "img:-1,3,4,5"}),
    ("E10001", {"dynamic_dims": "1;4", "input_shape": "image:-1,3,4,5"}),
    ("E10001", {"dynamic_dims": "1;4", "input_shape": "image:-1,3,4,5", "input_format": "ND",
                "insert_op_conf": "aipp.cfg"}),
    ("E10016: Opname [Nope:0]", {"out_nodes": "Nope:0"}),
    ("E10016: Opname [img]", {"input_fp16_nodes": "img"}),
    ("E10034", {"insert_op_conf": "aipp.cfg", "input_fp16_nodes": "image"}),
    ("E10001: Value [ND] for parameter [--input_format]", {"insert_op_conf": "aipp.cfg", "input_format": "ND"}),
]


@pytest.mark.parametrize("double", DOUBLES)
@pytest.mark.parametrize(("code", "changes"), REFUSED)
def test_a_bad_command_line_is_refused(atc, tmp_path, code, changes, double):
    (tmp_path / "aipp.cfg").write_text(AIPP % "")
    result = atc(double, **changes)
    assert (result.status, result.err) == (255, "")
    assert result.out.splitlines()[:2] == [START, FAILED]
    assert result.out.splitlines()[2].startswith(code)
    assert not list(tmp_path.rglob("*.om"))


@pytest.mark.parametrize("double", DOUBLES)
def test_a_bad_log_level_is_reported_before_the_failure(atc, double):
    text = "E10010: invalid value for --log:loud, only support debug, info, warning, error, null"
    assert atc(double, log="loud")[::2] == (255, f"{START}\n{text}\n{FAILED}\n")


@pytest.mark.parametrize("double", DOUBLES)
@pytest.mark.parametrize(("word", "message"), [
    ("--input-shape=image:1", "ERROR: unknown command line flag 'input-shape'"),
    ("---mode=0", "ERROR: unknown command line flag '-mode'"),
    ("--output", "ERROR: flag 'output' is missing its argument"),
    ("--framework=onnx", "ERROR: illegal value 'onnx' specified for int32 flag 'framework'"),
])
def test_gflags_refuses_a_flag_with_status_1(atc, tmp_path, word, message, double):
    assert atc(double, word) == (1, "", START + "\n", message + "\n")
    assert not list(tmp_path.glob("*.om"))


@pytest.mark.parametrize("double", DOUBLES)
def test_a_blank_after_equals_is_an_empty_value(atc, double):
    assert atc(double, "--model=", "tiny.onnx").code == "E10004: Value for [--model] is empty."


@pytest.mark.parametrize("changes", [
    {}, {"log": "debug"}, {"input_format": "ND"}, {"input_shape": " image : 1, 3 ,4,5"}, {"soc_version": "Ascend310P3"},
    {"soc_version": "Ascend710"}, {"soc_version": "Ascend910B4-1"}, {"soc_version": "Ascend950DT"},
    {"output_type": "FP32"}, {"precision_mode": "must_keep_origin_dtype"},
    {"precision_mode": "allow_mix_precision", "auto_tune_mode": "RL,GA"}, {"output": "new/dir/x.om"},
    {"disable_reuse_memory": 1, "enable_small_channel": 1, "op_select_implmode": "high_precision"},
])
def test_both_accept(atc, changes):
    for double in DOUBLES:
        assert SUCCESS in atc(double, **changes).out


@pytest.mark.parametrize("changes", [
    {"output_type": "FP16"}, {"out_nodes": "MatMul_1:0"}, {"out_nodes": "MatMul_1:0", "output_type": "MatMul_1:0:FP16"},
    {"dynamic_batch_size": "1,4", "input_shape": "image:-1,3,4,5"}, {"input_fp16_nodes": "image"}, {"mode": 3},
])
def test_only_the_fake_does(atc, changes):
    assert atc("fake", **changes).status == 0
    assert re.match("E19999: the CPU stand-in ", atc("host", **changes).code)


def test_only_the_stand_in_does(atc):
    """What a later CANN has: see host/contract.py."""
    assert atc("host", precision_mode_v2="mixed_bfloat16").status == 0
    assert atc("fake", precision_mode_v2="mixed_bfloat16").err == ("ERROR: unknown command line flag "
                                                                   "'precision_mode_v2'\n")
    make_onnx("tiny.onnx", opsets=[("", 18)])
    assert atc("host").status == 0
    assert atc("fake").code == "E19010: No parser is registered for Op [Flatten_0, optype [ai.onnx::18::Flatten]]."


# --- models ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("code", "model"), [
    ("E16005: The model has [2] [--domain_version] fields, but only one is allowed.",
     {"opsets": [("", 11), ("ai.onnx.ml", 2)]}),
    ("E19010: No parser is registered for Op [Flatten_0, optype [ai.onnx::7::Flatten]].", {"opsets": [("", 7)]}),
    ("E19010", {"opsets": [("", 19)]}),
    ("E19010", {"opsets": [("my.ops", 11)]}),
    ("EZ3003", {"dtype": TensorProto.DOUBLE}),
])
def test_a_model_that_atc_cannot_read(atc, tmp_path, code, model):
    make_onnx("tiny.onnx", **model)
    for double in DOUBLES:
        result = atc(double)
        assert (result.status, result.code[:len(code)]) == (255, code)
        assert not list(tmp_path.glob("*.om"))


@pytest.mark.parametrize("data", [b"", b"no protobuf at all"])
def test_a_file_that_is_not_onnx(atc, tmp_path, data):
    (tmp_path / "tiny.onnx").write_bytes(data)
    for double in DOUBLES:
        assert atc(double).code.startswith("E19005: Parse file[tiny.onnx] failed: not an ONNX model")


def test_an_input_without_a_batch(atc):
    model = onnx.load("tiny.onnx")
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    onnx.save(model, "tiny.onnx")
    for double in DOUBLES:
        assert atc(double, input_shape=None).code.startswith("E19005")


def test_a_static_model_needs_no_input_shape(atc):
    make_onnx("tiny.onnx", batch=2)
    for double in DOUBLES:
        assert atc(double, input_shape=None).status == 0
        assert atc(double, input_shape="img:2,3,4,5").code.startswith("E10016: Opname [img]")
        assert atc(double, input_shape="image:4,3,4,5").code.startswith("E10001")


@pytest.mark.parametrize("folder", ["with blank", "a+b", "a@b", "a~"])
def test_the_model_path_is_judged_as_resolved(atc, tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / "tiny.onnx").rename(tmp_path / folder / "real.onnx")
    (tmp_path / "link.onnx").symlink_to(tmp_path / folder / "real.onnx")
    for double in DOUBLES:
        assert re.match(r"E10001: .*chinese character", atc(double, model="link.onnx").code)


def test_chinese_paths(atc):
    make_onnx("\u6a21\u578b.onnx")
    for double in DOUBLES:
        assert atc(double, model="\u6a21\u578b.onnx", output="\u6a21\u578b").status == 0


# --- AIPP -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "message"), [
    (AIPP % "\n\nresize: true", "line 3: resize: not a known key"),
    (AIPP % "mean_chn_0: 127.5", "mean_chn_0: '127.5' is not a valid int"),
    (AIPP % "mean_chn_0: 300", "mean_chn_0: 300 is not between 0 and 255"),
    (AIPP % "min_chn_0: nan", "min_chn_0: nan is out of range"),
    (AIPP % "min_chn_0: 1 min_chn_0: 2", "duplicate min_chn_0"),
    (AIPP % "var_reci_chn_1: 0", "var_reci_chn_1: 0 would blank"),
    (AIPP % "src_image_size_w: 16", "src_image_size_w: 16, but the model reads 5"),
    (AIPP % "src_image_size_h: 5000", "src_image_size_h: 5000 is not between"),
    (AIPP % "related_input_rank: 1", "related_input_rank: 1"),
    ("aipp_op { aipp_mode: dynamic }", "aipp_mode: dynamic: not supported"),
    (AIPP.replace("888", "889") % "", "input_format: RGB889_U8 is not one of"),
    ("aipp_op { input_format: RGB888_U8 }", "aipp_mode is missing"),
    ("aipp_op { aipp_mode: static }", "input_format is missing"),
    ("aipp_op { aipp_mode: static", "the closing } is missing"),
    ("aipp_op { aipp_mode = static }", "line 1: not"),
    (AIPP % "" + AIPP % "", "more than one aipp_op"),
    ("", "does not begin with aipp_op"),
])
def test_a_bad_aipp_config_is_refused_by_key(atc, tmp_path, text, message):
    (tmp_path / "aipp.cfg").write_text(text)
    for double in DOUBLES:
        code = atc(double, insert_op_conf="aipp.cfg").code
        assert code.startswith("E10052: AIPP configuration [aipp.cfg] is invalid: ")
        assert message in code


@pytest.mark.parametrize(("more", "message"), [
    ("", "does not have this size"),  # of an odd width
    ("src_image_size_w: 8 src_image_size_h: 6 crop: true load_start_pos_w: 4", "ends before the crop does"),
    ("crop: true", "crop and padding need it"),
    ("src_image_size_w: 4 src_image_size_h: 4 padding: true left_padding_size: 33", "is not between 0 and 32"),
    ("src_image_size_w: 4 src_image_size_h: 4 padding: true left_padding_size: 1", None),
    ("src_image_size_w: 8 src_image_size_h: 6 crop: true load_start_pos_w: 2", None),
])
def test_sizes_of_yuv_images(atc, tmp_path, more, message):
    """The stand-in refuses this input format; the fake atc, like the real one, checks sizes, crop and padding."""
    (tmp_path / "aipp.cfg").write_text(AIPP.replace("RGB888_U8", "YUV420SP_U8") % more)
    assert atc("host", insert_op_conf="aipp.cfg").code.startswith("E10052")
    result = atc("fake", insert_op_conf="aipp.cfg")
    assert (result.code.startswith("E10052") and message in result.code) if message else result.status == 0


# --- cross-check ----------------------------------------------------------------------------------------------------

VALUES = {  # a few legal and illegal values of each flag
    "mode": (1, 2, 3), "framework": (None, 0, 2, 3), "model": ("", "missing.onnx", "a b.onnx", "static.onnx",
                                                                  "opset19.onnx", "double.onnx", "aipp.cfg"),
    "output": ("", "x/", "a b", "x.om", "tiny.onnx/x"), "input_format": ("", "ND", "NHWC"),
    "input_shape": (None, "image:1,3,4,5;", "image:-1,3,4,5", "img:1,3,4,5", "image:x,3,4,5", "image:1,3,4",
                    "image:1,3,4,6", "image:+1,3,4,5", "image:-,3,4,5", "image:1e3,3,4,5", "image:1,3,4,5;b:2", ";"),
    "dynamic_batch_size": ("1,4", "4", "4,4", "x"), "dynamic_image_size": ("4,5;8,8",), "dynamic_dims": ("1;4",),
    "soc_version": ("", "Ascend910B4", "Ascend310P", "ASCEND310"), "log": ("debug", "", "loud"),
    "insert_op_conf": ("aipp.cfg", "bad.cfg", "missing.cfg"), "enable_small_channel": (1, 2, -1, "x"),
    "output_type": ("FP32", "FP16", "fp16", "MatMul_1:0:FP16"), "out_nodes": ("MatMul_1:0", "Flatten_0:0", "Nope"),
    "precision_mode": ("", "force_fp16", "force_fp32", "must_keep_origin_dtype", "cube_fp16in_fp32out", "XX"),
    "op_select_implmode": ("high_precision", "XX"), "auto_tune_mode": ("RL", "RL,GA", "XX"),
    "buffer_optimize": ("", "off_optimize", "XX"), "disable_reuse_memory": (1, 2), "input_fp16_nodes": ("image", "x"),
    "check_report": ("report.json",), "om": ("x.om",), "json": ("x.json",), "weight": ("w",), "help": ("true", "XX"),
}


def combinations():
    """Each value alone, and 600 of the pairs of two flags' values, which show the order of the checks."""
    singles = [{name: value} for name, values in VALUES.items() for value in values]
    pairs = [{**a, **b} for a, b in itertools.combinations(singles, 2) if a.keys() != b.keys()]
    return singles + random.Random(0).sample(pairs, 600)


def test_what_one_double_refuses_the_other_refuses(atc, tmp_path):
    """With the same code, except for each one's own limits, which it names and checks last."""
    assert VALUES.keys() - FLAGS.keys() == {"weight"} and not FLAGS.keys() - VALUES.keys()
    (tmp_path / "aipp.cfg").write_text(AIPP % "")
    (tmp_path / "bad.cfg").write_text(AIPP % "mean_chn_0: 127.5")
    make_onnx("a b.onnx")
    make_onnx("static.onnx", batch=1)
    make_onnx("opset19.onnx", opsets=[("", 19)])
    make_onnx("double.onnx", dtype=TensorProto.DOUBLE)
    codes, different = set(), []
    for changes in combinations():
        results = host, fake = [atc(double, **changes) for double in DOUBLES]
        codes |= {result.code[:6] for result in results}
        limits = [bool(LIMIT.match(result.code)) for result in results]
        outcomes = {(result.status, result.code, result.err) for result, limit in zip(results, limits) if not limit}
        accepted = {(0, "", "")}
        if len(outcomes) > 1 or (any(limits) and not outcomes <= accepted):
            different.append((changes, host[:2], fake[:2]))
    assert not different
    assert len(codes) > 18  # the values reach most of the checks

"""fp16 on the CPU: every rounding against numpy's float16, overflow; and precision.py, of fp16, bf16 and int8.

in_pytorch(), another emulation of the whole network, is what test_default_job.py holds the demo's answers against.
"""
import json
import re
import sys

from common.cli import import_openvino
from common.files import hash_of
from conftest import CLASSES, SIDE, SUITE, run, small_model
from host import amct, deploy, om, precision

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


def in_openvino(build, *arrays):
    """build(outputs...) of the arrays, compiled and run as host/benchmark does."""
    openvino = import_openvino()
    parameters = [openvino.opset13.parameter(array.shape, np.float32) for array in arrays]
    model = openvino.Model([openvino.opset13.result(build(openvino, *[p.output(0) for p in parameters]))], parameters)
    return openvino.Core().compile_model(model, "CPU", om.engine_config(om.EMULATED))(arrays)[0]


def as_half(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


# ---- one rounding

INFER = SUITE / "tools/infer.py"
HALVES = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)  # all that are finite, from 0
MIDDLES = (HALVES[:-1] + HALVES[1:]) / 2  # exact in float32
VALUES = {
    "every fp16 number": HALVES,
    "every middle between two": MIDDLES,  # ties
    "just below the middles": np.nextafter(MIDDLES, np.float32(0)),
    "just above the middles": np.nextafter(MIDDLES, np.float32(1e9)),
    "sums of two fp16 numbers": HALVES + np.random.default_rng(0).permutation(HALVES),
    "around the largest": np.array([65503, 65504, 65519.996, 65520, 65535, 65536, 1e10, 3.4e38, np.inf], "f4"),
    "around the smallest": np.float32(2.0) ** np.arange(-149, -13, dtype=np.float32) * np.float32(1.5),
    "any": np.random.default_rng(1).integers(0, 0x7F800000, 300_000, dtype=np.uint32).view(np.float32),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_rounding_is_numpys(kind, sign):
    values = sign * VALUES[kind]
    np.testing.assert_array_equal(in_openvino(precision.rounded, values), as_half(values))


def test_nan_stays_nan():
    assert np.isnan(in_openvino(precision.rounded, np.array([np.nan], "f4"))).all()


def test_a_rounding_survives_among_other_arithmetic():
    """Where an engine may fuse what is before and after it: a sum, a product, a relu, and twice in a row."""
    a, b = np.random.default_rng(2).normal(0, 3, (2, 5000)).astype("f4")

    def build(openvino, x, y):
        op = openvino.opset13
        total = precision.rounded(openvino, op.add(x, y).output(0))
        scaled = precision.rounded(openvino, op.relu(op.multiply(total, np.float32(1.7))).output(0))
        return precision.rounded(openvino, op.subtract(scaled, y).output(0))

    expected = as_half(as_half(np.maximum(as_half(a + b) * np.float32(1.7), 0)) - b)
    np.testing.assert_array_equal(in_openvino(build, a, b), expected)


def test_constants_are_rounded():
    values = np.array([1 + 2**-12, 1e-9, 70000, -1e5, 0.1], "f4")
    np.testing.assert_array_equal(precision.round_constant(values), as_half(values))
    assert np.isinf(precision.round_constant(values)[2:4]).all()


# ---- a whole network

def atc(folder, *flags, model="m.onnx", shape=f"image:1,3,{SIDE},{SIDE}", name="m"):
    return run(SUITE / "host/atc", "--framework=5", f"--model={model}", f"--output={name}", f"--input_shape={shape}",
               "--soc_version=Ascend310", *flags, cwd=folder).stdout


def benchmark(folder, info="m.info", name="m"):
    done = run(SUITE / "host/benchmark", "-batch_size=1", f"-om_path={name}.om", f"-input_text_path={info}",
               "-output_binary", cwd=folder)
    dumps = sorted((folder / "result/dumpOutput_device0").iterdir())
    return done.stdout, np.stack([np.fromfile(path, "<f4") for path in dumps])


def in_pytorch(state, photos):
    """Logits of the photos with half weights, BatchNorm folded, and every module's output cast to half and back."""
    from common.xception import Xception

    import torch
    from PIL import Image
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from torchvision import transforms

    network = Xception().eval()
    network.load_state_dict(state)
    fold(network, fuse_conv_bn_eval)

    def half(values):
        return values.half().float()

    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = half(parameter.data)
        # blocks too: what they return is a sum; and what a ReLU in place has changed was half before
        module.register_forward_hook(lambda _, __, output: half(output))
    recipe = transforms.Compose([transforms.Resize(333), transforms.CenterCrop(299), transforms.ToTensor(),
                                 transforms.Normalize([0.5] * 3, [0.5] * 3)])
    pool = torch.nn.functional.adaptive_avg_pool2d
    torch.nn.functional.adaptive_avg_pool2d = lambda *words: half(pool(*words))  # a function, which has no hook
    try:
        with torch.inference_mode():
            return np.stack([network(half(recipe(Image.open(path).convert("RGB"))[None]))[0].numpy()
                             for path in photos])
    finally:
        torch.nn.functional.adaptive_avg_pool2d = pool


def fold(module, fuse):
    """Each BatchNorm into the convolution before it, as the exporter does."""
    import torch

    before = None
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.BatchNorm2d):
            owner, last = before
            setattr(owner, last, fuse(getattr(owner, last), child))
            setattr(module, name, torch.nn.Identity())
            before = None
        elif isinstance(child, torch.nn.Conv2d):
            before = module, name
        else:
            before = fold(child, fuse) or before
    return before


def test_the_log_says_that_the_real_tool_differs(small):
    said = atc(small)
    assert "f32, for the CPU of this machine" in said
    assert "the real atc would compute in fp16; --precision_mode=force_fp16 emulates it" in said
    assert "would compute in fp16" not in atc(small, "--precision_mode=must_keep_origin_dtype")
    assert "fp16, emulated" in atc(small, "--precision_mode_v2=fp16")
    assert "fp16, emulated" in run(sys.executable, SUITE / "host/om.py", "m.om", cwd=small).stdout


def test_uint8_tensors_are_rounded_after_aipp(small):
    """The chip's AIPP hands on fp16: with weights of one the mean of rounded values shows it."""
    model = small_model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(3, CLASSES, dtype="f4"), "weight"))
    onnx.save(model, small / "m.onnx")
    config = "aipp_op { aipp_mode: static input_format: RGB888_U8 min_chn_0: 127.5 min_chn_1: 127.5 min_chn_2: 127.5 " \
             "var_reci_chn_0: 0.0078431 var_reci_chn_1: 0.0078431 var_reci_chn_2: 0.0078431 }"
    (small / "aipp.cfg").write_text(config)
    atc(small, "--precision_mode=force_fp16", "--insert_op_conf=aipp.cfg")
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels.tofile(small / "p/u.bin")
    (small / "u.info").write_text(f"0 ./p/u.bin {SIDE} {SIDE}\n")
    _, found = benchmark(small, "u.info")
    values = as_half((pixels.astype("f4") - np.float32(127.5)) * np.float32(0.0078431))
    np.testing.assert_array_equal(found[0, :3], as_half(values.mean(axis=(0, 1), dtype="f8").astype("f4")))


def test_operators_that_end_with_a_node_that_moves_values(small):
    """Gemm with its factors and LogSoftmax are several nodes of OpenVINO's, the last of which may be a Reshape."""
    random = np.random.default_rng(2)
    constants = {"weight": random.standard_normal((3, CLASSES)).astype("f4"),
                 "bias": random.standard_normal(CLASSES).astype("f4")}
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["flat"]),
             helper.make_node("Gemm", ["flat", "weight", "bias"], ["product"], alpha=3.0, beta=0.7),
             helper.make_node("LogSoftmax", ["product"], ["class"], axis=1)]
    graph = helper.make_graph(
        nodes, "moves", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["-1", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, ["-1", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), small / "m.onnx")
    atc(small, "--precision_mode=force_fp16")
    found = benchmark(small)[1]
    np.testing.assert_array_equal(found, as_half(found))
    assert np.isfinite(found).all()


# ---- beyond the range

def overflowing_model(scale):
    """3x8x8 -> times scale ("big") -> times 1 / scale ("small") -> mean -> 6 classes: in f32 the same for any scale."""
    random = np.random.default_rng(1)
    constants = {"scale": np.array(scale, "f4"), "back": np.array(1 / scale, "f4"),
                 "weight": random.standard_normal((3, CLASSES)).astype("f4")}
    nodes = [helper.make_node("Mul", ["image", "scale"], ["big"]), helper.make_node("Mul", ["big", "back"], ["small"]),
             helper.make_node("GlobalAveragePool", ["small"], ["pooled"]),
             helper.make_node("Flatten", ["pooled"], ["flat"]),
             helper.make_node("Gemm", ["flat", "weight"], ["class"])]
    graph = helper.make_graph(
        nodes, "overflow", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["-1", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, ["-1", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def test_a_network_that_overflows_gives_infinity_as_the_chip_would(small):
    """40,000 is in fp16's range, twice as much is not; in float32 nothing happens. The driver refuses such dumps."""
    onnx.save(overflowing_model(40_000), small / "m.onnx")
    np.full((3, SIDE, SIDE), 2, "<f4").tofile(small / "p/t4.bin")
    for i in range(4):
        np.full((3, SIDE, SIDE), 1.5, "<f4").tofile(small / f"p/t{i}.bin")
    atc(small)
    assert np.isfinite(benchmark(small)[1]).all()
    atc(small, "--precision_mode=force_fp16")
    found = benchmark(small)[1]
    assert np.isfinite(found[:4]).all()
    assert not np.isfinite(found[4]).any()
    done = run(sys.executable, INFER, "m.om", "result/out", "--info=m.info", "--engine=host", cwd=small,
               status=4)
    assert "1 of 5 tensors have no complete dump (./p/t4.bin)" in done.stderr


# ---- precision.py

SCRIPT = SUITE / "tools/precision.py"


def make_work(folder, model, images=20, layout="CHW"):
    """A finished work directory of an ONNX file and random tensors of SIDE x SIDE: run.json, bins, details, dumps."""
    from test_report import add_dumps, make_run

    random = np.random.default_rng(4)
    names = [f"img_{i:05}" for i in range(images)]
    tensors = random.integers(0, 256, (images, 3, SIDE, SIDE), dtype=np.uint8)
    values = ((tensors.astype("f4") / np.float32(255) - np.float32(0.5)) / np.float32(0.5))
    openvino = import_openvino()
    network = openvino.Core().compile_model(openvino.Core().read_model(model.SerializeToString()), "CPU",
                                            {"INFERENCE_PRECISION_HINT": "f32"})
    logits = np.concatenate([network(value[np.newaxis])[0] for value in values])
    recipe = {"resize": 9, "crop": SIDE, "interpolation": "bilinear", "dtype": "float32", "layout": "CHW", "mean": 0.5,
              "std": 0.5}
    if layout == "HWC":
        recipe.update(dtype="uint8", layout="HWC")
    import hashlib

    data = model.SerializeToString()
    make_run(folder, logits.argmax(axis=1), logits, names, ("1",), recipe=recipe,
             onnx={"file": "m.onnx", "sha256": hashlib.sha256(data).hexdigest()})
    (folder / "m.onnx").write_bytes(data)
    add_dumps(folder, logits, names)
    (folder / "prep_dataset").mkdir()
    for name, value, pixels in zip(names, values, tensors):
        content = value if layout == "CHW" else pixels.transpose(1, 2, 0)
        (folder / f"prep_dataset/{name}.bin").write_bytes(np.ascontiguousarray(content).tobytes())
    return values, logits


def layers(out) -> dict:
    """{layer: [relative error in %, cosine, below in %, beyond]} of what was printed."""
    table = out[:out.index("top-1")].splitlines()[1:]
    return {line.split()[0]: [float(word) for word in line.split()[1:] if word != "%"] for line in table}


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_layers_against_numpy(layout, tmp_path):
    """Relative errors of input, mean and product, from bins of either kind."""
    values, logits = make_work(tmp_path / "w", small_model(), layout=layout)
    done = run(sys.executable, SCRIPT, "w", "--images=20", cwd=tmp_path)
    found = layers(done.stdout)
    assert list(found) == ["image", "pooled", "flat", "class"]
    weight = as_half(numpy_helper.to_array(small_model().graph.initializer[0]))
    halves = as_half(values)
    means = as_half(halves.mean(axis=(2, 3), dtype="f8").astype("f4"))
    classes = as_half((means.astype("f8") @ weight).astype("f4"))
    for name, exact, other in (("image", values, halves), ("class", logits, classes)):
        error = np.linalg.norm((exact - other).ravel()) / np.linalg.norm(exact.ravel())
        assert found[name][0] == pytest.approx(100 * error, abs=0.0011)
        assert found[name][3] == 0
    small = np.count_nonzero((np.abs(values) < 2**-14) & (values != 0)) / np.count_nonzero(values)
    assert found["image"][2] == pytest.approx(100 * small, abs=0.006)
    assert "top-1 changed on 0 of 20 images" in done.stdout
    page = (tmp_path / "w/precision.html").read_text()
    assert done.stdout.splitlines()[-1] == (f"{tmp_path}/w/precision.html: 20 images, 4 layers, "
                                            f"{len(page.encode()):,} bytes")
    assert "Emulated fp16: weights, input and each operator's result are rounded" in page


def test_the_layer_that_overflows_is_named(tmp_path):
    """On the user's own images, before there is a chip: 80,000 is infinite in fp16, and so is what it multiplies."""
    values, _ = make_work(tmp_path / "w", overflowing_model(80_000.0))
    done = run(sys.executable, SCRIPT, "w", cwd=tmp_path)
    found = layers(done.stdout)
    assert found["image"][3] == 0
    assert found["big"] == [np.inf, pytest.approx(np.nan, nan_ok=True), found["big"][2], values.size]  # 0 x inf: NaN
    assert found["class"][:2] == [np.inf, pytest.approx(np.nan, nan_ok=True)]
    for k in range(1, 6):
        assert re.search(rf"^top-{k} +[\d.]+ % in f32 and +0.00 % in fp16: ", done.stdout, re.MULTILINE)
    assert "top-1 changed on 20 of 20 images, the largest margin in float32 inf" in done.stdout
    assert "none: NaN" in (tmp_path / "w/precision.html").read_text()
    assert "the first infinite or NaN values are in big; an NPU would have them too" in done.stdout
    assert "the first infinite or NaN ones are in <code>big</code>" in (tmp_path / "w/precision.html").read_text()


def test_small_values_are_counted_as_below_and_lost(tmp_path):
    """1 / 80,000 squared is below 2^-25: all values of a layer become zero, and its error is 100 %."""
    model = overflowing_model(2.0**-26)
    make_work(tmp_path / "w", model)
    found = layers(run(sys.executable, SCRIPT, "w", cwd=tmp_path).stdout)
    assert found["big"][:3] == [pytest.approx(100), 0, 100]


def test_values_that_overflow_are_counted(tmp_path):
    """60,000 is in the range, and so is each input; of some of them 60,000 times their double is not."""
    model = overflowing_model(60_000.0)
    model.graph.node[0].input[0] = "twice"
    model.graph.node.insert(0, helper.make_node("Add", ["image", "image"], ["twice"]))
    values, _ = make_work(tmp_path / "w", model)
    found = layers(run(sys.executable, SCRIPT, "w", cwd=tmp_path).stdout)
    expected = np.count_nonzero(np.isinf(as_half(as_half(2 * as_half(values)) * np.float32(60_000))))
    assert 0 < expected < values.size
    assert found["big"][3] == expected


@pytest.mark.parametrize(("change", "message"), [
    (lambda chip, exact: chip, "fp16 alone explains the difference"),
    (lambda chip, exact: chip + 0.05 * np.random.default_rng(0).normal(0, 1, chip.shape),
     "(img_00000, img_00001, img_00002 and 17 more), which fp16 does not explain; check them first"),
    (lambda chip, exact: exact + 3 * (chip - exact), "3.0 times what fp16 alone explains; check recipe and weights"),
    (lambda chip, exact: exact, "closer to float32 than fp16: the NPU computed in a higher precision"),
    (lambda chip, exact: np.where(np.arange(20)[:, np.newaxis] < 9, -3 * exact, chip),
     "9 images differ more than 5 times as much as any in the emulation (img_00000, img_00001, img_00002 and 6 more)"),
    (lambda chip, exact: np.where(np.arange(20)[:, np.newaxis] == 4, np.inf, chip),
     "1 images have NaN or infinite values only there (img_00004), which fp16 does not explain"),
], ids=["as emulated", "noise", "three times", "float32", "some images", "infinite"])
def test_dumps_of_an_npu(change, message, tmp_path):
    """A chip that did what the emulation does, and some that did something else."""
    from test_report import add_dumps

    values, logits = make_work(tmp_path / "w", small_model())
    weight = as_half(numpy_helper.to_array(small_model().graph.initializer[0]))
    means = as_half(as_half(values).mean(axis=(2, 3), dtype="f8").astype("f4"))
    chip = change(as_half((means.astype("f8") @ weight).astype("f4")).astype("f8"), logits.astype("f8"))
    add_dumps(tmp_path / "npu", chip, [f"img_{i:05}" for i in range(20)])
    done = run(sys.executable, SCRIPT, "w", "--dumps=npu/result/dumpOutput_bs1", cwd=tmp_path)
    assert message in done.stdout
    exact = np.linalg.norm(logits - chip.round(6), axis=1) / np.linalg.norm(logits, axis=1)
    exact = exact[np.isfinite(exact)]
    assert f"the NPU differs from float32 by {100 * np.median(exact):.3f} %" in done.stdout
    changed = np.count_nonzero(np.where(np.isfinite(chip), chip, -np.inf).argmax(axis=1) != logits.argmax(axis=1))
    if np.isfinite(chip).all():
        assert f"its likeliest class changes on {changed} of 20 images" in done.stdout


@pytest.mark.parametrize("scale", [40_000.0, 80_000.0])
def test_an_npu_that_does_not_overflow_where_fp16_would(scale, tmp_path):
    """And one that does, as the emulation does; dumps of the CPU stand-in are not called an NPU's."""
    make_work(tmp_path / "w", overflowing_model(80_000.0))
    dumps = tmp_path / "w/result/dumpOutput_bs1"
    if scale > 65504:
        for path in dumps.iterdir():
            path.write_text("nan " * CLASSES + "\n")
    dumps.with_name("dumpOutput_bs1.json").write_text('{"engine": "host"}' if scale < 65504 else "{}")
    out = run(sys.executable, SCRIPT, "w", f"--dumps={dumps}", cwd=tmp_path).stdout
    if scale < 65504:
        assert "the CPU stand-in (not an NPU) differs" in out
        assert "20 images have NaN or infinite values only in the emulation (img_00000, img_00001, img_00002 and 17 " \
               "more): the NPU computed in a wider range than fp16 has" in out
    else:
        assert "the NPU differs" in out
        assert "fp16 alone explains the difference, with NaN or infinite values on 20 images on both sides" in out


def test_the_page_is_drawn_whole(tmp_path):
    from test_report import browse, probe

    make_work(tmp_path / "w", overflowing_model(80_000.0))
    run(sys.executable, SCRIPT, "w", cwd=tmp_path)
    assert browse(tmp_path / "w/precision.html", tmp_path)[1] == []
    for width in (500, 1200):
        seen = probe(tmp_path / "w/precision.html", tmp_path, width=width)
        assert (seen["wrong"], seen["plots"]) == ([], 1)


def test_bf16_is_measured_where_the_cpu_computes_in_it(tmp_path):
    make_work(tmp_path / "w", small_model())
    openvino = import_openvino()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tmp_path / "w/m.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    if om.effective_precision(compiled, "bf16") != "bf16":
        done = run(sys.executable, SCRIPT, "w", "--precision=bf16", cwd=tmp_path, status=4)
        assert done.stderr.startswith("precision.py: OpenVINO computes in f32 on this CPU, not in bf16; use ")
        return
    done = run(sys.executable, SCRIPT, "w", "--precision=bf16", cwd=tmp_path)
    assert "% in bf16:" in done.stdout
    assert "a preview with eight bits" in (tmp_path / "w/precision.html").read_text()


def conv_model():
    """image -> Conv, Relu, GlobalAveragePool, Flatten, Gemm -> class."""
    random = np.random.default_rng(3)
    weights = {"w": random.normal(0, 0.3, (8, 3, 3, 3)), "v": random.normal(0, 0.5, (6, 8))}
    nodes = [helper.make_node("Conv", ["image", "w"], ["maps"], "conv", pads=[1] * 4),
             helper.make_node("Relu", ["maps"], ["kept"], "relu"),
             helper.make_node("GlobalAveragePool", ["kept"], ["pooled"], "pool"),
             helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
             helper.make_node("Gemm", ["flat", "v"], ["class"], "classify", transB=1)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT,
                                                                         ["N", 3, SIDE, SIDE])],
                              [helper.make_tensor_value_info("class", TensorProto.FLOAT, ["N", 6])],
                              [numpy_helper.from_array(value.astype("f4"), name) for name, value in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def make_int8_work(folder):
    """make_work()'s, as after run_all.sh --precision int8; return its tensors, logits and deploy model."""
    values, logits = make_work(folder, conv_model())
    quantized = amct.deploy(conv_model(), ["conv", "classify"], {"image": (0.0081, 2), "flat": (0.011, -90)})[0]
    (folder / "d.onnx").write_bytes(quantized.SerializeToString())
    record = json.loads((folder / "run.json").read_text())
    record["quantization"] = {"file": "d.onnx", "sha256": hash_of(folder / "d.onnx"), "tool": "t", "images": 1,
                              "scored": 1}
    (folder / "run.json").write_text(json.dumps(record))
    return values, logits, quantized


def test_int8_has_a_noise_floor_beside_each_error(tmp_path):
    values, logits, quantized = make_int8_work(tmp_path / "w")
    done = run(sys.executable, SCRIPT, "w", "--precision=int8", "--images=20", cwd=tmp_path)
    assert done.stdout.splitlines()[0].split() == ["layer", "relative", "error", "noise", "floor", "cosine", "not",
                                                   "finite"]
    found = layers(done.stdout)
    assert list(found) == ["image", "maps", "kept", "pooled", "flat", "class"]
    session = onnxruntime.InferenceSession(deploy.to_plain(quantized).SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    other = session.run(["class"], {"image": values})[0]
    error = 100 * np.linalg.norm(logits - other) / np.linalg.norm(logits)
    assert found["class"][0] == pytest.approx(error, rel=0.02)
    assert all(0 <= noise < 0.1 * error for error, noise, *_ in list(found.values())[1:])
    page = (tmp_path / "w/precision.html").read_text()
    assert "Judge int8 by its accuracy" in page and ">noise floor<" in page


def forget_int8(folder):
    record = json.loads((folder / "run.json").read_text())
    del record["quantization"]
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("damage", "words", "message"), [
    (lambda folder: None, ["--dumps=w/npu"], "--dumps: not with int8, whose values differ from engine to engine; "),
    (lambda folder: (folder / "d.onnx").write_bytes(b"x"), [], "w/d.onnx: not the deploy model that run.json "),
    (forget_int8, [], "w: not a run in int8; run bash run_all.sh --precision int8")])
def test_what_is_no_int8_run_is_refused(damage, words, message, tmp_path):
    make_int8_work(tmp_path / "w")
    damage(tmp_path / "w")
    done = run(sys.executable, SCRIPT, "w", "--precision=int8", *words, cwd=tmp_path, status=2 if words else 3)
    assert done.stderr.splitlines()[-1].startswith(f"precision.py: {message}")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "m.onnx").write_bytes(b"x"),
     "w/m.onnx: not the file that run.json describes; rerun run_all.sh"),
    (lambda folder: (folder / "prep_dataset/img_00003.bin").unlink(),
     "w/prep_dataset/img_00003.bin: missing; rerun run_all.sh"),
    (lambda folder: (folder / "prep_dataset/img_00003.bin").write_bytes(b"x"),
     "w/prep_dataset/img_00003.bin: 1 bytes, expected 768; rerun run_all.sh"),
    (lambda folder: (folder / "run.json").unlink(),
     "w/run.json: missing, so not the work directory of a finished run of run_all.sh"),
    (lambda folder: (folder / "npu/img_00003_1.txt").unlink(),
     "w/npu: no dump of img_00003; pass dumps of the same images as WORKDIR's"),
    (lambda folder: (folder / "npu/img_00003_1.txt").write_text("1 2 3 \n"),
     "w/npu/img_00003_1.txt: 3 values, but the network has 6; of another model"),
])
def test_mismatched_inputs_are_reported_in_one_line(damage, message, tmp_path):
    make_work(tmp_path / "w", small_model())
    (tmp_path / "w/result/dumpOutput_bs1").rename(tmp_path / "w/npu")
    damage(tmp_path / "w")
    done = run(sys.executable, SCRIPT, "w", "--dumps=w/npu", cwd=tmp_path, status=3)
    assert done.stderr.splitlines()[-1] == f"precision.py: {message}"
    assert not (tmp_path / "w/precision.html").exists()


def test_a_sample_is_the_same_each_time_and_of_the_size_asked_for(tmp_path):
    make_work(tmp_path / "w", small_model())
    first, second = (run(sys.executable, SCRIPT, "w", "--images=7", cwd=tmp_path).stdout for _ in range(2))
    assert first == second
    assert "top-1 changed on 0 of 7 images" in first
    assert json.loads((tmp_path / "w/run.json").read_text())["onnx"]["file"] == "m.onnx"

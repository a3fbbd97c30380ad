"""int8: host/amct_onnx quantizes as AMCT does, host/atc reads its deploy model; both agree with other arithmetic."""
import json
import re
import subprocess

from conftest import SUITE, run
from host import amct, deploy, om

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

SHAPE = (4, 3, 16, 16)
LAYERS = ["first", "depthwise", "pointwise", "classify"]
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "first.w": RANDOM.normal(0, 0.3, (8, 3, 3, 3)), "first.b": RANDOM.normal(0, 0.5, 8),
    "depthwise.w": RANDOM.normal(0, 0.4, (8, 1, 3, 3)), "pointwise.w": RANDOM.normal(0, 0.4, (12, 8, 1, 1)),
    "pointwise.b": RANDOM.normal(0, 0.5, 12), "classify.w": RANDOM.normal(0, 0.5, (5, 12)),
    "classify.b": RANDOM.normal(0, 0.5, 5),
}
WEIGHTS["first.w"][3] = 0  # a channel of zeros


def network(opset=11):
    """Convolution, depthwise and pointwise ones with padding, mean and classifier, as Xception has them."""
    nodes = [
        helper.make_node("Conv", ["image", "first.w", "first.b"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "depthwise.w"], ["c"], "depthwise", pads=[1] * 4, group=8),
        helper.make_node("Conv", ["c", "pointwise.w", "pointwise.b"], ["d"], "pointwise"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "mean"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "classify.w", "classify.b"], ["class"], "classify", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value.astype("f4"), name) for name, value in WEIGHTS.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def images(seed):
    return np.random.default_rng(seed).uniform(-1, 1, SHAPE).astype("f4")


@pytest.fixture
def inputs(tmp_path):
    """net.onnx, and two calibration files."""
    onnx.save(network(), tmp_path / "net.onnx")
    (tmp_path / "cal").mkdir()
    for number in range(2):
        images(number).tofile(tmp_path / f"cal/img_bs4_{number}.bin")
    return tmp_path


def quantize(folder, *more, status=0, model="net.onnx", shape="image:4,3,16,16", **changed):
    options = {"save_path": "out/net", "data_dir": "cal", "data_types": "float32", **changed}
    done = run(SUITE / "host/amct_onnx", "calibration", "--model", model, "--input_shape", shape,
               *(f"--{name}={value}" for name, value in options.items()), *more, cwd=folder, status=status)
    if status:
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1
        assert not list(folder.glob("out/*"))
        return done.stderr
    return done.stdout


def atc(folder, model="out/net_deploy_model.onnx", *more, status=0):
    return run(SUITE / "host/atc", "--framework=5", f"--model={model}", "--output=m", "--input_format=NCHW",
               "--input_shape=image:4,3,16,16", "--soc_version=Ascend310", *more, cwd=folder, status=status)


def values(path, tensors, batch):
    """What onnxruntime computes for some tensors of an ONNX file."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(tensors, {"image": batch})


def test_deploy_model_has_what_amct_writes(inputs):
    assert quantize(inputs) == ("CPU stand-in for amct_onnx: 4 layers quantized with 1 batches; net_deploy_model.onnx "
                                "is for atc\n")
    model = onnx.load(inputs / "out/net_deploy_model.onnx")
    types = [node.op_type for node in model.graph.node]
    assert types == ["AscendQuant", "Conv", "AscendDequant", "Relu", "AscendQuant", "Conv", "AscendDequant",
                     "AscendQuant", "Conv", "AscendDequant", "GlobalAveragePool", "Flatten", "AscendQuant", "Gemm",
                     "AscendDequant"]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    record = json.loads((inputs / "out/net_quant.json").read_text())
    assert list(record) == LAYERS
    for layer, found in record.items():
        weight = WEIGHTS[f"{layer}.w"].astype("f4")
        largest = np.abs(weight).max(tuple(range(1, weight.ndim)) if layer != "classify" else None).reshape(-1)
        expected = np.where(largest == 0, 1, largest / 127)
        np.testing.assert_allclose(found["scale_w"], expected, rtol=1e-6)
        shape = [-1] + [1] * (weight.ndim - 1)
        assert arrays[f"{layer}.w"].dtype == np.int8
        assert np.abs(arrays[f"{layer}.w"] - weight / np.reshape(found["scale_w"], shape)).max() <= 0.5 + 1e-3
        param = arrays[f"{layer}.dequant.param"]
        assert param.dtype == np.uint64
        np.testing.assert_allclose(param.astype("u4").view("f4"), np.array(found["scale_w"]) * found["scale_d"],
                                   rtol=1e-6)
    text = (inputs / "amct_log/scale_offset_record.txt").read_text()
    assert re.findall(r'key: "(\w+)"', text) == LAYERS
    assert text.count("scale_w:") == text.count("offset_w: 0") == 8 + 8 + 12 + 1


def test_ifmr_finds_the_range_with_the_least_squared_error(inputs):
    """Against every candidate computed on the values themselves, for both kinds of offset."""
    quantize(inputs, "--batch_num=2")
    record = json.loads((inputs / "out/net_quant.json").read_text())
    for layer, tensor in zip(LAYERS, ["image", "b", "c", "f"]):
        data = np.concatenate([values(inputs / "net.onnx", [tensor], images(number))[0].ravel() for number in (0, 1)]
                              ) if tensor != "image" else np.concatenate([images(number).ravel() for number in (0, 1)])
        data = data.astype("f8")
        low, high = min(0, data.min()), max(0, data.max())  # of so few values none is outside the percentile
        errors = {}
        for ratio in np.arange(0.7, 1.3, 0.01):
            scale = (ratio * high - low) / 255
            errors[scale] = np.mean((np.round(np.clip(data, low, ratio * high) / scale) * scale - data) ** 2)
        best = min(errors, key=errors.get)
        assert record[layer]["scale_d"] == pytest.approx(best, rel=0.011)
        assert errors[min(errors, key=lambda scale: abs(scale - record[layer]["scale_d"]))] <= 1.01 * errors[best]
        assert abs(record[layer]["offset_d"] - (-round(low / record[layer]["scale_d"]) - 128)) <= 1
    (inputs / "cfg").write_text("batch_num: 2  # both\nactivation_offset: false\nskip_layers: ['pointwise']\n")
    quantize(inputs, "--calibration_config=cfg", save_path="sym/net")
    record = json.loads((inputs / "sym/net_quant.json").read_text())
    assert list(record) == ["first", "depthwise", "classify"]
    assert {layer["offset_d"] for layer in record.values()} == {0}


def test_om_of_the_deploy_model_computes_what_the_simulation_does(inputs):
    """The simulation is in onnxruntime and operators of ONNX alone; the network itself is near."""
    quantize(inputs)
    out = atc(inputs).stdout
    header = om.load(inputs / "m.om")[0]
    assert header["precision"] == (om.INT8 if om.has_int8() else om.SIMULATED)
    assert ("simulates it in float32" in out) != om.has_int8()
    batch = images(7)
    (inputs / "p").mkdir()
    for i, image in enumerate(batch):
        image.tofile(inputs / f"p/t{i}.bin")
    (inputs / "m.info").write_text("".join(f"{i} p/t{i}.bin 16 16\n" for i in range(4)))
    done = run(SUITE / "host/benchmark.x86_64", "-batch_size=4", "-om_path=m.om", "-input_text_path=m.info",
               "-output_binary", cwd=inputs)
    assert f"{header['precision']}, " in done.stdout
    found = np.stack([np.fromfile(inputs / f"result/dumpOutput_device0/t{i}_1.bin", "<f4") for i in range(4)])
    simulated = values(inputs / "out/net_fake_quant_model.onnx", ["class"], batch)[0]
    exact = values(inputs / "net.onnx", ["class"], batch)[0]
    limit = 0.1 if om.has_int8() else 0.02  # real int8 rounds elsewhere, and a value at a step's edge takes the other
    assert np.abs(found - simulated).max() < limit * np.abs(simulated).max()
    assert 1e-4 < np.abs(simulated - exact).max() / np.abs(exact).max() < 0.1


def test_same_files_at_every_run(inputs):
    quantize(inputs)
    first = {path.name: path.read_bytes() for path in (inputs / "out").iterdir()}
    quantize(inputs)
    assert {path.name: path.read_bytes() for path in (inputs / "out").iterdir()} == first


def spoil(folder, change):
    if change == "opset 13":
        onnx.save(network(13), folder / "net.onnx")
    elif change == "cut":
        (folder / "net.onnx").write_bytes((folder / "net.onnx").read_bytes()[:900])
    elif change == "size":
        (folder / "cal/img_bs4_0.bin").write_bytes(bytes(100))
    elif change == "nan":
        np.full(SHAPE, np.nan, "f4").tofile(folder / "cal/img_bs4_0.bin")
    elif change == "config":
        (folder / "cfg").write_text("override_layer_configs {\n")
    elif change == "skip":
        (folder / "cfg").write_text('skip_layers: "nothing"\n')
    elif change == "quantized":
        model = network()
        model.graph.node[0].op_type = "AscendQuant"
        onnx.save(model, folder / "net.onnx")


@pytest.mark.parametrize(("change", "options", "status", "message"), [
    ("", {"data_dir": "none"}, 3, "none: no such folder; make calibration files with tools/gen_calibration_bin.py"),
    ("", {"batch_num": 3}, 3, "cal: 2 files, fewer than --batch_num 3; make more"),
    ("size", {}, 3, "cal/img_bs4_0.bin: 100 bytes, expected 12,288 (4x3x16x16 float32)"),
    ("nan", {}, 3, "cal/img_bs4_0.bin: NaN or infinite values"),
    ("", {"data_types": "float16"}, 2, "--data_types float16: this CPU stand-in takes float32 only"),
    ("", {"evaluator": "e.py"}, 2, "--evaluator: CANN's amct_onnx alone runs one"),
    ("", {"save_path": ".."}, 2, "--save_path ..: needs a prefix"),
    ("opset 13", {}, 3, "net.onnx: no ONNX network of opset 11"), ("cut", {}, 3, "net.onnx: no ONNX network of opset"),
    ("quantized", {}, 3, "net.onnx: is quantized already; pass the network in float32"),
    ("", {"shape": "data:4,3,16,16"}, 2, "--input_shape data:4,3,16,16: the network's input is image"),
    ("config", {"calibration_config": "cfg"}, 3, "cfg:1: Message type \"AMCTConfig\" has no field named "
     "\"override_layer_configs\"; this CPU stand-in reads batch_num, "),
    ("skip", {"calibration_config": "cfg"}, 3, "cfg: skip_layers names no layer of the network: nothing"),
])
def test_what_cannot_be_quantized_is_refused(change, options, status, message, inputs):
    spoil(inputs, change)
    assert message in quantize(inputs, status=status, **options)


def test_convert_is_refused_by_name(tmp_path):
    done = run(SUITE / "host/amct_onnx", "convert", "--model=x", cwd=tmp_path, status=2)
    assert "convert is for networks that were trained with quantization: CANN's amct_onnx alone does it" in done.stderr


def without_dequant(model):
    node = next(node for node in model.graph.node if node.name == "depthwise.dequant")
    node.op_type, node.input[1:] = "Identity", []


def setting(name, value):
    def change(model):
        quant = next(node for node in model.graph.node if node.op_type == "AscendQuant")
        next(attribute for attribute in quant.attribute if attribute.name == name).f = value
    return change


def float_weights(model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "pointwise.w")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f4"), tensor.name))


def fewer_parameters(model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "first.dequant.param")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:3], tensor.name))


def other_operator(model):
    model.graph.node[3].op_type = "AscendWeightQuant"


@pytest.mark.parametrize(("change", "message"), [
    (without_dequant, "E19010: Op [depthwise] of the quantized model is invalid: it lacks its AscendDequant"),
    (setting("scale", 0.0), "Op [first.quant] of the quantized model is invalid: scale 0.0 is not above 0"),
    (setting("offset", 200.0), "offset 200.0 is not a whole number from -128 to 127"),
    (setting("offset", 1.5), "offset 1.5 is not a whole number"),
    (float_weights, "Op [pointwise] of the quantized model is invalid: it lacks its int8 weights"),
    (fewer_parameters, "Op [first] of the quantized model is invalid: its AscendDequant needs 1 or 8 uint64 param"),
    (other_operator, "E19010: No parser is registered for Op [relu, optype [ai.onnx::11::AscendWeightQuant]]"),
])
def test_a_damaged_deploy_model_is_refused_by_layer(change, message, inputs):
    quantize(inputs)
    model = onnx.load(inputs / "out/net_deploy_model.onnx")
    change(model)
    onnx.save(model, inputs / "bad.onnx")
    done = atc(inputs, "bad.onnx", status=255)
    assert message in done.stdout
    assert not (inputs / "m.om").exists()


def test_atc_refuses_what_the_real_one_does_with_a_deploy_model(inputs):
    quantize(inputs)
    for option in ("--precision_mode=must_keep_origin_dtype", "--precision_mode_v2=origin"):
        done = atc(inputs, "out/net_deploy_model.onnx", option, status=255)
        assert "is invalid: the model is quantized" in done.stdout
    data = (inputs / "out/net_deploy_model.onnx").read_bytes()
    (inputs / "cut.onnx").write_bytes(data[:len(data) // 2])
    assert "E19005" in atc(inputs, "cut.onnx", status=255).stdout


def test_shared_tensors_have_one_quant():
    model = network()
    model.graph.node.insert(4, helper.make_node("Conv", ["c", "pointwise.w", "pointwise.b"], ["unused"], "beside"))
    scales = dict.fromkeys(["image", "b", "c", "f"], (0.1, -128))
    quantized, records = amct.deploy(model, [*LAYERS, "beside"], scales)
    assert [name for name, *_ in records] == ["first", "depthwise", "pointwise", "beside", "classify"]
    assert sum(node.op_type == "AscendQuant" for node in quantized.graph.node) == 4


def test_a_link_to_it_works_as_the_tool(inputs):
    (inputs / "bin").mkdir()
    (inputs / "bin/amct_onnx").symlink_to(SUITE / "host/amct_onnx")
    done = subprocess.run(["bin/amct_onnx", "--help"], cwd=inputs, capture_output=True, text=True, check=True)
    assert "calibration" in done.stdout
    assert deploy.is_deploy(network()) is False

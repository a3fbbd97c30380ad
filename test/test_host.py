"""The CPU stand-ins: the real tools' command lines, formats and refusals, and the same numbers as PyTorch."""
import json
import os
import re
import struct
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

from common.cli import Failure, import_openvino
from common.xception import Xception
from conftest import CLASSES, SIDE, SUITE, run, small_model
from host import gflags, om

import numpy as np
import onnx
import onnxruntime
import pytest
import torch


def load_program(path):
    """A program without .py as a module."""
    loader = SourceFileLoader(path.stem, str(path))
    module = module_from_spec(spec_from_loader(path.stem, loader))
    loader.exec_module(module)
    return module


ATC, BENCHMARK = SUITE / "host/atc", SUITE / "host/benchmark.x86_64"
FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"


def atc(folder, *extra, status=0, model="m.onnx", output="m", shape=f"image:1,3,{SIDE},{SIDE}"):
    return run(ATC, "--framework=5", f"--model={model}", f"--output={output}", "--input_format=NCHW",
               f"--input_shape={shape}", "--log=error", "--soc_version=Ascend310", *extra, cwd=folder, status=status)


def benchmark(folder, *extra, status=0, batch=1, name="m"):
    return run(BENCHMARK, "-model_type=vision", "-device_id=0", f"-batch_size={batch}", f"-om_path={name}.om",
               "-input_text_path=./m.info", f"-input_width={SIDE}", f"-input_height={SIDE}", "-useDvpp=False", *extra,
               cwd=folder, status=status)


def expected_logits(folder):
    session = onnxruntime.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    tensors = np.stack([np.fromfile(folder / f"p/t{i}.bin", "<f4").reshape(3, SIDE, SIDE) for i in range(5)])
    return session.run(["class"], {"image": tensors})[0]


# --- numbers -----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def xception_of_five(work, reference_state, reference_images):
    """Five images, float32 (5, 3, 299, 299), and the logits that PyTorch and ONNX Runtime have for them."""
    images = np.concatenate([reference_images, reference_images[::-1] / 2, reference_images[:1] / 3])
    network = Xception().eval()
    network.load_state_dict(reference_state)
    with torch.inference_mode():
        pytorch = network(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(work / "xception.onnx", providers=["CPUExecutionProvider"])
    return images, pytorch, session.run(None, {"image": images})[0]


@pytest.mark.parametrize("batch", [1, 4])
def test_xception_through_atc_and_benchmark_is_pytorchs(batch, work, tmp_path, xception_of_five, reference_logits):
    images, pytorch, onnx_runtime = xception_of_five
    for i, image in enumerate(images):
        image.tofile(tmp_path / f"i{i}.bin")
    (tmp_path / "x.info").write_text("".join(f"{i} {tmp_path}/i{i}.bin 299 299\n" for i in range(len(images))))
    run(BENCHMARK, "-model_type=vision", "-device_id=2", f"-batch_size={batch}",
        f"-om_path={work}/xception_bs{batch}.om", "-input_text_path=x.info", "-input_width=299", "-input_height=299",
        "-output_binary=true", "-useDvpp=false", cwd=tmp_path)
    dumps = tmp_path / "result/dumpOutput_device2"
    found = np.stack([np.fromfile(dumps / f"i{i}_1.bin", "<f4") for i in range(len(images))])
    assert np.abs(found[:2] - reference_logits).max() <= 1e-5 * np.abs(reference_logits).max()
    assert np.abs(found - pytorch).max() <= 1e-5 * np.abs(pytorch).max()
    assert np.abs(found - onnx_runtime).max() <= 1e-5 * np.abs(pytorch).max()


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_another_classifier_as_text(batch, small):
    atc(small, shape=f"image:{batch},3,{SIDE},{SIDE}")
    benchmark(small, "-output_binary=False", batch=batch)
    names = sorted(path.name for path in (small / "result/dumpOutput_device0").iterdir())
    assert names == [f"t{i}_1.txt" for i in range(5)]  # no file for the padding of the last batch
    for i, logits in enumerate(expected_logits(small)):
        text = (small / f"result/dumpOutput_device0/t{i}_1.txt").read_text()
        assert re.fullmatch(r"(-?\d+\.\d{6} ){6}\n", text)
        np.testing.assert_allclose([float(value) for value in text.split()], logits, atol=2e-6)


def test_two_outputs_are_numbered_from_one(small):
    onnx.save(small_model(outputs=2), small / "m.onnx")
    atc(small)
    benchmark(small, "-output_binary")
    dumps = small / "result/dumpOutput_device0"
    assert len(list(dumps.iterdir())) == 10
    assert (dumps / "t0_1.bin").stat().st_size == 4 * CLASSES
    assert (dumps / "t0_2.bin").stat().st_size == 4 * 3
    np.testing.assert_allclose(np.fromfile(dumps / "t3_1.bin", "<f4"), expected_logits(small)[3], rtol=1e-5, atol=1e-6)


# --- benchmark: files, formats ----------------------------------------------------------------------------------

NUMBER = r"([0-9.e+]+|inf)"
PERF = re.compile(
    rf"\[e2e\] throughputRate: {NUMBER}, latency: {NUMBER}\n"
    rf"\[data read\] throughputRate: {NUMBER}, moduleLatency: {NUMBER}\n"
    rf"\[preprocess\] throughputRate: {NUMBER}, moduleLatency: {NUMBER}\n"
    rf"\[infer\] throughputRate: {NUMBER}, Interface throughputRate: {NUMBER}, moduleLatency: {NUMBER}\n"
    rf"\[post\] throughputRate: {NUMBER}, moduleLatency: {NUMBER}\n")


def test_perf_file_and_summary(small):
    atc(small, shape=f"image:2,3,{SIDE},{SIDE}")
    output = benchmark(small, batch=2).stdout
    text = (small / "result/perf_vision_batchsize_2_device_0.txt").read_text()
    assert "-----------------Performance Summary------------------\n" + text + "-" * 54 + "\n" in output
    values = [float(value) for value in PERF.fullmatch(text).groups()]
    e2e, latency, read, read_ms, _, _, infer, interface, _, post, post_ms = values
    assert e2e == pytest.approx(5 * 1000 / latency, rel=1e-4)  # 5 samples, ms in all
    assert read_ms == pytest.approx(1000 / read, rel=1e-4)
    assert post_ms == pytest.approx(1000 / post, rel=1e-4)
    assert e2e <= infer <= interface
    assert post <= infer / 5 * 3 * 1.01  # 3 batches for 5 samples: post counts batches


def test_perf_lines_reproduce_the_published_arithmetic():
    """The five lines of an Ascend 310, batch 1, 50,000 images, from the counts and seconds behind them."""
    program = load_program(BENCHMARK)
    lines = program.perf_lines(
        samples=50000, batches=50000, last_id=49999, e2e=462.872, reading=50000 / 111.695, inferring=50000 / 108.345,
        interface=50000 / 158.623, busy=9.01342 * 49999 / 1000, posting=50000 / 108.345)
    assert lines == (
        "[e2e] throughputRate: 108.021, latency: 462872\n"
        "[data read] throughputRate: 111.695, moduleLatency: 8.95295\n"
        "[preprocess] throughputRate: 111.695, moduleLatency: 8.95295\n"
        "[infer] throughputRate: 108.345, Interface throughputRate: 158.623, moduleLatency: 9.01342\n"
        "[post] throughputRate: 108.345, moduleLatency: 9.22978\n")
    assert program.perf_lines(1, 1, 0, 2000.0, 1.0, 1.0, 1.0, 1.0, 1.0).startswith(
        "[e2e] throughputRate: 0.0005, latency: 2e+06\n")  # six significant digits, as a C++ stream


def test_dump_text_is_golden(tmp_path):
    program = load_program(BENCHMARK)
    logits = np.array([[0.1234564, -1, 3.5, 2e-7], [100, 0.5, -0.25, 1e6]], "<f4")
    program.write_batch(["./p/a.b.bin", "c.bin"], [logits], tmp_path, binary=False)
    program.write_batch(["c.bin"], [logits[1:]], tmp_path, binary=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.b_1.txt": b"0.123456 -1.000000 3.500000 0.000000 \n",
        "c_1.txt": b"100.000000 0.500000 -0.250000 1000000.000000 \n",
        "c_1.bin": bytes.fromhex("0000c842 0000003f 000080be 00247449".replace(" ", "")),
    }


def test_pure_inference(small):
    atc(small, output="some_name_bs4", shape=f"image:4,3,{SIDE},{SIDE}")
    output = run(BENCHMARK, "-round=3", "-om_path=some_name_bs4.om", "-device_id=1", "-batch_size=4", cwd=small).stdout
    text = (small / "result/PureInfer_perf_of_some_name_bs4_in_device_1.txt").read_text()
    rate, latency = re.fullmatch(rf"ave_throughputRate = {NUMBER}samples/s, ave_latency = {NUMBER}ms\n", text).groups()
    assert float(rate) * float(latency) >= 999  # mean of rates times mean of latencies per sample
    lines = output.splitlines()
    assert [line for line in lines if re.fullmatch(rf"\[INFO\] Dataset number: \d finished cost {NUMBER}ms", line)] \
        == lines[1:4]
    assert lines[4:] == [
        "[INFO] PureInfer result saved in ./result/PureInfer_perf_of_some_name_bs4_in_device_1.txt",
        "-----------------PureInfer Performance Summary------------------",
        f"[INFO] ave_throughputRate: {rate}samples/s, ave_latency: {latency}ms",
        "-" * 64,
    ]


def test_old_dumps_stay_and_nothing_else_is_written(small):
    atc(small)
    stale = small / "result/dumpOutput_device0/stale_1.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("1 \n")
    benchmark(small)
    assert stale.read_text() == "1 \n"
    assert sorted(path.name for path in small.iterdir()) == ["m.info", "m.om", "m.onnx", "p", "result"]
    assert not list(small.rglob("*.part"))


def test_the_device_is_named(small):
    atc(small)
    line = benchmark(small).stdout.splitlines()[0]
    assert re.fullmatch(r"\[INFO\] CPU stand-in, not an NPU: OpenVINO [\d.]+, (f32|bf16), .+", line)


# --- benchmark: refusals ----------------------------------------------------------------------------------------

def refused(result) -> str:
    assert result.stdout == "" or result.stdout.startswith("[INFO] CPU stand-in"), result.stdout
    (line,) = result.stderr.splitlines()
    return line


def test_batch_other_than_the_oms(small):
    atc(small)
    line = refused(benchmark(small, batch=4, status=3))
    assert "m.om" in line
    assert "compiled for batch 1, run with -batch_size=4" in line


def test_wrong_tensor_size_is_named(small):
    atc(small)
    (small / "p/t3.bin").write_bytes(b"\0" * 10)
    line = refused(benchmark(small, status=3))
    assert "./p/t3.bin" in line
    assert "input data size don't match the model input size" in line
    assert "10 bytes" in line
    assert not (small / "result/perf_vision_batchsize_1_device_0.txt").exists()


def list_many(folder, count):
    """m.info with `count` samples u0, u1, ...: links to the five tensors."""
    for i in range(count):
        os.link(folder / f"p/t{i % 5}.bin", folder / f"p/u{i}.bin")
    (folder / "m.info").write_text("".join(f"{i} ./p/u{i}.bin {SIDE} {SIDE}\n" for i in range(count)))


def test_an_error_among_many_ends_the_run(small):
    atc(small)
    list_many(small, 3000)
    (small / "p/u7.bin").unlink()
    (small / "p/u7.bin").write_bytes(b"\0" * 10)
    assert "./p/u7.bin" in refused(benchmark(small, status=3))
    assert len(list((small / "result/dumpOutput_device0").iterdir())) < 1000  # the others were not begun


@pytest.mark.parametrize("cores", ["0", "0-999"])
def test_every_sample_once_whatever_the_cores(cores, small):
    """Several threads share the list: none is left out, and each output is its own sample's."""
    atc(small, shape=f"image:3,3,{SIDE},{SIDE}")
    list_many(small, 200)  # 66 batches of 3, and one of 2
    run("taskset", "--cpu-list", cores, BENCHMARK, "-batch_size=3", "-om_path=m.om", "-input_text_path=m.info",
        "-output_binary", cwd=small)
    dumps = small / "result/dumpOutput_device0"
    assert sorted(path.name for path in dumps.iterdir()) == sorted(f"u{i}_1.bin" for i in range(200))
    logits = expected_logits(small)
    for i in range(200):
        np.testing.assert_allclose(np.fromfile(dumps / f"u{i}_1.bin", "<f4"), logits[i % 5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("text", "message"), [
    ("0 ./p/t0.bin 8 8\n0 ./p/t1.bin 8 8\n", "m.info:2"),
    ("0 ./p/t0.bin 8\n", "m.info:1"),
    ("x ./p/t0.bin 8 8\n", "m.info:1"),
    ("", "no sample"),
])
def test_bad_info_file(text, message, small):
    atc(small)
    (small / "m.info").write_text(text)
    assert message in refused(benchmark(small, status=3))


def test_missing_tensor_is_named(small):
    atc(small)
    (small / "p/t1.bin").unlink()
    assert "./p/t1.bin: No such file" in refused(benchmark(small, status=4))


@pytest.mark.parametrize(("flag", "status", "message"), [
    ("-surplus=1", 1, "ERROR: unknown command line flag 'surplus'"),
    ("-batch_size=x", 1, "illegal value 'x' specified for int32 flag 'batch_size'"),
    ("-output_binary=perhaps", 1, "illegal value 'perhaps' specified for bool flag 'output_binary'"),
    ("-useDvpp=true", 2, "useDvpp"),
    ("-model_type=cats", 2, "invalid model_type"),
    ("-batch_size=0", 2, "invalid batch size"),
    ("-om_path=none.om", 4, "none.om: No such file"),
])
def test_bad_command_line(flag, status, message, small):
    atc(small)
    assert message in refused(benchmark(small, flag, status=status))


def test_neither_info_nor_round(small):
    atc(small)
    assert "-input_text_path" in refused(run(BENCHMARK, "-om_path=m.om", cwd=small, status=2))


def test_an_ascend_om_is_recognised(small):
    (small / "m.om").write_bytes(b"IMOD" + struct.pack("<I", 256) + b"\0" * 600)
    assert "an om for an Ascend chip" in refused(benchmark(small, status=3))


@pytest.mark.parametrize("damage", ["short", "flipped", "header", "empty", "foreign"])
def test_a_damaged_or_foreign_om(damage, small):
    atc(small)
    data = bytearray((small / "m.om").read_bytes())
    if damage == "short":
        del data[-1:]
    elif damage == "flipped":
        data[-100] ^= 1
    elif damage == "header":
        data[8:12] = b"\xff" * 4
    else:
        data = b"" if damage == "empty" else b"hello, this is text"
    (small / "m.om").write_bytes(data)
    line = refused(benchmark(small, status=3))
    assert "m.om" in line
    assert ("damaged host om" in line) == (damage in ("short", "flipped", "header"))
    assert "atc" in line


def test_om_of_another_openvino_version(small):
    atc(small)
    header, payload = om.load(small / "m.om")
    om.save(small / "m.om", dict(header, openvino="1999.1"), payload)
    assert "compiled by OpenVINO 1999.1" in refused(benchmark(small, status=3))


# --- om ---------------------------------------------------------------------------------------------------------

def test_om_header(small):
    atc(small, shape=f"image:3,3,{SIDE},{SIDE}")
    data = (small / "m.om").read_bytes()
    assert data[:8] == b"HOST-OM\n"
    (length,) = struct.unpack("<I", data[8:12])
    header = json.loads(data[12:12 + length])
    assert header["soc"] == "host-cpu"
    assert header["requested_soc"] == "Ascend310"
    assert header["batch_size"] == 3
    assert header["inputs"] == [{"name": "image", "shape": [3, 3, SIDE, SIDE], "dtype": "f32"}]
    assert header["outputs"] == [{"name": "class", "shape": [3, CLASSES], "dtype": "f32"}]
    assert header["precision"] == "f32"
    assert len(header["onnx_sha256"]) == 64
    assert header["payload_bytes"] == len(data) - 12 - length


def test_om_py_describes_and_checks(small):
    atc(small)
    tool = SUITE / "host/om.py"
    assert "m.om: complete host om, batch 1, f32" in run(sys.executable, tool, "m.om", cwd=small).stdout
    ascend = b"IMOD" + struct.pack("<I68xI", 256, 500) + b"\0" * (256 - 80 + 500)
    (small / "a.om").write_bytes(ascend)
    assert "complete om for an Ascend chip" in run(sys.executable, tool, "a.om", cwd=small).stdout
    (small / "a.om").write_bytes(ascend[:-1])
    assert "truncated" in run(sys.executable, tool, "a.om", cwd=small, status=3).stderr
    assert "No such file" in run(sys.executable, tool, "none.om", cwd=small, status=4).stderr


# --- atc --------------------------------------------------------------------------------------------------------

def test_console_of_a_success(small):
    lines = atc(small).stdout.splitlines()
    assert lines[0] == "ATC start working now, please wait for a moment."
    assert lines[-1] == "ATC run success, welcome to the next use."
    assert "not for Ascend310" in lines[1]


@pytest.mark.parametrize(("extra", "message"), [  # what the real atc refuses too: test_contract.py
    (["--mode=3"], "E19999: the CPU stand-in does --mode=0 only"),
    (["--dynamic_batch_size=1,4", f"--input_shape=image:-1,3,{SIDE},{SIDE}"], "E19999: the CPU stand-in does not "
                                                                            "support --dynamic_batch_size"),
    (["--out_nodes=pool:0"], "E19999: the CPU stand-in does not support --out_nodes"),
    (["--input_fp16_nodes=image"], "E19999: the CPU stand-in does not support --input_fp16_nodes"),
    (["--output_type=FP16"], "E19999: the CPU stand-in writes FP32 outputs only"),
    (["--precision_mode_v2=fast"], "E10001: Value [fast] for parameter [--precision_mode_v2]"),
    (["--precision_mode=force_fp16", "--precision_mode_v2=fp16"], "E10001: Value [fp16] for parameter"),
])
def test_what_the_stand_in_does_not_do_is_refused(extra, message, small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    monkeypatch.setattr(sys, "argv", ["atc", "--framework=5", "--model=m.onnx", "--output=m", "--soc_version=Ascend310",
                                      f"--input_shape=image:1,3,{SIDE},{SIDE}", *extra])
    assert load_program(ATC).main() == 255
    assert capsys.readouterr().out.startswith(f"ATC start working now, please wait for a moment.\n{FAILED}\n{message}")
    assert not list(small.glob("*.om"))


def test_om_is_always_appended_and_folders_are_made(small):
    atc(small, output="deep/er/x.om")
    assert [path.name for path in (small / "deep/er").iterdir()] == ["x.om.om"]


def test_gflags_spellings(small):
    run(ATC, "-framework", "5", "-model", "m.onnx", "--output", "m", "--input_shape", " image : 1, 3,8 ,8",
        "--soc_version", "Ascend310P3", cwd=small)
    assert om.load(small / "m.om")[0]["requested_soc"] == "Ascend310P3"


def test_a_static_model_needs_no_input_shape(small):
    onnx.save(small_model(batch=2), small / "m.onnx")
    atc(small, shape="")
    assert om.load(small / "m.om")[0]["batch_size"] == 2


def test_flags_without_effect_and_precision_are_named(small):
    output = atc(small, "--auto_tune_mode=RL,GA", "--precision_mode=allow_mix_precision").stdout
    assert "--auto_tune_mode=RL,GA has no effect here" in output
    assert "--precision_mode=allow_mix_precision is not emulated" in output


def test_bf16_names_what_the_cpu_really_computes_in(small):
    """A CPU has bf16, or emulates it (AVX-512 without it), or computes in f32: what is said must be what was done."""
    has_bf16 = "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    output = atc(small, "--precision_mode_v2=mixed_bfloat16").stdout
    precision = om.load(small / "m.om")[0]["precision"]
    assert f", {precision}, " in benchmark(small, "-output_binary").stdout.splitlines()[0]
    found = np.stack([np.fromfile(small / f"result/dumpOutput_device0/t{i}_1.bin", "<f4") for i in range(5)])
    expected = expected_logits(small)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert (1e-4 < error < 0.1) if precision == "bf16" else error < 1e-6
    assert ("this CPU has no bf16; " in output) == (precision == "f32")
    assert ("emulates it" in output) == (precision == "bf16" and not has_bf16)
    assert not has_bf16 or precision == "bf16"


def test_a_failed_compile_keeps_the_old_om(small):
    atc(small)
    before = (small / "m.om").read_bytes()
    assert f"{FAILED}\nE10011: " in atc(small, "--input_shape=image:0,3,8,8", status=255).stdout
    assert (small / "m.om").read_bytes() == before


# --- gflags -----------------------------------------------------------------------------------------------------

DEFAULTS = {"name": "", "count": 1, "flag": False}


@pytest.mark.parametrize(("words", "expected"), [
    ([], {}),
    (["-name=a=b", "--count", "-3", "-flag"], {"name": "a=b", "count": -3, "flag": True}),
    (["--flag=YES", "--noflag"], {"flag": False}),
    (["-flag=t", "-name="], {"flag": True, "name": ""}),
    (["-name=a", "-name=b", "word"], {"name": "b"}),
    (["-flag", "False"], {"flag": True}),  # a bool takes no second word
    (["-count=+04", "--", "--count=5"], {"count": 4}),
])
def test_gflags_parse(words, expected):
    assert gflags.parse(words, DEFAULTS) == {**DEFAULTS, **expected}


@pytest.mark.parametrize(("words", "messages"), [
    (["-x", "--count=1.5"], "ERROR: unknown command line flag 'x'\n"
                            "ERROR: illegal value '1.5' specified for int32 flag 'count'"),
    (["--count=2147483648"], "ERROR: illegal value '2147483648' specified for int32 flag 'count'"),
    (["--count=1_0"], "ERROR: illegal value '1_0' specified for int32 flag 'count'"),
    (["--flag=2"], "ERROR: illegal value '2' specified for bool flag 'flag'"),
    (["---name=a"], "ERROR: unknown command line flag '-name'"),
    (["-name"], "ERROR: flag 'name' is missing its argument"),
])
def test_gflags_errors(words, messages):
    with pytest.raises(SystemExit, match=f"^{re.escape(messages)}$"):
        gflags.parse(words, DEFAULTS)


def test_importing_om_leaves_the_module_path_alone(tmp_path):
    code = "import sys; before = list(sys.path); from host import om; assert sys.path == before, sys.path"
    run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(SUITE)})


def test_header_length_is_bounded(tmp_path):
    (tmp_path / "x.om").write_bytes(b"HOST-OM\n" + b"\xff\xff\xff\xff" + b"{" * 100)
    with pytest.raises(Failure, match="damaged host om"):
        om.load(tmp_path / "x.om")

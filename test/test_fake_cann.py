"""The fake CANN tools keep to what is known of the real ones: flags, error codes, files byte for byte.

The other tests trust these fakes to refuse what CANN refuses, so every rule has its case here (atc's refusals:
test_contract.py). Most cases call the scripts' main() in this process (starting Python for each would take minutes);
a few run them for real.
"""
import importlib.machinery
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

FAKES = Path(__file__).resolve().parent / "fake_cann"
CLASSES = 7
SAMPLE_BYTES = 3 * 4 * 5 * 4  # 3 x 4 x 5 float32
SAMPLES = [f"img_{i:02}" for i in range(10)]
START = "ATC start working now, please wait for a moment.\n"
FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"


def load(path):
    """Import a script, most of which have no .py at their end."""
    loader = importlib.machinery.SourceFileLoader(f"{path.parent.name}_{path.stem}", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


ATC, BENCHMARK, NPU_SMI = load(FAKES / "atc"), load(FAKES / "benchmark.x86_64"), load(FAKES / "npu-smi")
AIS = load(FAKES / "python/ais_bench/__main__.py")


def make_onnx(path, batch="-1", opsets=(("", 11),), dtype=TensorProto.FLOAT):
    """image (N, 3, 4, 5) -> Flatten, Gemm -> class (N, 7)."""
    weight = helper.make_tensor("weight", dtype, (60, CLASSES), [0.0] * 60 * CLASSES)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"], name="Flatten_0"),
         helper.make_node("MatMul", ["flat", "weight"], ["class"], name="MatMul_1")],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 4, 5])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, [batch, CLASSES])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets]), str(path))


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """An empty working directory with tiny.onnx, and no FAKE_CANN_ variable from outside."""
    for name in [name for name in os.environ if name.startswith("FAKE_CANN_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make_onnx("tiny.onnx")
    return folder


@pytest.fixture
def atc(cwd, capsys):
    """Call atc with a good command line changed by keywords (None drops a flag); return (status, out, err)."""
    def run(*more, **changes):
        flags = {"framework": 5, "model": "tiny.onnx", "output": "tiny_bs1", "input_format": "NCHW",
                 "input_shape": "image:1,3,4,5", "log": "debug", "soc_version": "Ascend310", **changes}
        status = ATC.main(["atc", *(f"--{k}={v}" for k, v in flags.items() if v is not None), *more])
        return (status, *capsys.readouterr())
    return run


@pytest.fixture
def benchmark(cwd, atc, capsys):
    """Call benchmark on 10 samples with an .om for the batch size; return (status, out, err)."""
    (cwd / "prep").mkdir()
    for name in SAMPLES:
        (cwd / f"prep/{name}.bin").write_bytes(bytes(SAMPLE_BYTES))
    (cwd / "tiny.info").write_text("".join(f"{i} ./prep/{name}.bin 5 4\n" for i, name in enumerate(SAMPLES)))

    def run(*more, **changes):
        flags = {"model_type": "vision", "device_id": 0, "batch_size": 1, "input_text_path": "./tiny.info",
                 "input_width": 5, "input_height": 4, "output_binary": False, "useDvpp": False, **changes}
        if "om_path" not in flags:
            flags["om_path"] = f"tiny_bs{flags['batch_size']}.om"
            make_om(atc, flags["batch_size"])
        words = (f"-{k}={v}" for k, v in flags.items() if v is not None)
        return (BENCHMARK.main(["./benchmark.x86_64", *words, *more]), *capsys.readouterr())
    return run


def make_om(atc, batch, **flags):
    fault = os.environ.pop("FAKE_CANN_FAIL", None)  # it is meant for the benchmark
    assert atc(output=f"tiny_bs{batch}", input_shape=f"image:{batch},3,4,5", **flags)[0] == 0
    if fault:
        os.environ["FAKE_CANN_FAIL"] = fault


def dumps(device=0):
    return {path.name: path.read_bytes() for path in sorted(Path(f"result/dumpOutput_device{device}").iterdir())}


def vectors():
    return {name: np.array(text[:-2].split(b" "), float) for name, text in dumps().items()}


# ---- atc

def test_atc_writes_the_om_format(atc, cwd):
    assert atc() == (0, START + "ATC run success, welcome to the next use.\n", "")
    data = (cwd / "tiny_bs1.om").read_bytes()
    assert data[:12] == b"IMOD" + struct.pack("<II", 256, 0x20000000)
    assert data[12:76] == bytes(64)
    assert struct.unpack_from("<I", data, 76) == (len(data) - 256,)
    assert data[80:84] == bytes(4)
    assert data[84:116] == b"tiny_bs1".ljust(32, b"\0")
    assert data[120:152] == b"fake CANN test double".ljust(32, b"\0")
    assert struct.unpack_from("<4I", data, 256) == (1, 0, 0, len(data) - 272)
    om = json.loads(data[272:])
    assert om["inputs"] == [{"name": "image", "shape": [1, 3, 4, 5], "bytes": SAMPLE_BYTES, "aipp": False}]
    assert om["outputs"] == [{"name": "class", "classes": CLASSES, "dtype": "FP32"}]
    assert (om["batch"], om["soc_version"], len(om["onnx_sha256"])) == (1, "Ascend310", 64)
    assert sorted(p.name for p in cwd.iterdir()) == ["fusion_result.json", "kernel_meta", "tiny.onnx", "tiny_bs1.om"]


def test_atc_appends_om_always_and_makes_parents(atc, cwd):
    assert atc(output="new/dir/x.om")[0] == 0
    assert (cwd / "new/dir/x.om.om").exists()
    assert not (cwd / "new/dir/x.om").exists()


def test_atc_reads_other_flag_spellings(atc, cwd):
    assert atc("--output", "two", "-soc_version", "Ascend310P3", "skipped")[0] == 0
    assert json.loads((cwd / "two.om").read_bytes()[272:])["soc_version"] == "Ascend310P3"


def test_atc_failure_block(atc):
    status, out, err = atc(input_shape="img:1,3,4,5")
    assert (status, err) == (255, "")
    assert out.startswith(START + FAILED + """
E10001: Value [-1] for parameter [image] is invalid. Reason: maybe you should set input_shape to specify its shape.
        Solution: Try again with a valid argument.
        TraceBack (most recent call last):
""")


def test_atc_reports_a_refused_model(atc, cwd):
    make_onnx("tiny.onnx", opsets=[("", 13)])
    assert f"{FAILED}\nE19010: " in atc()[1]
    assert json.loads((cwd / "check_result.json").read_text()) == {"result": "failed"}


@pytest.mark.parametrize("node", ["Flatten_0:0", "MatMul_1:0;Flatten_0:0"])
def test_atc_does_not_cut_the_graph(atc, node):
    assert f"{FAILED}\nE19999: the fake atc does not cut the graph" in atc(out_nodes=node)[1]


def test_atc_takes_a_static_model_without_input_shape(atc, cwd):
    make_onnx("tiny.onnx", batch=2)
    assert atc(input_shape=None)[0] == 0
    assert json.loads((cwd / "tiny_bs1.om").read_bytes()[272:])["batch"] == 2


def test_atc_mode_3_only_checks(atc, cwd):
    assert atc(mode=3, output=None)[0] == 0
    assert (cwd / "check_result.json").exists()
    assert not list(cwd.glob("*.om"))


AIPP = "aipp_op {\n  aipp_mode: static\n  input_format : RGB888_U8  # planes\n}\n"


def test_atc_aipp_makes_the_input_uint8(atc, cwd):
    (cwd / "aipp.cfg").write_text(AIPP)
    assert atc(insert_op_conf="aipp.cfg", input_shape="image:4,3,4,5")[0] == 0
    om = json.loads((cwd / "tiny_bs1.om").read_bytes()[272:])
    assert (om["inputs"][0]["bytes"], om["inputs"][0]["aipp"]) == (4 * 3 * 4 * 5, True)


def test_atc_faults(atc, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "no-om")
    assert (atc()[0], list(cwd.glob("*.om"))) == (0, [])
    monkeypatch.setenv("FAKE_CANN_FAIL", "exit255")
    status, out, _ = atc()
    assert (status, f"{FAILED}\nE19999: " in out) == (255, True)
    monkeypatch.setenv("FAKE_CANN_FAIL", "truncated-om")
    assert atc()[0] == 0
    data = (cwd / "tiny_bs1.om").read_bytes()
    assert struct.unpack_from("<I", data, 76)[0] > len(data) - 256
    monkeypatch.setenv("FAKE_CANN_FAIL", "typo")
    with pytest.raises(SystemExit):
        atc()


def test_calls_are_logged(atc, benchmark, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_LOG", str(cwd / "calls"))
    benchmark()
    assert AIS.main(["--model=tiny_bs1.om", "--loop", "2"]) == 0
    first, second, third = map(json.loads, (cwd / "calls").read_text().splitlines())
    assert (first["tool"], second["tool"]) == ("atc", "benchmark.x86_64")
    assert first["argv"][0] == "--framework=5"
    assert second["argv"][0] == "-model_type=vision"
    assert (third["tool"], third["argv"]) == ("ais_bench", ["--model=tiny_bs1.om", "--loop", "2"])
    assert first["cwd"] == second["cwd"] == third["cwd"] == str(cwd)


# ---- benchmark, dataset mode

PERF_BS1 = """\
[e2e] throughputRate: 108.021, latency: 462872
[data read] throughputRate: 111.695, moduleLatency: 8.95293
[preprocess] throughputRate: 111.375, moduleLatency: 8.97865
[infer] throughputRate: 108.345, Interface throughputRate: 158.623, moduleLatency: 9.01342
[post] throughputRate: 108.345, moduleLatency: 9.22979
"""
PERF_BS16 = """\
[e2e] throughputRate: 127.923, latency: 390859
[data read] throughputRate: 131.925, moduleLatency: 7.58008
[preprocess] throughputRate: 131.775, moduleLatency: 7.5887
[infer] throughputRate: 128.194, Interface throughputRate: 198.865, moduleLatency: 7.58156
[post] throughputRate: 8.012, moduleLatency: 124.813
"""


def test_benchmark_stdout_and_perf_file(benchmark, cwd):
    status, out, err = benchmark()
    assert (status, err) == (0, "")
    assert out == ("".join(f"[INFO][PostProcess] curSampleNum is {n}\n" for n in range(1, 11))
                   + "-----------------Performance Summary------------------\n" + PERF_BS1 + "-" * 54 + "\n")
    assert (cwd / "result/perf_vision_batchsize_1_device_0.txt").read_text() == PERF_BS1


def test_benchmark_bs16_on_another_device(benchmark, cwd):
    status, out, _ = benchmark(batch_size=16, device_id=1)
    assert status == 0
    assert out.startswith("[INFO][PostProcess] curSampleNum is 10\n---")
    assert (cwd / "result/perf_vision_batchsize_16_device_1.txt").read_text() == PERF_BS16
    assert len(dumps(device=1)) == 10


@pytest.mark.parametrize("batch, rate", [(4, "182.215"), (8, "203.357"), (32, "164.302"), (5, "150")])
def test_benchmark_other_perf_files_obey_the_arithmetic(benchmark, cwd, batch, rate):
    benchmark(batch_size=batch)
    text = (cwd / f"result/perf_vision_batchsize_{batch}_device_0.txt").read_text()
    values = re.findall("(?:: )([^,\n]*)(?=[,\n])", text)
    assert (len(text.splitlines()), len(values), values[7]) == (5, 11, rate)
    e2e, total, read, read_ms, prep, prep_ms, infer, _, _, post, post_ms = map(float, values)
    assert e2e == pytest.approx(10 * 1000 / total, rel=1e-5)
    assert (read * read_ms, prep * prep_ms, post * post_ms) == pytest.approx((1000,) * 3, rel=1e-5)
    assert post * batch == pytest.approx(infer, rel=1e-5)
    assert e2e < infer < float(rate)


def test_perf_numbers_have_six_digits():
    assert re.search(r"latency: \d\.\d{5}e\+06\n", BENCHMARK.perf_text(4, 200000))


def test_benchmark_txt_dump_format(benchmark):
    benchmark()
    files = dumps()
    assert list(files) == [f"{name}_1.txt" for name in SAMPLES]
    for text in files.values():
        assert re.fullmatch(rb"(-?\d+\.\d{6} ){7}\n", text)
    assert all(len(set(vector)) == CLASSES for vector in vectors().values())
    assert len(set(files.values())) > 1


def test_benchmark_dumps_do_not_depend_on_the_batch_size(benchmark):
    benchmark()
    first = dumps()
    for batch in (3, 4, 16):
        benchmark(batch_size=batch)
        assert dumps() == first


def test_benchmark_bin_dump_format(benchmark):
    benchmark()
    texts = vectors()
    benchmark(output_binary="True")
    for name, vector in texts.items():
        data = dumps()[name.replace(".txt", ".bin")]
        assert len(data) == 4 * CLASSES
        np.testing.assert_allclose(np.frombuffer(data, "<f4"), vector, rtol=0, atol=1e-6)


def test_benchmark_fp16_output_halves_the_bytes(benchmark, atc):
    make_om(atc, 1, output_type="FP16")
    benchmark(om_path="tiny_bs1.om", output_binary="true")
    assert {len(data) for data in dumps().values()} == {2 * CLASSES}
    benchmark(om_path="tiny_bs1.om")
    assert re.fullmatch(rb"([^ ]+ ){3}\n", dumps()["img_00_1.txt"])  # 14 bytes read as float32


def test_benchmark_keeps_old_files_and_names_by_the_last_dot(benchmark, cwd):
    (cwd / "result/dumpOutput_device0").mkdir(parents=True)
    (cwd / "result/dumpOutput_device0/old_1.txt").write_text("old")
    (cwd / "prep/a.b.bin").write_bytes(bytes(SAMPLE_BYTES))
    (cwd / "tiny.info").write_text("7 prep/a.b.bin 5 4 extra\n\n")
    assert benchmark()[0] == 0
    assert list(dumps()) == ["a.b_1.txt", "old_1.txt"]


@pytest.mark.parametrize("share, firsts", [(None, 10), ("1.0", 10), ("0.7", 7), ("0.25", 2), ("0", 0)])
def test_benchmark_puts_the_labels_first_or_second(benchmark, cwd, monkeypatch, share, firsts):
    labels = {f"{name}_1.txt": i % CLASSES for i, name in enumerate(SAMPLES)}
    (cwd / "val_label.txt").write_text("".join(f"{name[:-6]}.JPEG {label}\n" for name, label in labels.items()))
    monkeypatch.setenv("FAKE_CANN_LABELS", str(cwd / "val_label.txt"))
    if share:
        monkeypatch.setenv("FAKE_CANN_TOP1", share)
    benchmark(batch_size=4)
    places = [int((vector > vector[labels[name]]).sum()) for name, vector in vectors().items()]
    assert (places.count(0), places.count(1)) == (firsts, 10 - firsts)
    if share == "0.25":
        assert [i for i, place in enumerate(places) if place == 0] == [3, 7]


@pytest.mark.parametrize("word, values", [
    ("-output_binary", True), ("-nooutput_binary", False), ("--output_binary=YES", True), ("-output_binary=f", False),
    ("-output_binary=0", False), ("-output_binary=T", True),
])
def test_benchmark_bool_spellings(word, values):
    assert BENCHMARK.parse_flags([word])[0]["output_binary"] is values
    assert BENCHMARK.parse_flags([word])[1] == []


def test_benchmark_bool_takes_no_separate_value():
    flags, errors = BENCHMARK.parse_flags(["-useDvpp", "False", "-batch_size", "4", "--device_id=2"])
    assert (flags["useDvpp"], flags["batch_size"], flags["device_id"], errors) == (True, 4, 2, [])


@pytest.mark.parametrize("word, message", [
    ("-batchsize=1", "ERROR: unknown command line flag 'batchsize'"),
    ("-nodevice_id", "ERROR: unknown command line flag 'nodevice_id'"),
    ("-batch_size=x", "ERROR: illegal value 'x' specified for int32 flag 'batch_size'"),
    ("-useDvpp=off", "ERROR: illegal value 'off' specified for bool flag 'useDvpp'"),
    ("-om_path", "ERROR: flag 'om_path' is missing its argument"),
])
def test_benchmark_gflags_errors_exit_1(benchmark, cwd, word, message):
    assert benchmark(word) == (1, "", message + "\n")
    assert not (cwd / "result").exists()


@pytest.mark.parametrize("changes, message", [
    ({"batch_size": 0, "om_path": "x.om"}, "invalid batch size, please check!"),
    ({"device_id": -1}, "invalid device id, please check!"),
    ({"round": 0}, "invalid round, please check!"),
    ({"model_type": "image"}, "invalid model type, please check!"),
    ({"om_path": "missing.om"}, "[ERROR] Inference init failed."),
    ({"om_path": "tiny.onnx"}, "[ERROR] Inference init failed."),
    ({"input_text_path": "missing.info"}, "[ERROR] DataManager init failed."),
    ({"useDvpp": "True"}, "[ERROR] Inference init failed."),
])
def test_benchmark_failures_print_and_exit_0(benchmark, cwd, changes, message):
    status, out, _ = benchmark(**changes)
    assert (status, out.splitlines()[-1]) == (0, message)
    assert not (cwd / "result").exists()


@pytest.mark.parametrize("info, message", [
    ("0 prep/img_00.bin 5 4\n0 prep/img_01.bin 5 4\n", "[ERROR][PostProcess] frameInfoMap insert error."),
    ("0 prep/img_00.bin 5\n", "[ERROR] DataManager init failed."),
    ("0 prep/a b.bin 5 4\n", "[ERROR] DataManager init failed."),
    ("x prep/img_00.bin 5 4\n", "[ERROR] DataManager init failed."),
    ("", "[ERROR] DataManager init failed."),
    ("0 prep/missing.bin 5 4\n", "[ERROR][DataManager] open file prep/missing.bin failed."),
])
def test_benchmark_info_errors(benchmark, cwd, info, message):
    (cwd / "tiny.info").write_text(info)
    status, out, _ = benchmark()
    assert (status, message in out.splitlines()) == (0, True)
    assert not list(cwd.glob("result/perf*")) and not list(cwd.glob("result/dump*/*"))


SIZE_ERROR = "[ERROR][Inference] input data size don't match the model input size!\n"


def test_benchmark_batch_size_must_be_the_models(benchmark, atc, cwd):
    make_om(atc, 4)
    assert benchmark(om_path="tiny_bs4.om", batch_size=5) == (0, SIZE_ERROR * 2, "")
    assert benchmark(om_path="tiny_bs4.om", batch_size=5, round=3) == (0, SIZE_ERROR, "")
    assert not list(cwd.glob("result/*.txt"))


def test_benchmark_refuses_dynamic_models(benchmark, atc):
    assert atc(dynamic_batch_size="1,4", input_shape="image:-1,3,4,5")[0] == 0
    assert benchmark(om_path="tiny_bs1.om") == (0, SIZE_ERROR * 10, "")


def test_benchmark_drops_a_batch_with_a_file_of_wrong_size(benchmark, cwd):
    (cwd / "prep/img_05.bin").write_bytes(bytes(SAMPLE_BYTES + 1))
    status, out, _ = benchmark(batch_size=4)
    assert (status, out.splitlines()[1] + "\n") == (0, SIZE_ERROR)
    assert len(dumps()) == 6


def test_benchmark_aipp_wants_uint8_images(benchmark, atc, cwd):
    (cwd / "aipp.cfg").write_text(AIPP)
    make_om(atc, 1, insert_op_conf="aipp.cfg")
    assert benchmark(om_path="tiny_bs1.om")[1] == SIZE_ERROR * 10
    assert benchmark(om_path="tiny_bs1.om", useDvpp="True")[1].endswith("[ERROR] DataManager init failed.\n")
    (cwd / "prep/img_00.bin").write_bytes(bytes(3 * 4 * 5))
    benchmark(om_path="tiny_bs1.om")
    assert list(dumps()) == ["img_00_1.txt"]


def test_benchmark_does_not_load_from_a_path_with_plus(benchmark, atc, cwd):
    make_om(atc, 1)
    (cwd / "a+b").mkdir()
    (cwd / "tiny_bs1.om").rename(cwd / "a+b/x.om")
    assert benchmark(om_path="a+b/x.om")[1].endswith("[ERROR] Inference init failed.\n")


def test_benchmark_does_not_load_a_truncated_om(benchmark, atc, cwd):
    make_om(atc, 1)
    data = (cwd / "tiny_bs1.om").read_bytes()
    for size in (0, 100, 256, 270, len(data) - 1):
        (cwd / "tiny_bs1.om").write_bytes(data[:size])
        assert benchmark(om_path="tiny_bs1.om")[1].endswith("[ERROR] Inference init failed.\n")


# ---- benchmark, pure inference mode

def pure(benchmark, om_path, **flags):
    names = ("model_type", "input_text_path", "input_width", "input_height", "output_binary", "useDvpp")
    return benchmark(om_path=om_path, **{**dict.fromkeys(names), **flags})


def test_benchmark_pure_inference(benchmark, atc, cwd):
    make_om(atc, 4)
    (cwd / "oms").mkdir()
    (cwd / "tiny_bs4.om").rename(cwd / "oms/tiny_bs4.om")
    status, out, err = pure(benchmark, "oms/tiny_bs4.om", batch_size=4, round=5)
    assert (status, err) == (0, "")
    assert out == """\
[INFO] Dataset number: 0 finished cost 21.513ms
[INFO] Dataset number: 1 finished cost 21.9521ms
[INFO] Dataset number: 2 finished cost 22.3911ms
[INFO] Dataset number: 3 finished cost 21.7326ms
[INFO] Dataset number: 4 finished cost 22.1716ms
[INFO] PureInfer result saved in ./result/PureInfer_perf_of_tiny_bs4_in_device_0.txt
-----------------PureInfer Performance Summary------------------
[INFO] ave_throughputRate: 182.251samples/s, ave_latency: 5.48802ms
----------------------------------------------------------------
"""
    assert [p.name for p in (cwd / "result").iterdir()] == ["PureInfer_perf_of_tiny_bs4_in_device_0.txt"]
    text = (cwd / "result/PureInfer_perf_of_tiny_bs4_in_device_0.txt").read_text()
    assert text == "ave_throughputRate = 182.251samples/s, ave_latency = 5.48802ms\n"


# ---- benchmark, faults on request

def test_benchmark_init_faults(benchmark, cwd, monkeypatch):
    for fault, status in (("init-exit0", 0), ("init-exit1", 1)):
        monkeypatch.setenv("FAKE_CANN_FAIL", fault)
        assert benchmark() == (status, "[ERROR] Inference init failed.\n", "")
    assert not (cwd / "result").exists()


def test_benchmark_missing_and_stale_dumps(benchmark, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "missing-dumps")
    assert benchmark()[0] == 0
    assert list(dumps()) == [f"{name}_1.txt" for name in SAMPLES[:7]]
    monkeypatch.setenv("FAKE_CANN_FAIL", "stale-dumps")
    assert benchmark()[0] == 0
    assert list(dumps()) == [f"{name}_1.txt" for name in SAMPLES] + ["stale_0_1.txt", "stale_1_1.txt"]
    (cwd / "labels").write_text("img_00.JPEG 1\nother.JPEG 2\n")
    monkeypatch.setenv("FAKE_CANN_LABELS", "labels")
    benchmark(device_id=1)
    assert list(dumps(device=1)) == [f"{name}_1.txt" for name in SAMPLES] + ["other_1.txt"]


def test_benchmark_size_mismatch_fault_drops_one_batch(benchmark, atc, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "size-mismatch")
    status, out, _ = benchmark(batch_size=4)
    assert (status, out.startswith(SIZE_ERROR), len(dumps())) == (0, True, 6)
    assert pure(benchmark, "tiny_bs4.om", batch_size=4, round=1) == (0, SIZE_ERROR, "")


def test_benchmark_no_perf_fault(benchmark, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "no-perf")
    assert "Performance" not in benchmark()[1]
    pure(benchmark, "tiny_bs1.om", round=2)
    assert len(dumps()) == 10
    assert not list(cwd.glob("result/*.txt"))


@pytest.mark.parametrize("binary", [False, True])
def test_benchmark_damaged_dumps(benchmark, monkeypatch, binary):
    monkeypatch.setenv("FAKE_CANN_FAIL", "nan")
    benchmark(output_binary=binary)
    first = next(iter(dumps().values()))
    assert np.isnan(np.frombuffer(first, "<f4")[0]) if binary else first.startswith(b"nan ")
    monkeypatch.setenv("FAKE_CANN_FAIL", "short-dump")
    benchmark(output_binary=binary)
    sizes = [len(data) // 4 if binary else data.count(b" ") for data in dumps().values()]
    assert sizes == [CLASSES - 1] + [CLASSES] * 9


def test_benchmark_old_tags(benchmark, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "old-tags")
    out = benchmark()[1]
    text = (cwd / "result/perf_vision_batchsize_1_device_0.txt").read_text()
    assert text in out
    assert text.splitlines()[0] == "[e2e] throughputRate: 108.021, lantency: 462872"
    assert text.splitlines()[3] == ("[inference] throughputRate: 108.345, Interface throughputRate: 158.623, "
                                    "moduleLantency: 9.01342")
    assert "[INFO] ave_throughputRate = " in pure(benchmark, "tiny_bs1.om", round=1)[1]


# ---- benchmark, devices and time

def test_benchmark_knows_the_devices(benchmark, cwd, monkeypatch):
    failed = "[ERROR][Inference] open device 4 failed.\n[ERROR] Inference init failed.\n"
    assert benchmark(device_id=4) == (0, failed, "")
    assert not (cwd / "result").exists()
    monkeypatch.setenv("FAKE_CANN_DEVICES", "4")
    benchmark(device_id=4)
    assert len(dumps(device=4)) == 10
    assert benchmark()[1].endswith("[ERROR] Inference init failed.\n")


def test_benchmark_fault_on_one_device(benchmark, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "missing-dumps")
    monkeypatch.setenv("FAKE_CANN_FAIL_DEVICE", "2")
    for device, count in ((0, 10), (2, 7)):
        assert benchmark(device_id=device)[0] == 0
        assert len(dumps(device)) == count


def test_slow_waits_before_each_batch_or_round(benchmark, ais, monkeypatch):
    waits = []
    for module in (BENCHMARK, AIS.BENCHMARK):
        monkeypatch.setattr(module.time, "sleep", waits.append)
    monkeypatch.setenv("FAKE_CANN_SLOW", "0.25")
    benchmark(batch_size=4)
    ais(batch_size=4)
    assert waits == [0.25] * 6
    pure(benchmark, "tiny_bs4.om", batch_size=4, round=5)
    ais(batch_size=4, input=None, output=None, output_dirname=None, loop=2)
    assert waits == [0.25] * 13


@pytest.mark.parametrize("words", [
    [str(FAKES / "benchmark.x86_64"), "-om_path=tiny_bs1.om", "-input_text_path=tiny.info"],
    ["-m", "ais_bench", "--model=tiny_bs1.om", "--input=prep", "--output=result", "--output_dirname=dumpOutput_device0",
     "--outfmt=TXT"],
], ids=["benchmark", "ais_bench"])
def test_a_killed_run_leaves_the_dumps_made_so_far(benchmark, atc, cwd, words):
    """The first of ten is there after half a second, the last one would be after five."""
    make_om(atc, 1)
    environment = {**os.environ, "FAKE_CANN_SLOW": "0.5", "PYTHONPATH": str(FAKES / "python")}
    folder = cwd / "result/dumpOutput_device0"
    with subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(folder.glob("*.txt")):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -9
    assert 1 <= len(list(folder.iterdir())) < 10


# ---- ais_bench

@pytest.fixture
def ais(benchmark, cwd, atc, capsys):
    """Call ais_bench on the 10 samples, its flags changed by keywords; return (status, out, err)."""
    def run(*more, batch_size=1, **changes):
        make_om(atc, batch_size)
        flags = {"model": f"tiny_bs{batch_size}.om", "input": "prep", "output": "out", "output_dirname": "d",
                 "outfmt": "TXT", **changes}
        try:
            status = AIS.main([*(f"--{k}={v}" for k, v in flags.items() if v is not None), *more])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())
    return run


def saved(folder="out/d"):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def throughput_of(out):
    return float(next(line for line in out.splitlines() if "throughput" in line).split()[-1])


def test_ais_stdout(ais):
    status, out, err = ais(batch_size=16, batchsize=16)
    assert (status, err) == (0, "")
    ms = AIS.time_of_batch(16)
    assert out == f"""\
[INFO] acl init success
[INFO] open device 0 success
[INFO] load model tiny_bs16.om success
[INFO] create model description success
[INFO] try get model batchsize:16
[INFO] output path:out/d
[INFO] get filesperbatch files0 size:240 tensor0size:3840 filesperbatch:16 runcount:1
[INFO] warm up 1 done
Inference array Processing: 100%|##########| 1/1 [00:00<00:00, 1000.00it/s]
[INFO] -----------------Performance Summary------------------
[INFO] NPU_compute_time (ms): min = {ms}, max = {ms}, mean = {ms}, median = {ms}, percentile(99%) = {ms}
[INFO] throughput 1000*batchsize.mean(16)/NPU_compute_time.mean({ms}): 1507.0
[INFO] ------------------------------------------------------
[INFO] unload model success, model Id is 1
[INFO] end to destroy context
[INFO] end to reset device is 0
[INFO] end to finalize acl
"""


@pytest.mark.parametrize("batch, rate", [(1, 799), (4, 1375), (8, 1492), (16, 1507), (32, 1424), (64, 829), (5, 1000)])
def test_ais_rates_are_the_published_ones(ais, batch, rate):
    out = ais(batch_size=batch, input=None, output=None, output_dirname=None, loop=20)[1]
    assert throughput_of(out) == pytest.approx(rate, rel=1e-15)
    assert " 20/20 " in out


def test_ais_batchsize_only_goes_into_the_formula(ais):
    assert throughput_of(ais(batch_size=4, batchsize=2)[1]) == pytest.approx(1375 / 2)
    assert len(saved()) == 10


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_ais_results_are_those_of_the_benchmark(ais, benchmark, cwd, monkeypatch, batch):
    (cwd / "labels").write_text("".join(f"{name}.JPEG {i % CLASSES}\n" for i, name in enumerate(SAMPLES)))
    monkeypatch.setenv("FAKE_CANN_LABELS", "labels")
    monkeypatch.setenv("FAKE_CANN_TOP1", "0.7")
    benchmark(batch_size=4)
    ais(batch_size=batch)
    assert {name.replace("_0.txt", "_1.txt"): data for name, data in saved().items()} == dumps()
    benchmark(batch_size=4, output_binary=True, device_id=1)
    ais(batch_size=batch, outfmt="BIN", output_dirname="b")
    assert {name.replace("_0.bin", "_1.bin"): data for name, data in saved("out/b").items()} == dumps(1)
    ais(batch_size=batch, outfmt="NPY", output_dirname="n")
    array = np.load("out/n/img_03_0.npy")
    assert (array.shape, array.dtype, array.tobytes()) == ((1, CLASSES), "<f4", saved("out/b")["img_03_0.bin"])


@pytest.mark.parametrize("dtype, text", [("FP16", rb"(-?\d+\.\d{6} ){7}\n"), ("UINT8", rb"(\d+ ){7}\n")])
def test_ais_keeps_the_models_output_type(ais, atc, dtype, text):
    assert atc(output="typed", output_type=dtype)[0] == 0
    assert ais(model="typed.om")[0] == 0
    assert re.fullmatch(text, saved()["img_00_0.txt"])
    ais(model="typed.om", outfmt="BIN", output_dirname="b")
    assert len(saved("out/b")["img_00_0.bin"]) == CLASSES * {"FP16": 2, "UINT8": 1}[dtype]


def test_ais_time_stamp_and_summary(ais, cwd):
    out = ais("--display_all_summary", "Y", batch_size=4, output_dirname=None, warmup_count=0, loop=2)[1]
    assert out.index("H2D_latency (ms): ") < out.index("NPU_compute_time (ms): ") < out.index("D2H_latency (ms): ")
    assert "[INFO] warm up 0 done" in out
    folder, summary = sorted((cwd / "out").iterdir())
    assert re.fullmatch(r"\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d", folder.name)
    assert summary.name == f"{folder.name}_summary.json"
    assert f"[INFO] output path:out/{folder.name}\n" in out
    content = json.loads(summary.read_text())
    assert set(content) == {"filesinfo", "args", "H2D_latency", "NPU_compute_time", "D2H_latency", "throughput",
                            "npu_compute_time_list", "pid"}
    assert content["filesinfo"]["3"] == {"infiles": ["prep/img_03.bin"],
                                         "outfiles": [f"out/{folder.name}/img_03_0.txt"]}
    assert len(content["filesinfo"]) == 10
    assert content["npu_compute_time_list"] == [content["NPU_compute_time"]["mean"]] * 6  # 3 batches, twice each
    assert (content["NPU_compute_time"]["count"], content["throughput"]) == (6, throughput_of(out))


def test_ais_old_summary(ais, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_AIS", "2022-06")
    ais()
    assert [path.name for path in (cwd / "out").iterdir()] == ["d"]
    assert "throughput" in json.loads(saved().pop("sumary.json"))
    assert len(saved()) == 11


def test_ais_input_folder(ais, cwd, monkeypatch):
    """Before September 2023: by suffix, not recursive, in natural order, links followed, names cut at the first dot."""
    monkeypatch.setenv("FAKE_CANN_AIS", "2023-06")
    folder = cwd / "in"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b10.bin", "B9.BIN", "a.b.c.bin", "skip.txt", "skip.Bin", "deeper/x.bin"):
        (folder / name).write_bytes(bytes(SAMPLE_BYTES))
    np.save(folder / "n.npy", np.zeros((1, 3, 4, 5), "<f4"))
    (folder / "link.bin").symlink_to(cwd / "prep/img_00.bin")
    (folder / "\u00b2.bin").write_bytes(bytes(SAMPLE_BYTES))  # a digit to str.isdigit, not to int
    out = ais(batch_size=4, input="in")[1]
    assert "runcount:2\n" in out
    files = json.loads((cwd / "out/d_summary.json").read_text())["filesinfo"]
    assert [os.path.basename(files[str(i)]["infiles"][0]) for i in range(len(files))] == [
        "a.b.c.bin", "B9.BIN", "b10.bin", "link.bin", "n.npy", "\u00b2.bin"]
    assert set(saved()) == {f"{name}_0.txt" for name in ("a", "B9", "b10", "link", "n", "\u00b2")}


def soft_link(cwd):
    (cwd / "prep/link.bin").symlink_to("img_00.bin")


@pytest.mark.parametrize(("change", "reason"), [
    (soft_link, "is a soft link, not supported"),
    (lambda cwd: (cwd / "prep").rename(cwd / "real") and (cwd / "prep").symlink_to("real"), "is a soft link"),
    (lambda cwd: (cwd / "prep/img_00.bin").rename(cwd / "prep/a b.bin"), "illegal char"),
    (lambda cwd: (cwd / "prep/img_00.bin").chmod(0o664), "is group writable, or is others writable, as import"),
    (lambda cwd: (cwd / "prep").chmod(0o775), "permission should not be over 0o755"),
    (lambda cwd: (cwd / "tiny_bs1.om").chmod(0o662), "permission should not be over 0o755"),
    (lambda cwd: (cwd / "out").mkdir() or (cwd / "out").chmod(0o755), "permission should not be over 0o750"),
], ids=["file", "folder", "name", "group", "group's folder", "om", "output"])
def test_ais_of_2024_refuses_what_older_ones_take(ais, atc, cwd, change, reason, monkeypatch, capsys):
    make_om(atc, 1)
    change(cwd)
    monkeypatch.setenv("FAKE_CANN_AIS", "2023-06")
    assert ais(output_dirname="old")[0] == 0
    monkeypatch.setenv("FAKE_CANN_AIS", "2024-06")
    try:
        status, out, _ = ais()
    except ValueError:
        status, out = 1, capsys.readouterr().out
    assert status
    assert reason in out


def test_ais_of_2025(ais, monkeypatch):
    """And forks of it have another spelling."""
    with pytest.raises(ValueError, match="do not support abs path"):
        ais(output_dirname="/tmp/d")
    monkeypatch.setenv("FAKE_CANN_AIS_FILES", "9")
    with pytest.raises(OverflowError, match="file count under directory: prep is over 9!"):
        ais()
    monkeypatch.delenv("FAKE_CANN_AIS_FILES")
    monkeypatch.setenv("FAKE_CANN_AIS", "fork")
    assert ais()[0] == 2
    assert "Throughput 1000" in ais("--output-dirname=d", output_dirname=None)[1]


def test_ais_input_list_in_its_order(ais, cwd):
    assert ais(batch_size=4, input="prep/img_05.bin,prep/img_01.bin")[0] == 0
    files = json.loads((cwd / "out/d_summary.json").read_text())["filesinfo"]
    assert [entry["infiles"] for entry in files.values()] == [["prep/img_05.bin"], ["prep/img_01.bin"]]
    assert list(saved()) == ["img_01_0.txt", "img_05_0.txt"]


def test_ais_sizes(ais, cwd):
    (cwd / "odd.bin").write_bytes(bytes(SAMPLE_BYTES - 1))
    (cwd / "half.bin").write_bytes(bytes(SAMPLE_BYTES // 2))
    (cwd / "two.bin").write_bytes(bytes(SAMPLE_BYTES * 2))
    with pytest.raises(RuntimeError, match="file size"):
        ais(batch_size=4, input="odd.bin")
    with pytest.raises(RuntimeError, match="save out files error"):
        ais(batch_size=4, input="half.bin")
    assert ais(batch_size=4, input="half.bin", output=None, output_dirname=None)[0] == 0  # noticed only when saved
    with pytest.raises(RuntimeError, match="differ"):
        ais(batch_size=4, input="prep/img_00.bin,half.bin")
    assert ais(batch_size=4, input="two.bin")[0] == 0
    assert saved()["two_0.txt"].count(b"\n") == 2  # a row a sample


def test_ais_size_error_text(ais, cwd, capsys):
    (cwd / "odd.bin").write_bytes(bytes(SAMPLE_BYTES - 1))
    with pytest.raises(RuntimeError):
        ais(batch_size=4, input="odd.bin")
    assert capsys.readouterr().out.splitlines()[-1] == "[ERROR] arg0 tensorsize: 960 filesize: 239 not match"


def test_ais_saves_made_up_input_only_on_request(ais, cwd):
    assert ais(batch_size=4, input=None, output=None, output_dirname=None)[0] == 0
    assert not (cwd / "out").exists()
    ais(batch_size=4, input=None)
    assert [name for name, data in saved().items() if data.count(b"\n") == 4] == ["pure_infer_data_0.txt"]


def test_ais_flag_spellings(ais):
    out = ais("--dev", "2", "--batchs", "1", "-l", "3")[1]
    assert "[INFO] open device 2 success" in out and " 30/30 " in out


@pytest.mark.parametrize("words", [
    ["--outfmt=txt"], ["--loop=0"], ["--warmup_count=-1"], ["--device=256"], ["--device=0,x"], ["--out=x"],
    ["--nonsense=1"], ["--run_mode=fast"], ["--debug=maybe"], ["--batchsize=0"], ["--pure_data_type=one"],
])
def test_ais_refuses_flags_with_status_2(ais, cwd, words):
    assert ais(*words)[0] == 2
    assert not (cwd / "out").exists()


@pytest.mark.parametrize("changes", [
    {"output": None}, {"model": "missing.om"}, {"model": "tiny.onnx"}, {"input": "missing"}, {"input": "empty"},
    {"device": 4}, {"dymBatch": 4},
])
def test_ais_run_time_errors(ais, cwd, changes, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_AIS", "2023-06")
    (cwd / "empty").mkdir()
    with pytest.raises(RuntimeError):
        ais(**changes)
    assert not list(cwd.glob("out/d/*"))


def test_ais_refuses_dynamic_models(ais, atc):
    assert atc(output="dynamic", dynamic_batch_size="1,4", input_shape="image:-1,3,4,5")[0] == 0
    with pytest.raises(RuntimeError, match="dynamic batch"):
        ais(model="dynamic.om")


def test_ais_several_devices(ais, cwd, monkeypatch):
    status, out, _ = ais(device="0,2,3")
    assert status == 0
    assert [len(saved(f"out/d/device{i}")) for i in (0, 2, 3)] == [4, 3, 3]
    assert list(saved("out/d/device0")) == [f"{name}_0.txt" for name in SAMPLES[:4]]
    assert re.findall(r"(?m)^i:(\d) device_(\d) throughput:799\.0 start_time:[\d.]+ end_time:[\d.]+$", out) == [
        ("0", "0"), ("1", "2"), ("2", "3")]
    assert "[INFO] summary throughput:2397.0\n" in out
    monkeypatch.setenv("FAKE_CANN_DEVICES", "0,2")
    status, out, _ = ais(device="0,2,3")
    assert (status, "[ERROR] subprocess run failed error_callback:open device 3 failed" in out) == (1, True)


def test_ais_faults(ais, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_FAIL", "ais-missing")
    assert (ais(batch_size=4)[0], list(saved())) == (0, [f"{name}_0.txt" for name in SAMPLES[:8]])
    monkeypatch.setenv("FAKE_CANN_FAIL", "ais-no-throughput")
    status, out, _ = ais(output_dirname="quiet")
    assert (status, "throughput" in out, len(saved("out/quiet"))) == (0, False, 10)
    assert not (cwd / "out/quiet_summary.json").exists()
    monkeypatch.setenv("FAKE_CANN_FAIL", "ais-error")
    with pytest.raises(RuntimeError):
        ais(output_dirname="error")
    monkeypatch.setenv("FAKE_CANN_FAIL_DEVICE", "2")
    assert ais(device=1)[0] == 0
    with pytest.raises(RuntimeError):
        ais(device=2)
    monkeypatch.setenv("FAKE_CANN_FAIL", "typo")
    assert "no such fault" in ais()[0]


# ---- npu-smi

@pytest.fixture
def npu_smi(cwd, capsys, monkeypatch):
    """Call npu-smi with a table chosen; return (status, lines of stdout)."""
    def run(table=None, words=("info",)):
        if table:
            monkeypatch.setenv("FAKE_CANN_NPU_SMI", table)
        return NPU_SMI.main(["npu-smi", *words]), capsys.readouterr().out.splitlines()
    return run


# Of a real host
CAPTURED_310 = """\
+------------------------------------------------------------------------------+
| npu-smi 21.0.3.1                     Version: 21.0.3.1                       |
+-------------------+-----------------+----------------------------------------+
| NPU     Name      | Health          | Power(W)          Temp(C)              |
| Chip    Device    | Bus-Id          | AICore(%)         Memory-Usage(MB)     |
+===================+=================+========================================+
| 0       310       | OK              | 12.8              58                   |
| 0       0         | NA              | 0                 5324 / 8192          |
""".splitlines()
CAPTURED_310P3 = """\
+-------------------+-----------------+------------------------------------------------------+
| NPU     Name      | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device    | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===================+=================+======================================================+
| 0       310P3     | OK              | 15.8         42                0    / 0              |
| 0       0         | 0000:82:00.0    | 0            1074 / 21534                            |
+===================+=================+======================================================+
""".splitlines()


def test_npu_smi_prints_the_captured_shapes(npu_smi):
    assert npu_smi()[1][:8] == CAPTURED_310
    assert npu_smi("310P3")[1][2:] == CAPTURED_310P3


def chips_in(lines):
    """(NPU, name, health, chip and device, AICore) of each chip, read from its two rows."""
    stop = next((i for i, text in enumerate(lines) if "Process id" in text), len(lines))
    rows = [[cell.split() for cell in text.strip("|").split("|")] for text in lines[5:stop] if text[0] == "|"]
    return [(first[0][0], first[0][1], first[1][0], " ".join(second[0]), second[2][0])
            for first, second in zip(rows[::2], rows[1::2])]


CARD = [("0", "310", "OK", f"{i} {i}", "0") for i in range(4)]


@pytest.mark.parametrize("table, chips", [
    (None, CARD),
    ("310", CARD),
    ("310-wide", CARD),
    ("310-busy", [CARD[0], ("0", "310", "OK", "1 1", "35"), *CARD[2:]]),
    ("310P3", [("0", "310P3", "OK", "0 0", "0")]),
    ("310P3-process", [("0", "310P3", "OK", "0 0", "0")]),
    ("310P3-unhealthy", [("0", "310P3", "Alarm", "0 0", "0"), ("0", "310P3", "OK", "1 1", "0")]),
    ("310-two-cards", [(str(2 + i // 4 * 4), "310", "OK", f"{i % 4} {i}", "0") for i in range(8)]),
    ("910", [(str(i), "910A", "OK", "0", "0") for i in range(8)]),
])
def test_npu_smi_tables(npu_smi, table, chips):
    status, lines = npu_smi(table)
    assert (status, chips_in(lines)) == (0, chips)
    assert len({len(text) for text in lines}) == 1  # a rectangle


def test_npu_smi_process_table(npu_smi):
    assert "| No running processes found in NPU 0 " in npu_smi("310-wide")[1][-2]
    last = npu_smi("310P3-process")[1][-2]
    assert [cell.split() for cell in last.strip("|").split("|")] == [["0", "0"], ["4711"], ["python3"], ["120"]]
    assert last.index("|", 1) == 32  # after a first column of 31 characters
    assert not any("Process" in text for text in npu_smi("310")[1])


def test_npu_smi_fails(npu_smi, cwd, monkeypatch):
    monkeypatch.setenv("FAKE_CANN_LOG", str(cwd / "calls"))
    assert npu_smi("none") == (1, ["dcmi module initialize failed"])
    for words in ((), ("list",), ("info", "-l")):
        assert npu_smi("310", words) == (1, [])
    assert not (cwd / "calls").exists()
    with pytest.raises(SystemExit):
        npu_smi("311")


# ---- the files as programs

def test_programs_run_from_a_shell(benchmark, cwd, monkeypatch):
    """By name on PATH, and as ./benchmark.x86_64, the way the ports' scripts call them."""
    folders = [str(FAKES), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))

    def run(*words):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()[1], done.stderr

    flags = ["--framework=5", "--model=tiny.onnx", "--output=x_bs1", "--soc_version=Ascend310"]
    assert run("atc", *flags) == (255, FAILED, "")
    assert run("atc", *flags, "--input_shape=image:1,3,4,5") == (0, "ATC run success, welcome to the next use.", "")
    (cwd / "benchmark.x86_64").symlink_to(FAKES / "benchmark.aarch64")
    words = ["./benchmark.x86_64", "-om_path=x_bs1.om", "-input_text_path=tiny.info"]
    assert run(*words) == (0, "[INFO][PostProcess] curSampleNum is 2", "")
    assert len(dumps()) == 10
    assert run("npu-smi", "info") == (0, CAPTURED_310[1], "")
    monkeypatch.setenv("PYTHONPATH", str(FAKES / "python"))
    assert run("python3", "-m", "ais_bench", "--model", "x_bs1.om", "-i", "prep") == (
        0, "[INFO] open device 0 success", "")
    monkeypatch.setenv("FAKE_CANN_FAIL", "ais-error")
    words = ["python3", "-m", "ais_bench", "--model=x_bs1.om"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "RuntimeError: fake fault")

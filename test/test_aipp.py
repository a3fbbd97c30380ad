"""uint8 tensors: img_preprocess.py --aipp, and the host's atc and benchmark with an AIPP config."""
import subprocess
import sys

from conftest import CLASSES, SIDE, SUITE, few_photos, run
from host import aipp, om

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

CONFIG = SUITE / "tools/xception_aipp.cfg"
PHOTOS = SUITE / "test/data/imagenet/val"
MINIMAL = "aipp_op { aipp_mode: static input_format: RGB888_U8 %s }"


def atc(folder, *extra, model="m.onnx", shape=f"image:1,3,{SIDE},{SIDE}", status=0):
    return run(SUITE / "host/atc", "--framework=5", f"--model={model}", "--output=m", "--input_format=NCHW",
               f"--input_shape={shape}", "--soc_version=Ascend310", *extra, cwd=folder, status=status)


def benchmark(folder, status=0):
    return run(SUITE / "host/benchmark.x86_64", "-batch_size=1", "-om_path=m.om", "-input_text_path=m.info",
               "-output_binary", cwd=folder, status=status)


def with_config(folder, text):
    """Compile m.onnx of the `small` fixture with a config."""
    (folder / "aipp.cfg").write_text(text)
    return "--insert_op_conf=aipp.cfg"


# --- the whole way ----------------------------------------------------------------------------------------------

def test_every_photo_gets_the_same_top5_as_with_floats(work, tmp_path):
    """Through both paths, from JPEG to logits, with the reference weights in float32."""
    logits, photos = {}, few_photos(tmp_path) / "val"
    for kind, options, flags in (("float", [], []), ("uint8", ["--aipp"], [f"--insert_op_conf={CONFIG}"])):
        folder = tmp_path / kind
        folder.mkdir()
        run(sys.executable, SUITE / "img_preprocess.py", photos, "prep", *options, cwd=folder)
        run(sys.executable, SUITE / "gen_dataset_info.py", "bin", "prep", "m.info", "299", "299", cwd=folder)
        atc(folder, *flags, model=work / "xception.onnx", shape="image:1,3,299,299")
        benchmark(folder)
        dumps = sorted((folder / "result/dumpOutput_device0").iterdir())
        logits[kind] = np.stack([np.fromfile(path, "<f4") for path in dumps])
    assert {path.stat().st_size for path in (tmp_path / "uint8/prep").glob("*.bin")} == {268_203}
    assert logits["float"].shape == logits["uint8"].shape == (11, 1000)
    top5 = {kind: np.argsort(-values, axis=1, kind="stable")[:, :5] for kind, values in logits.items()}
    np.testing.assert_array_equal(top5["float"], top5["uint8"])
    largest = np.abs(logits["float"] - logits["uint8"]).max() / np.abs(logits["float"]).max()
    print(f"largest logit difference, uint8 against float32: {largest:.1e} of the largest logit")
    assert largest < 1e-4


def test_bins_are_torchvisions_crop(tmp_path):
    photos = few_photos(tmp_path) / "val"
    done = run(sys.executable, SUITE / "img_preprocess.py", photos, "prep", "--aipp", "--verify", "45", cwd=tmp_path)
    assert "11 of 11 tensors compared with torchvision: every bit equal" in done.stdout
    path = tmp_path / "prep/cat_1.bin"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    with open(path, "r+b") as file:  # in place: the modification time is put back below
        file.write(data)
    stamp = (PHOTOS / "cat_1.JPEG").stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", f"import os; os.utime({str(path)!r}, ns=({stamp}, {stamp}))"], check=True)
    bad = run(sys.executable, SUITE / "img_preprocess.py", photos, "prep", "--aipp", "--verify", "45", cwd=tmp_path,
              status=1)
    assert "cat_1.bin: 1 of 268203 values differ from torchvision's" in bad.stderr


def test_change_of_dtype_remakes_all_bins(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.JPEG").write_bytes((PHOTOS / "cat_1.JPEG").read_bytes())
    for options, size in (([], 1_072_812), (["--aipp"], 268_203), ([], 1_072_812)):
        done = run(sys.executable, SUITE / "img_preprocess.py", "photos", "prep", *options, cwd=tmp_path)
        assert "(1 made, 0 kept)" in done.stdout
        assert (tmp_path / "prep/cat.bin").stat().st_size == size
        run(sys.executable, SUITE / "gen_dataset_info.py", "bin", "prep", "m.info", "299", "299", cwd=tmp_path)


def test_bins_of_two_kinds_in_one_folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(3 * 4 * 5))
    (tmp_path / "b.bin").write_bytes(bytes(3 * 4 * 5 * 4))
    command = [sys.executable, SUITE / "gen_dataset_info.py", "bin", ".", "m.info"]
    assert "b.bin: 240 bytes, expected 60 (3 x 4 x 5 uint8)" in run(*command, "5", "4", cwd=tmp_path, status=3).stderr
    (tmp_path / "a.bin").write_bytes(bytes(7))
    assert "a.bin: 7 bytes, expected 240 (3 x 4 x 5 float32) or 60 (3 x 4 x 5 uint8)" in \
        run(*command, "5", "4", cwd=tmp_path, status=3).stderr


# --- atc and benchmark ------------------------------------------------------------------------------------------

def test_arithmetic_and_channel_swap(small):
    """(x - mean - min) * var_reci for each channel, after the swap, against NumPy."""
    option = with_config(small, MINIMAL % "rbuv_swap_switch: true mean_chn_0: 7 min_chn_1: 20.5 mean_chn_1: 1 "
                                "var_reci_chn_0: 0.5 var_reci_chn_2: 0.01")
    atc(small, option)
    header = om.load(small / "m.om")[0]
    assert header["inputs"] == [{"name": "image", "shape": [1, SIDE, SIDE, 3], "dtype": "u8"}]
    assert header["aipp"]["rbuv_swap_switch"] is True
    images = np.random.default_rng(3).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        image.tofile(small / f"p/t{i}.bin")
    benchmark(small)
    normalized = (images[..., ::-1] - np.array([7, 21.5, 0])) * np.array([0.5, 1, 0.01])
    weight = np.random.default_rng(1).standard_normal((3, CLASSES)).astype("f4")  # the small network's
    expected = normalized.mean((1, 2)) @ weight
    found = np.stack([np.fromfile(small / f"result/dumpOutput_device0/t{i}_1.bin", "<f4") for i in range(5)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_tensors_of_the_other_dtype_are_explained(small):
    atc(small, with_config(small, MINIMAL % ""))
    line = benchmark(small, status=3).stderr
    assert "768 bytes are a float32 tensor; the om reads 192: 8x8x3 uint8, as it was compiled with AIPP" in line
    assert "input data size don't match the model input size" in line
    atc(small)
    for path in (small / "p").iterdir():
        path.write_bytes(bytes(3 * SIDE * SIDE))
    line = benchmark(small, status=3).stderr
    assert "192 bytes are a uint8 tensor, of img_preprocess.py --aipp; the om reads 768: 3x8x8 float32" in line


def image_network(dtype="FLOAT", shape=("N", 3, 299, 299), out="FLOAT", outputs=1):
    """An ONNX file's bytes: mean brightness of each channel of an image, as logits of three classes."""
    from onnx import TensorProto, helper

    axes = [1, 2] if shape[-1] == 3 else [2, 3]
    nodes = [helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["f"], ["mean"], axes=axes, keepdims=0)]
    names = ["class", "features"][:outputs]
    nodes += [helper.make_node("Cast", ["mean"], [name], to=getattr(TensorProto, out)) for name in names]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", getattr(TensorProto, dtype), shape)],
        [helper.make_tensor_value_info(name, getattr(TensorProto, out), ["N", 3]) for name in names])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()


@pytest.mark.parametrize(("network", "message"), [
    ({"dtype": "UINT8"}, "its input 'image' is uint8; export the network with a float32 input"),
    ({"dtype": "FLOAT16"}, "is float16; export the network with a float32 input; atc makes fp16 by itself"),
    ({"out": "FLOAT16"}, "its output 'class' is float16; export the network with a float32 output; atc makes fp16"),
    ({"out": "INT64"}, "its output 'class' is int64; export the network with a float32 output"),
    ({"shape": ("N", 299, 299, 3)}, "its input is Nx299x299x3, in the order NHWC; the tensors are Nx3x299x299"),
    ({"shape": (1, 3, 224, 224)}, "its input is 1x3x224x224; the tensors are Nx3x299x299"),
    ({"outputs": 2}, "has 2 outputs (class, features); export the network with one, the logits"),
])
def test_a_network_that_takes_other_tensors_is_refused_before_they_are_made(network, message, tmp_path):
    (tmp_path / "m.onnx").write_bytes(image_network(**network))
    for words in (["--check"], []):
        done = run("bash", SUITE / "run_all.sh", "--engine=host", "--weights=m.onnx", "--datasets_path", PHOTOS.parent,
                   *words, cwd=tmp_path, status=3, quick=True)
        assert message in done.stdout + done.stderr
    assert not (tmp_path / "work/prep_dataset").exists()


def test_tensors_in_the_other_order_are_refused_though_their_size_is_right(tmp_path):
    """An om with uint8 input of its own, NCHW, takes the bytes of an HWC tensor for another picture."""
    (tmp_path / "m.onnx").write_bytes(image_network("UINT8"))
    atc(tmp_path, shape="image:1,3,299,299")
    run(sys.executable, SUITE / "img_preprocess.py", few_photos(tmp_path) / "val", "p", "--aipp", cwd=tmp_path)
    run(sys.executable, SUITE / "gen_dataset_info.py", "bin", "p", "m.info", "299", "299", cwd=tmp_path)
    message = "holds uint8 tensors, HWC, but m.om takes uint8, CHW, without AIPP; export the network with a float32"
    assert f"p: {message}" in benchmark(tmp_path, status=3).stderr
    done = run(sys.executable, SUITE / "tools/infer.py", "m.om", "out", "--info=m.info", "--engine=host", cwd=tmp_path,
               status=3)
    assert message in done.stderr
    (tmp_path / "m.info").write_text("0 p/x.bin 299 299\n")
    (tmp_path / "p/manifest.json").unlink()
    (tmp_path / "p/x.bin").write_bytes(bytes(12 * 299 * 299))
    line = benchmark(tmp_path, status=3).stderr
    assert "the om reads 268203: 3x299x299 uint8, in its own order, without AIPP" in line and "--aipp" not in line


@pytest.mark.parametrize(("text", "message"), [  # what the real atc refuses too: test_contract.py
    (MINIMAL % "crop: true src_image_size_w: 8 src_image_size_h: 8", "crop: true: not supported"),
    (MINIMAL % "csc_switch: true", "csc_switch: true: not supported"),
    (MINIMAL % "left_padding_size: 3", "left_padding_size: 3: not supported"),
    ("aipp_op { aipp_mode: static input_format: YUV420SP_U8 }", "input_format: YUV420SP_U8: not supported"),
])
def test_a_config_that_the_stand_in_cannot_do_is_refused_by_key(text, message):
    with pytest.raises(aipp.AippError, match=message):
        aipp.check_support(aipp.parse(text))


def test_comments_blanks_and_defaults():
    found = aipp.parse("# a comment {\n\naipp_op{ # another }\naipp_mode :static\n"
                       "input_format:RGB888_U8 crop:false }\n#end")
    assert found["var_reci_chn_2"] == 1.0
    assert found["min_chn_0"] == 0.0
    assert found["rbuv_swap_switch"] is False


words = st.sampled_from(["aipp_op", "{", "}", ":", "aipp_mode", "static", "input_format", "RGB888_U8", "min_chn_0",
                         "1e999", "crop", "true", "#", "\n", " ", "mean_chn_1", "-1", '"', "0x", "nan"])


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.one_of(st.text(max_size=80), st.lists(words, max_size=25).map(" ".join),
                 st.lists(words, max_size=15).map(lambda parts: MINIMAL % " ".join(parts))))
def test_any_text_is_parsed_or_refused(text):
    try:
        found = aipp.parse(text)
    except aipp.AippError as error:
        assert str(error)
    else:
        assert found["aipp_mode"] == "static"


def test_the_fake_atc_of_the_tests_takes_the_shipped_config_too(work, tmp_path):
    """It is an independent reading of the contract."""
    done = run(SUITE / "test/fake_cann/atc", "--framework=5", f"--model={work}/xception.onnx", "--output=m",
               "--input_format=NCHW", "--input_shape=image:1,3,299,299", "--soc_version=Ascend310",
               f"--insert_op_conf={CONFIG}", cwd=tmp_path)
    assert "ATC run success" in done.stdout
    assert b'"bytes": 268203' in (tmp_path / "m.om").read_bytes()

"""The commands of README and docs, run as printed."""
import json
import os
import re
import subprocess
from collections import Counter

from common.cli import import_openvino
from conftest import SUITE, copy_of_the_suite, few_photos
from host import deploy, om

import onnx
import pytest

PAGES = sorted(path.name for path in (SUITE / "docs").glob("*.md") if path.name != "README.zh-CN.md")


def blocks(page: str, language: str) -> list:
    """The code blocks of one language in a page."""
    text = (SUITE / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_commands(commands: str, copy):
    """Run `commands` in a separate shell in a checkout; return the finished process."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MALLOC_"))}
    environment.update(HOME=str(copy), PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    result = subprocess.run(["bash", "-euo", "pipefail"], input=commands, cwd=copy, env=environment,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def not_ignored(copy) -> set:
    """What commands left in a checkout that .gitignore does not name."""
    if not (copy / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    status = subprocess.run(["git", "status", "--porcelain", "--untracked-files=normal", "-z"], cwd=copy,
                            capture_output=True, text=True, check=True).stdout
    return {name[3:].rstrip("/") for name in status.split("\0") if name} - {path.name for path in SUITE.iterdir()}


@pytest.fixture(scope="session")
def after_readme(default_job, tmp_path_factory):
    """(finished process, checkout) of all commands of the README in one shell, in order, in a new checkout.

    Two are not run again: `bash run_all.sh` is default_job, and `bash test/run.sh` is what runs this test. The
    published weights are not here, so that the command which needs them must report just that. The variables for images
    and labels are edited, as the README tells its reader to: 11 photos. The int8 run takes 4, one
    at a time, in a folder of its own.
    """
    copy = copy_of_the_suite(tmp_path_factory.mktemp("readme") / "suite", default_job.work)
    few_photos(copy / "work/few")
    commands = "".join(blocks("README.md", "bash"))
    real = "bash run_all.sh --weights xception-c0a72b38.pth.tar --datasets_path /opt/npu\n"
    int8 = "bash run_all.sh --precision int8"
    for old, new in {"bash test/run.sh\n": "", "bash run_all.sh\n": "", int8: f"{int8} --limit 4 --batch_sizes 1",
                     real: f"if {real.rstrip()}; then exit 99; fi\n",
                     "=test/data/imagenet/val ": "=work/few/imagenet/val ",
                     "=test/data/imagenet/val_label.txt ": "=work/few/imagenet/val_label.txt "}.items():
        assert commands.count(old) == 1
        commands = commands.replace(old, new)
    return run_commands(commands, copy), copy


def test_readme_commands_run_as_printed(after_readme):
    result, copy = after_readme
    assert "xception-c0a72b38.pth.tar: no such file; README section 1" in result.stderr
    assert "11 of 11 tensors compared with torchvision: every bit equal" in result.stdout
    assert "agrees with result_bs1.json" in result.stdout
    assert "PASSED" in result.stdout
    assert (copy / "result_bs1.json").read_bytes() == (copy / "result_bs16.json").read_bytes()
    assert "work/report.html: 45 images" in result.stdout
    assert not not_ignored(copy)


def test_the_int8_run_is_int8_in_every_layer_and_meets_the_gate(after_readme):
    """On a CPU without int8 the om simulates it: then OpenVINO's own plan for the same model is looked at."""
    _, copy = after_readme
    work = copy / "work/limit4"
    record = json.loads((work / "run.json").read_text())
    assert [row["precision"] for row in record["precisions"]] == ["f32", "fp16", "int8"]
    quantization = {"tool": "the CPU stand-in host/amct_onnx", "images": 4, "scored": 4}
    assert record["quantization"].items() >= quantization.items()
    assert "PASSED" in (work / "accuracy_bs1.txt").read_text()
    assert abs(record["precisions"][2]["difference"]) <= 100 / 4  # one image, if another CPU rounds elsewhere
    core = import_openvino().Core()
    model = core.read_model(deploy.to_fake_quantize(onnx.load(work / "xception_deploy_model.onnx")).SerializeToString())
    model.reshape([1, 3, 299, 299])
    layers = Counter()
    for node in core.compile_model(model, "CPU", om.engine_config(om.INT8)).get_runtime_model().get_ordered_ops():
        layers[node.rt_info["layerType"].astype(str), node.rt_info["runtimePrecision"].astype(str)] += 1
    found = {key: count for key, count in layers.items() if key[0] in ("Convolution", "FullyConnected")}
    assert found == {("Convolution", "u8"): 74, ("FullyConnected", "u8"): 1}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(f"docs/{page}", "bash")])
def test_docs_commands_run_as_printed(page, after_readme):
    """A page's commands in a separate shell, after the README's, with the README's variables."""
    _, copy = after_readme
    variables = "images=work/few/imagenet/val\nlabels=work/few/imagenet/val_label.txt\nsource env.sh\n"
    commands = "".join(blocks(f"docs/{page}", "bash")).replace("work --precision int8", "work/limit4 --precision int8")
    result = run_commands(variables + commands, copy)
    if page == "formats.md":
        difference = re.search("^compared with result/dumpOutput_bs1: same top-5 on 11 of 11 images; largest "
                               r"difference (\S+) ", result.stdout, re.MULTILINE)
        assert 0 < float(difference.group(1)) < 1e-5  # float32 arithmetic, in two orders
        assert "ave_throughputRate" in result.stdout
        assert "agrees with result_bs1.json" in result.stdout
    assert not not_ignored(copy)


def test_readme_has_the_guides_sections_and_published_figures():
    text = (SUITE / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (?:(\d)\. )?(\w+)", text, re.MULTILINE) == [
        ("", "Quick"), ("", "Run"), ("1", "Model"), ("2", "Environment"), ("3", "Conversion"), ("4", "Data"),
        ("5", "Offline"), ("6", "Accuracy"), ("7", "Performance"), ("", "If"), ("", "Documentation")]
    for figure in ("78.892", "94.292", "78.35", "94.31", "78.8 ", "94.33", "203a36dce3e49d45e5d742efbad5ba65",
                   "158.623", "182.215", "203.357", "198.865", "164.302", "7b9718b", "1610.02357"):
        assert figure in text, figure


def test_the_readmes_example_has_the_shape_of_what_is_printed(default_job):
    tables = default_job.stdout[default_job.stdout.index("== Accuracy"):]

    def shape(text):
        text = re.sub(r"  best$", "", text, flags=re.MULTILINE)
        text = re.sub(r"OpenVINO .*", "OpenVINO", text)
        text = re.sub(r"^/\S+/", "/", text, flags=re.MULTILINE)
        return [re.sub(r"[\d.]+", "#", line).split() for line in text.strip().splitlines()]

    (example,) = [block for block in blocks("README.md", "text") if block.startswith("== Accuracy")]
    assert shape(example) == shape(tables)

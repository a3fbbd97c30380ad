"""The README: its failures as they are really told, and its two languages with the same commands and figures."""
import re
import sys

from conftest import SIDE, SUITE, run, small_model
from test_faults import small_disk  # noqa: F401 (a fixture)

import numpy as np
import onnx
import pytest

ENGLISH, CHINESE = ((SUITE / name).read_text(encoding="utf-8") for name in ("README.md", "docs/README.zh-CN.md"))
PHOTO = SUITE / "test/data/imagenet/val/cat_1.JPEG"


# ---- the ten likeliest failures

def failures(text: str) -> list:
    """The messages of the table in section 8."""
    section = text[text.index("\n## 8."):]
    rows = re.findall(r"^\| `(.*?)` \| .+ \|$", section[:section.index("\n### ")], re.MULTILINE)
    assert len(rows) == 10
    return rows


def weights_that_are_not_there(folder, _):
    return run("bash", SUITE / "run_all.sh", "--weights=w.pth", "--datasets_path=.", cwd=folder, status=3)


def published_weights_cut_short(folder, _):
    (folder / "xception-c0a72b38.pth.tar").write_bytes(b"<html>")
    return run(sys.executable, SUITE / "xception_pth2onnx.py", "xception-c0a72b38.pth.tar", "x.onnx", cwd=folder,
               status=3)


def weights_of_another_network(folder, _):
    import torch

    torch.save({"fc.weight": torch.zeros(1000, 2048), "layer1.weight": torch.zeros(3)}, folder / "resnet.pth")
    return run(sys.executable, SUITE / "xception_pth2onnx.py", "resnet.pth", "x.onnx", cwd=folder, status=3)


def no_inference_tool(folder, _):
    (folder / "x.om").write_bytes(b"IMOD" + bytes(100))
    return run(sys.executable, SUITE / "tools/infer.py", "x.om", "out", "--info=x.info", cwd=folder, status=4)


def wrong_input_name(folder, _):
    onnx.save(small_model(), folder / "m.onnx")
    return run(SUITE / "host/atc", "--framework=5", "--model=m.onnx", "--output=m", "--soc_version=Ascend310",
               f"--input_shape=data:1,3,{SIDE},{SIDE}", cwd=folder, status=255)


def small_disk_for_tensors(folder, disk):
    (folder / "val").mkdir()
    (folder / "val/a.JPEG").symlink_to(PHOTO)
    return run(sys.executable, SUITE / "img_preprocess.py", "val", disk(1 << 19) / "bins", cwd=folder, status=4)


def bad_image(folder, _):
    (folder / "val").mkdir()
    (folder / "val/a.JPEG").symlink_to(PHOTO)
    (folder / "val/b.JPEG").write_bytes(PHOTO.read_bytes()[:1000])
    return run(sys.executable, SUITE / "img_preprocess.py", "val", "bins", cwd=folder, status=3)


def tensors_of_the_other_kind(folder, _):
    onnx.save(small_model(), folder / "m.onnx")
    run(SUITE / "host/atc", "--framework=5", "--model=m.onnx", "--output=m", "--soc_version=Ascend310",
        f"--input_shape=image:1,3,{SIDE},{SIDE}", cwd=folder)
    np.zeros(3 * SIDE * SIDE, np.uint8).tofile(folder / "t.bin")
    (folder / "x.info").write_text(f"0 ./t.bin {SIDE} {SIDE}\n")
    return run(SUITE / "host/benchmark", "-om_path=m.om", "-input_text_path=x.info", cwd=folder, status=3)


def score(folder, labels, status):
    (folder / "val_label.txt").write_text("".join(f"{image}.JPEG {label}\n" for image, label in labels.items()))
    return run(sys.executable, SUITE / "imagenet_acc_eval.py", "dumps", "val_label.txt", ".", "r.json", cwd=folder,
               status=status)


def dumps_that_are_missing(folder, _):
    (folder / "dumps").mkdir()
    (folder / "dumps/a_1.txt").write_text("1 2 3 \n")
    return score(folder, {"a": 1, "b": 1}, 3)


def labels_in_another_order(folder, _):
    (folder / "dumps").mkdir()
    labels = {}
    for i in range(400):
        (folder / f"dumps/i{i}_1.txt").write_text(" ".join(str(int(k == i % 20)) for k in range(20)) + " \n")
        labels[f"i{i}"] = (i + 1) % 20
    return score(folder, labels, 0)


PROVOKED = [weights_that_are_not_there, published_weights_cut_short, weights_of_another_network, no_inference_tool,
            wrong_input_name, small_disk_for_tensors, bad_image, tensors_of_the_other_kind, dumps_that_are_missing,
            labels_in_another_order]


@pytest.mark.parametrize("place", range(10), ids=[provoke.__name__ for provoke in PROVOKED])
def test_the_likeliest_failures_are_told_as_the_readme_says(place, tmp_path, small_disk):  # noqa: F811
    """Word for word, … standing for anything."""
    message = failures(ENGLISH)[place]
    (tmp_path / "here").mkdir()
    done = PROVOKED[place](tmp_path / "here", small_disk)
    pattern = ".*".join(re.escape(part.strip(" ")) for part in message.split("…"))
    assert re.search(f"^{pattern}", done.stderr + done.stdout, re.MULTILINE), done.stderr + done.stdout
    assert failures(CHINESE)[place] == message


# ---- two languages

def blocks(text: str) -> list:
    """(language, content) of all code blocks, without what is said behind # in those of the shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, re.sub(r" *#.*$", "", content, flags=re.MULTILINE)) for language, content in found]


def figures(text: str) -> list:
    """The numbers outside code blocks, section by section, in order of size; thousands with or without a comma."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    sections = re.split(r"^#+ .*$", text, flags=re.MULTILINE)
    return [sorted(float(number.replace(",", "")) for number in
                   re.findall(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,])|(?<![\w.,])\d+(?:\.\d+)?", section))
            for section in sections]


def test_both_languages_have_the_same_sections():
    levels = [re.findall(r"^(#+) ([\d.]*)", text, re.MULTILINE) for text in (
        re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL) for text in (ENGLISH, CHINESE))]
    assert levels[0] == levels[1]


def test_both_languages_have_the_same_commands():
    assert blocks(ENGLISH) == blocks(CHINESE)
    assert len(blocks(ENGLISH)) > 20


def test_both_languages_have_the_same_figures():
    """Section by section; words are no figures: a translation writes 三 for three as the other writes the word."""
    assert figures(ENGLISH) == figures(CHINESE)


def test_both_languages_name_the_same_things():
    """What stands in `code` within the text: files, options, messages; and the links."""
    for pattern in (r"(?<!`)`([^`\n]+)`(?!`)", r"\]\(([^)]+)\)"):
        named = [sorted(re.findall(pattern, re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)))
                 for text in (ENGLISH, CHINESE)]
        named = [[name for name in names if "README" not in name and name not in ("docs/report.png", "report.png")]
                 for names in named]
        assert named[0] == named[1]


def test_the_chinese_readme_is_chinese():
    text = re.sub(r"`[^`]*`", "", CHINESE)
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 4000


def test_every_file_that_the_readme_links_to_is_there():
    for folder, text in ((SUITE, ENGLISH), (SUITE / "docs", CHINESE)):
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (folder / link).exists(), link

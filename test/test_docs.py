"""README.md and docs/: limits, links, quoted messages, and the same content in both languages of the README.

test_default_job.py runs their commands.
"""
import re
import sys

from conftest import SIDE, SUITE, run, small_model
from test_faults import small_disk  # noqa: F401 (a fixture)

import numpy as np
import onnx
import pytest

ENGLISH, CHINESE = ((SUITE / name).read_text(encoding="utf-8") for name in ("README.md", "docs/README.zh-CN.md"))
PAGES = sorted(path for path in (SUITE / "docs").glob("*.md") if path.name != "README.zh-CN.md")
EVERY = [SUITE / "README.md", SUITE / "docs/README.zh-CN.md", *PAGES]
PHOTO = SUITE / "test/data/imagenet/val/cat_1.JPEG"
README_LINES, README_WIDTH = 180, 100


def prose(text: str) -> str:
    """`text` without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# ---- limits, links, names

@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_the_readme_is_short(text):
    assert len(text.splitlines()) <= README_LINES


def test_the_readme_has_no_long_lines_outside_tables_and_code():
    assert [line for line in prose(ENGLISH).splitlines() if len(line) > README_WIDTH and line[0] != "|"] == []


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_readme_links_every_page_of_the_docs():
    assert {page.name for page in PAGES} <= set(re.findall(r"\]\(docs/([^)]+)\)", ENGLISH))


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
def test_scripts_named_in_the_docs_exist(page):
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w/.-])(?:(?:tools|host|common|test|test/bench)/)?[a-z]\w*\.(?:py|sh|cfg)\b", text)
    for name in set(found) - {"set_env.sh"}:  # CANN's
        assert any((SUITE / folder / name).exists() for folder in (".", "tools", "host")), name


def test_options_in_the_docs_are_options_of_run_all():
    known = run("bash", SUITE / "run_all.sh", "--help", cwd=SUITE).stdout
    found = set()
    for page in EVERY:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"bash run_all\.sh[^`#\n]*", text):
            found.update(re.findall(r"(?<=\s)--[a-z_-]+", command))
    table = re.findall(r"^\| `(--[a-z_-]+) ?[^`]*` \|", ENGLISH, re.MULTILINE)
    assert len(table) == 8
    for option in found.union(table) - {"--score", "--study"}:  # these two are documented in docs/ alone
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), option


# ---- the ten likeliest failures

def failures() -> list:
    """The messages of the table in docs/troubleshooting.md."""
    text = (SUITE / "docs/troubleshooting.md").read_text(encoding="utf-8")
    section = text[text.index("## The ten likeliest failures"):].split("\n## ")[0]
    rows = re.findall(r"^\| `(.*?)` \| .+ \|$", section, re.MULTILINE)
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


def unreadable_image(folder, _):
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
            wrong_input_name, small_disk_for_tensors, unreadable_image, tensors_of_the_other_kind,
            dumps_that_are_missing, labels_in_another_order]


@pytest.mark.parametrize("place", range(10), ids=[provoke.__name__ for provoke in PROVOKED])
def test_the_likeliest_failures_print_the_documented_messages(place, tmp_path, small_disk):  # noqa: F811
    """Word for word, … standing for anything."""
    message = failures()[place]
    (tmp_path / "here").mkdir()
    done = PROVOKED[place](tmp_path / "here", small_disk)
    pattern = ".*".join(re.escape(part.strip(" ")) for part in message.split("…"))
    assert re.search(f"^{pattern}", done.stderr + done.stdout, re.MULTILINE), done.stderr + done.stdout


# ---- two languages

def blocks(text: str) -> list:
    """(language, content) of all code blocks, without the shell's comments."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, re.sub(r" *#.*$", "", content, flags=re.MULTILINE)) for language, content in found]


def figures(text: str) -> list:
    """The numbers outside code blocks, section by section, in order of size; thousands with or without a comma."""
    sections = re.split(r"^#+ .*$", prose(text), flags=re.MULTILINE)
    return [sorted(float(number.replace(",", "")) for number in
                   re.findall(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,])|(?<![\w.,])\d+(?:\.\d+)?", section))
            for section in sections]


def test_both_languages_have_the_same_sections():
    levels = [re.findall(r"^(#+) ([\d.]*)", prose(text), re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]


def test_both_languages_have_the_same_commands():
    assert blocks(ENGLISH) == blocks(CHINESE)
    assert len(blocks(ENGLISH)) > 12


def test_both_languages_have_the_same_figures():
    """Section by section; a number that one language spells out, the other spells out too."""
    assert figures(ENGLISH) == figures(CHINESE)


def test_both_languages_name_the_same_files_options_and_links():
    for pattern in (r"(?<!`)`([^`\n]+)`(?!`)", r"\]\(([^)]+)\)"):
        named = [sorted(re.findall(pattern, prose(text))) for text in (ENGLISH, CHINESE)]
        named = [[name.replace("docs/", "") for name in names if not name.endswith(("README.md", "README.zh-CN.md"))]
                 for names in named]
        assert sorted(named[0]) == sorted(named[1])


def test_the_chinese_readme_is_chinese():
    assert len(re.findall(r"[\u4e00-\u9fff]", re.sub(r"`[^`]*`", "", CHINESE))) > 1000

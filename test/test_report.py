"""report.py, compare.py, photo.py: figures against scipy and plain loops, and the pages in a headless browser."""
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import charts
import compare
import report
import summary
from common import runs, stats
from common.cli import Failure
from conftest import SUITE, others, run
from imagenet_acc_eval import write_details

import numpy as np
import pytest

REPORT = SUITE / "tools/report.py"
PAGE_LIMIT = 5e6  # bytes, for 50,000 images
NASTY = "<script>alert(1)<img src=x onerror=alert(2)>&amp;\"'$x^2$"  # as file names may be: no slash


def make_run(folder, labels, values, images=None, batches=("1", "16"), **changes):
    """What run_all.sh leaves in its work directory, of these logits (N, classes): run.json, details, dumps, bins."""
    folder.mkdir(parents=True)
    labels, images = np.asarray(labels), images or [f"img_{i:05}" for i in range(len(labels))]
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = 1 + np.argmax(order == labels[:, np.newaxis], axis=1)
    chances = np.exp(values - values.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    top = order[:, :5]
    accuracy = {"Number of images": str(len(labels)), "Number of classes": str(values.shape[1])}
    accuracy.update({f"Top{k} accuracy": f"{round(100 * np.count_nonzero(ranks <= k) / len(labels), 2)}%"
                     for k in range(1, top.shape[1] + 1)})
    details = (ranks, top, np.take_along_axis(chances, top, 1), np.take_along_axis(chances, labels[:, np.newaxis], 1))
    stages = {"data read": 8.95, "preprocess": 8.98, "infer": 9.01, "post": 9.23}
    inference = {batch: [{"engine": "benchmark", "batch_size": int(batch), "images": len(labels), "complete": True,
                          "rates": {"0": {"interface": 158.6, "images": len(labels), "stages": stages}},
                          "made_from": {"om": "0"}, "e2e": 108.0}] for batch in batches}
    record = {
        "demo": False, "quick_look": "", "commands": ["python3 img_preprocess.py val ./prep_dataset"],
        "versions": {"python": "3.11"}, "weights": {"file": "w.pth", "sha256": "1" * 64},
        "onnx": {"file": "x.onnx", "sha256": "2" * 64}, "soc_version": "Ascend310", "inference": inference,
        "om": {batch: {"sha256": "3" * 64, "precision": "atc's default, force_fp16"} for batch in batches},
        "data_set": {"source": "/val", "count": len(labels), "listing_sha256": ["4" * 64]},
        "recipe": {"resize": 333, "crop": 9, "interpolation": "bilinear", "dtype": "uint8", "layout": "HWC",
                   "mean": 0.5, "std": 0.5},
        "reference": "78.892,94.292", "accuracy": dict.fromkeys(batches, accuracy), **changes}
    (folder / "run.json").write_text(json.dumps(record))
    for batch in batches:
        write_details(folder / f"details_bs{batch}.csv", images, labels.tolist(), details)
        (folder / f"accuracy_bs{batch}.txt").write_text("top-1   is not read\nPASSED: as it was said\nagrees with it\n")
    return folder


def add_dumps(folder, values, images=None, batch="1"):
    """The dumps behind make_run's details."""
    dumps = folder / f"result/dumpOutput_bs{batch}"
    dumps.mkdir(parents=True)
    for i, row in enumerate(values):
        (dumps / f"{images[i] if images else f'img_{i:05}'}_1.txt").write_text(" ".join(f"{x:f}" for x in row) + " \n")


def add_bins(folder, images, recipe, seed=0):
    """A tensor of noise for each image."""
    (folder / "prep_dataset").mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for image in images:
        data = pixels if recipe["dtype"] == "uint8" else (
            (pixels.astype("<f4") / 255 - 0.5) / 0.5).transpose(2, 0, 1)
        (folder / "prep_dataset" / f"{image}.bin").write_bytes(data.tobytes())
    return pixels


@pytest.fixture
def logits():
    """(labels, values) of 40 images and 7 classes; about half are right."""
    random = np.random.default_rng(5)
    labels, values = random.integers(0, 7, 40), random.normal(0, 1.5, (40, 7))
    values[np.arange(40), labels] += 2
    return labels, values


def go(*words, cwd, status=0, **options):
    return run(sys.executable, REPORT, *words, cwd=cwd, status=status, **options)


def compared(*words, cwd, status=0):
    return run(sys.executable, SUITE / "tools/compare.py", *words, cwd=cwd, status=status)


def photo_of(*words, cwd, status=0):
    return run(sys.executable, SUITE / "tools/photo.py", *words, cwd=cwd, status=status)


@pytest.fixture
def undrawn(tmp_path, monkeypatch, capsys):
    """make(script, *words): run a command in tmp_path without drawing its plots; return what it printed to stdout."""
    def make(script, *words):
        monkeypatch.setattr(sys, "argv", [script.__name__, *words])
        assert script.main() == 0
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(charts, "plot", lambda *_, **__: "")
    return make


# ---- figures

@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (5, 5), (3, 11), (200, 260), (0, 30), (12000, 12001)])
def test_mcnemar_is_the_exact_binomial_test(a, b):
    from scipy.stats import binomtest  # not at the top: every pytest process reads every file

    expected = binomtest(a, a + b).pvalue if a + b else 1.0
    assert stats.mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert stats.mcnemar(b, a) == stats.mcnemar(a, b)


@pytest.mark.parametrize(("total", "only_a", "only_b"), [(50, 0.1, 0.05), (2000, 0.02, 0.03), (200, 0.0, 0.02)])
def test_the_interval_of_a_paired_difference_covers_it(total, only_a, only_b):
    """In 95 of 100 draws, give or take what 4,000 draws leave open."""
    draws = np.random.default_rng(0).multinomial(total, [only_a, only_b, 1 - only_a - only_b], 4000)
    limits = [stats.paired_interval(a, b, total) for a, b, _ in draws.tolist()]
    covered = np.mean([low <= 100 * (only_b - only_a) <= high for low, high in limits])
    assert 0.935 <= covered <= 0.995


def test_a_paired_interval_that_can_be_checked_by_hand():
    """3 and 11 of 100: (11 - 3) / 102 -+ 1.96 sqrt((4 + 12 - 64 / 102) / 102) / 102^0.5."""
    low, high = stats.paired_interval(3, 11, 100)
    assert (low + high) / 2 == pytest.approx(100 * 8 / 102)
    assert (high - low) / 2 == pytest.approx(100 * 1.959964 * (16 / 102 - (8 / 102) ** 2) ** 0.5 / 102 ** 0.5, rel=1e-6)


def test_calibration_against_a_plain_loop(logits, tmp_path):
    run_ = runs.load_run(make_run(tmp_path / "w", *logits))
    confidence, accuracy, counts, error = charts.calibration(run_)
    expected = 0.0
    for place in range(charts.BINS):
        inside = [i for i in range(40) if place <= run_.chances[i, 0] * charts.BINS < place + 1]
        assert counts[place] == len(inside)
        if inside:
            assert confidence[place] == pytest.approx(np.mean([run_.chances[i, 0] for i in inside]))
            assert accuracy[place] == pytest.approx(np.mean([run_.ranks[i] == 1 for i in inside]))
            expected += len(inside) * abs(accuracy[place] - confidence[place]) / 40
    assert error == pytest.approx(100 * expected)


@pytest.mark.parametrize(("script", "words"), [(report, ["w"]), (compare, ["other", "w"])], ids=["report", "compare"])
def test_any_value_of_run_json_may_have_another_type(script, words, logits, tmp_path, monkeypatch):
    """A page, or one line that names the file. Without plots and dumps, and every seventh case, to save time.

    Seven and the number of odd values have no common factor, so that each place gets one or two of them.
    """
    for name in ("w", "other"):
        make_run(tmp_path / name, *logits, batches=("1",))
    record = json.loads((tmp_path / "w/run.json").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(charts, "plot", lambda *_, **__: "")
    monkeypatch.setattr(compare, "differences", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["x", *words])
    refused = 0
    for data in itertools.islice(others(record), 0, None, 7):
        (tmp_path / "w/run.json").write_text(json.dumps(data))
        try:
            assert script.main() == 0
        except Failure as error:
            refused += 1
            assert re.match(r"(w|other)/(run\.json|details_bs\d+\.csv|accuracy_bs\d+\.txt)", str(error)), error
    assert refused > 50


@pytest.mark.parametrize(("first", "second", "badge"), [
    ("PASSED: a\n", "PASSED: a\nagrees with b\n", "passed"), ("PASSED: a\n", "FAILED: x\n", "failed"),
    ("PASSED: a\n", "PASSED: a\nDISAGREES with b\n", "failed"), ("FAILED: a\n", "PASSED: a\n", "failed"),
    ("NOT COMPARED with b\n", "NOT COMPARED with b\n", None),
])
def test_verdict_covers_all_batch_sizes(first, second, badge, logits, tmp_path, undrawn):
    make_run(tmp_path / "w", *logits, reference="published")
    for batch, text in (("1", first), ("16", second)):
        (tmp_path / f"w/accuracy_bs{batch}.txt").write_text(f"top-1 1 %\n{text}partial run: 1 has no dump\n")
    undrawn(report, "w")
    page = (tmp_path / "w/report.html").read_text()
    assert re.findall(r'class="badge \w+">(\w+)<', page) == ([badge] if badge else [])
    for line in second.splitlines():
        assert f"<p>batch 16: {line}</p>" in page
    assert "<p>partial run: 1 has no dump</p>" in page
    assert "78.892 %" not in page  # the seven classes are not ImageNet's


def test_calibration_of_a_network_that_is_always_confident_and_correct(tmp_path):
    values = np.eye(3) * 1000
    run_ = runs.load_run(make_run(tmp_path / "w", [0, 1, 2], values))
    assert charts.calibration(run_)[2].tolist() == [0] * 14 + [3]
    assert charts.calibration(run_)[3] == 0


def test_differences_of_dumps(tmp_path):
    from scipy.spatial import distance

    a, b = np.random.default_rng(1).normal(0, 3, (2, 4, 10))
    add_dumps(tmp_path / "a", a)
    add_dumps(tmp_path / "b", b)
    pairs = [[str(tmp_path / f"{side}/result/dumpOutput_bs1/img_{i:05}_1.txt") for side in "ab"] for i in range(4)]
    table = runs.compare_dumps(pairs)[0]
    a, b = a.round(6), b.round(6)  # as they are written
    np.testing.assert_allclose(table[:, 0], np.abs(a - b).max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(table[:, 1], np.abs(a - b).mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(table[:, 2], [1 - distance.cosine(*pair) for pair in zip(a, b)], rtol=1e-9)
    assert stats.cosine(np.zeros(3), np.zeros(3)) == 1
    assert stats.cosine(np.zeros(3), np.ones(3)) == 0


def test_worst_classes_and_confused_pairs(tmp_path):
    """Class 2 is always taken for 0; class 1 once for 2, once right."""
    values = np.eye(3)[[0, 0, 0, 2, 1, 0]]
    run_ = runs.load_run(make_run(tmp_path / "w", [0, 2, 2, 1, 1, 0], values))
    names = ["ant", "bee", "cat"]
    assert report.worst_classes(run_, names) == [{"id": 2, "name": "cat", "right": 0, "total": 2},
                                                 {"id": 1, "name": "bee", "right": 1, "total": 2}]
    assert report.confused_pairs(run_, names) == [
        {"label": (2, "cat"), "answer": (0, "ant"), "count": 2, "of": 2},
        {"label": (1, "bee"), "answer": (2, "cat"), "count": 1, "of": 2}]


def test_photos_are_errors_by_falling_confidence_then_correct_answers(logits, tmp_path):
    run_ = runs.load_run(make_run(tmp_path / "w", *logits))
    cards = report.photos(run_, [str(i) for i in range(7)])
    assert len(cards) == charts.PHOTOS
    keys = [(card["rank"] == 1, card["top"][0]["chance"] * (1 if card["rank"] == 1 else -1)) for card in cards]
    assert keys == sorted(keys)
    assert sum(not right for right, _ in keys) == min(charts.PHOTOS, np.count_nonzero(run_.ranks > 1))
    assert all(card["picture"] == "" for card in cards)


@pytest.mark.parametrize("recipe", [{"dtype": "uint8", "layout": "HWC"}, {"dtype": "float32", "layout": "CHW"}])
def test_picture_is_what_the_network_saw(recipe, tmp_path, monkeypatch):
    """Both kinds of tensor; lossless for once, so that the bytes can be compared."""
    from PIL import Image

    recipe = {"crop": 9, "mean": 0.5, "std": 0.5, **recipe}
    pixels, seen = add_bins(tmp_path, ["a"], recipe), []
    monkeypatch.setattr(Image.Image, "resize", lambda image, size: seen.append(np.asarray(image)) or image)
    assert charts.picture([tmp_path / "none", tmp_path / "prep_dataset"], recipe, "a").startswith("data:image/jpeg;")
    np.testing.assert_array_equal(seen[0], pixels)
    (tmp_path / "prep_dataset/a.bin").write_bytes(b"x" * 10)
    assert charts.picture([tmp_path / "prep_dataset"], recipe, "a") == ""


# ---- names of classes

def test_class_names(tmp_path):
    """--classes, class folders, ImageNet's; never those of another number of classes."""
    (tmp_path / "n.txt").write_text("ant\nbee\n")
    assert runs.class_names(tmp_path / "n.txt", None, 2) == ["ant", "bee"]
    with pytest.raises(Failure, match="n.txt: 2 names, but the network has 3 classes"):
        runs.class_names(tmp_path / "n.txt", None, 3)
    assert runs.class_names(None, tmp_path, 2) == ["class 0", "class 1"]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert runs.class_names(None, tmp_path, 2) == ["cat", "dog"]
    assert runs.class_names(None, tmp_path, 3)[2] == "class 2"
    assert runs.class_names(None, tmp_path, 1000)[281] == "tabby"
    assert runs.class_names(None, tmp_path, 1001)[:2] == ["background", "tench"]


def test_synset_folders_get_imagenet_names(tmp_path):
    """Those of ILSVRC2012; a thousand other classes keep the names of their folders."""
    synsets = ["n01440764", *(f"n{i:08}" for i in range(2_000_000, 2_000_998)), "n15075141"]
    (tmp_path / "classes.txt").write_text("\n".join(synsets) + "\n")
    assert runs.class_names(None, tmp_path, 1000)[0] == "tench"
    (tmp_path / "classes.txt").write_text("\n".join(["n00000001", *synsets[1:]]) + "\n")
    assert runs.class_names(None, tmp_path, 1000)[:2] == ["n00000001", "n02000000"]


# ---- damaged files

@pytest.mark.parametrize(("name", "content", "message"), [
    ("run.json", None, "run.json: missing, so not the work directory of a finished run of run_all.sh"),
    ("run.json", b"{", "run.json: damaged; rerun run_all.sh"),
    ("run.json", b"[]", "run.json: missing or invalid field (TypeError: "),
    ("run.json", b"{}", "run.json: missing or invalid field (KeyError: 'accuracy'); rerun run_all.sh"),
    ("details_bs1.csv", None, "details_bs1.csv: missing; rerun run_all.sh"),
    ("details_bs1.csv", b"", "details_bs1.csv: missing or invalid field (ValueError: "),
    ("details_bs1.csv", b"image,label,rank,probability,class1,probability1\n",
     "details_bs1.csv: missing or invalid field "),
    ("details_bs1.csv", b"image,label,rank,probability,class1,probability1\na,1,1,0.5,1,0.5\nb,1\n",
     "details_bs1.csv: missing or invalid field (ValueError: header or columns)"),
    ("details_bs1.csv", b"image,label,rank,probability,class1,probability1\na,1,1,0.5,1,7\n",
     "details_bs1.csv: missing or invalid field (ValueError: an invalid class or probability)"),
    ("details_bs1.csv", b"image,label,rank,probability,class1,probability1\na,1,1,nan,1,1\n",
     "details_bs1.csv: missing or invalid field (ValueError: an invalid class or probability)"),
    ("details_bs1.csv", b"image,label,rank,probability,class1,probability1\na,1,1,0.5,1,0.5\n",
     "details_bs1.csv: from another run than run.json; rerun run_all.sh"),
    ("accuracy_bs1.txt", b"top-1 alone\n", "accuracy_bs1.txt: contains no verdict; rerun run_all.sh"),
])
def test_damaged_work_directory_gets_one_line(name, content, message, logits, tmp_path):
    folder = make_run(tmp_path / "w", *logits)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    done = go("w", cwd=tmp_path, status=3)
    assert done.stdout == ""
    assert done.stderr.startswith(f"report.py: w/{message}")
    assert done.stderr.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_class_beyond_the_network(logits, tmp_path):
    labels, values = logits
    folder = make_run(tmp_path / "w", labels, values)
    record = json.loads((folder / "run.json").read_text())
    record["accuracy"]["1"]["Number of classes"] = "6"
    (folder / "run.json").write_text(json.dumps(record))
    assert "a class beyond the 6 of run.json" in go("w", cwd=tmp_path, status=3).stderr


@pytest.mark.parametrize(("command", "words"), [(go, ["w", "--om", "x.om"]), (compared, ["a"]), (photo_of, ["x.jpg"])])
def test_usage(command, words, tmp_path):
    assert command(*words, cwd=tmp_path, status=2).stdout == ""


def test_without_matplotlib(logits, tmp_path):
    """As on an NPU host: one line, exit status 4."""
    make_run(tmp_path / "w", *logits)
    (tmp_path / "matplotlib.py").write_text("raise ImportError('No module named matplotlib')")
    done = go("w", cwd=tmp_path, status=4, env={"PYTHONPATH": str(tmp_path)})
    assert done.stderr == "report.py: No module named matplotlib: see requirements.txt\n"


# ---- the page

def test_the_page_of_all_of_imagenets_classes(tmp_path):
    """At most 5 MB for 5000 images: more add nothing; stdout names page and size; a second run writes the same."""
    random = np.random.default_rng(2)
    labels, values = np.arange(5000) // 5, random.standard_normal((5000, 1000)).astype("f4")
    values[np.arange(5000), labels] += 3.2
    folder = make_run(tmp_path / "w", labels, values, [f"ILSVRC2012_val_{i:08}" for i in range(5000)], ("1",))
    recipe = dict(json.loads((folder / "run.json").read_text())["recipe"], crop=299)
    (folder / "prep_dataset").mkdir()
    noise = random.integers(0, 256, 3 * 299 * 299, dtype=np.uint8).tobytes()
    (folder / "prep_dataset/noise").write_bytes(noise)
    for i in range(5000):
        os.link(folder / "prep_dataset/noise", folder / f"prep_dataset/ILSVRC2012_val_{i:08}.bin")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(dict(record, recipe=recipe)))
    done = go(".", cwd=folder)
    page = (folder / "report.html").read_bytes()
    assert done.stdout == f"{folder}/report.html: 5000 images, {len(page):,} bytes\n"
    assert 200_000 < len(page) < PAGE_LIMIT  # with 24 photos of noise, which hardly compress
    assert page.count(b"data:image/jpeg;base64,") == charts.PHOTOS
    go(".", "--out=again.html", cwd=folder)
    assert (folder / "again.html").read_bytes() == page


def test_page_head_names_a_subset_the_host_engine_and_demo_weights(logits, tmp_path, undrawn):
    """And none of them for a complete run on an NPU."""
    real = make_run(tmp_path / "real", *logits)
    undrawn(report, "real")
    page = (real / "report.html").read_text()
    assert "Ascend310, device 0 (benchmark)" in page
    for words in ("instead of an NPU", "Demo weights", "Some of the images only"):
        assert words not in page
    inference = json.loads((real / "run.json").read_text())["inference"]
    for record in inference["1"] + inference["16"]:
        record.update(engine="host", device="CPU stand-in, not an NPU: f32")
    host = make_run(tmp_path / "host", *logits, demo=True, quick_look="--sample=40", inference=inference)
    undrawn(report, "host")
    head = (host / "report.html").read_text().split("<h2>")[0]
    for words in ("instead of an NPU", "Demo weights", "Some of the images only (--sample=40)",
                  "CPU stand-in, not an NPU: f32", "PASSED: as it was said", "agrees with it"):
        assert words in head


def test_shares_of_several_ranks(logits, tmp_path):
    """Rates are added, stages averaged; ais_bench reports no stages."""
    record = {"engine": "ais_bench", "batch_size": 1, "images": 20, "complete": True, "made_from": {"om": "0"},
              "e2e": 50}
    shares = [dict(record, rates={"0": {"interface": rate, "images": 20, "stages": stages}})
              for rate, stages in ((100.0, {"infer": 8.0}), (60.5, {"infer": 9.0}))]
    folder = make_run(tmp_path / "w", *logits, batches=("1",), inference={"1": shares})
    rows = summary.rates_of(runs.load_run(folder))
    assert [(row["interface"], row["stages"]) for row in rows] == [(160.5, {"infer": 8.5})]
    for share in shares:
        share["rates"]["0"]["stages"] = {}
    (folder / "run.json").write_text(json.dumps(dict(json.loads((folder / "run.json").read_text()),
                                                     inference={"1": shares})))
    go("w", cwd=tmp_path)
    page = (folder / "report.html").read_text()
    assert "The tool does not print" in page
    assert page.count("<svg") == 4


# ---- in a browser

BROWSER = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
PROBE = """<script>
const wrong = [];
for (const image of document.images)
  if (!image.complete || !image.naturalWidth) wrong.push("image " + image.alt);
for (const plot of document.querySelectorAll("svg")) {
  const box = plot.getBoundingClientRect(), drawn = plot.getBBox();
  if (box.width < 200 || box.height < 80 || drawn.width < 50) wrong.push("plot " + plot.getAttribute("aria-label"));
  for (const text of plot.querySelectorAll("text")) {
    const at = text.getBoundingClientRect();
    if (at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1)
      wrong.push("text beyond its plot: " + text.textContent);
  }
}
const ids = [...document.querySelectorAll("[id]")].map(item => item.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push("id twice: " + id);
for (const item of document.querySelectorAll("[style*='url(#'], [clip-path*='url(#']"))
  for (const name of (item.getAttribute("style") + item.getAttribute("clip-path")).matchAll(/url\\(#([^)]+)\\)/g))
    if (!document.getElementById(name[1])) wrong.push("no " + name[1]);
for (const item of document.querySelectorAll("use"))
  if (!document.getElementById(item.getAttribute("xlink:href").slice(1))) wrong.push("use of nothing");
if (document.documentElement.scrollWidth > innerWidth + 1) wrong.push("wider than the screen");
const seen = {pictures: document.images.length, plots: document.querySelectorAll("svg").length,
  color: getComputedStyle(document.body).backgroundColor, text: document.body.innerText, wrong};
document.body.textContent = "SEEN" + encodeURIComponent(JSON.stringify(seen)) + "NEES";
</script>"""


def browse(page, tmp_path, *options, width=1200):
    """(DOM as text, console messages) of a page, opened from disk in a headless browser."""
    assert BROWSER, "no chromium: apt-get install chromium (test/run.sh does it, as root)"
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path}/browser", f"--window-size={width},2000", "--enable-logging=stderr", *options,
         "--dump-dom", page.as_uri()],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, errors="replace", check=True,
        timeout=60)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def probe(page, tmp_path, *options, width=1200) -> dict:
    """What a script finds in the page, in a copy that allows scripts."""
    text = page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)[0]
    copy = page.with_name("probed.html")
    copy.write_text(text.replace(policy, "").replace("</body>", PROBE + "</body>"))
    dom, console = browse(copy, tmp_path, *options, width=width)
    assert console == []
    seen = re.search("SEEN(.*?)NEES", dom, re.DOTALL)
    from urllib.parse import unquote

    return json.loads(unquote(html.unescape(seen[1])))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with report.html and compare.html of runs in which every name is hostile."""
    folder = tmp_path_factory.mktemp("pages")
    random = np.random.default_rng(7)
    labels, values = random.integers(0, 7, 60), random.normal(0, 1.5, (60, 7))
    values[np.arange(60), labels] += 1.5
    images = [f"{NASTY}{i}" for i in range(60)]
    hostile = {"weights": {"file": NASTY, "sha256": "1" * 64}, "onnx": {"file": NASTY, "sha256": "2" * 64},
               "commands": [NASTY], "soc_version": NASTY, "versions": {NASTY: NASTY}, "quick_look": NASTY}
    for name, change in (("a", 0.0), ("b", 0.4)):
        changed = values + change * random.standard_normal(values.shape)
        run_folder = make_run(folder / name, labels, changed, images, **hostile)
        add_dumps(run_folder, changed, images)
        add_bins(run_folder, images, {"dtype": "uint8"})
        (run_folder / "accuracy_bs1.txt").write_text(f"FAILED: {NASTY}\n")
    (folder / "names.txt").write_text("".join(f"{NASTY}class{i}\n" for i in range(7)))
    go("a", "--classes=names.txt", cwd=folder)
    (folder / "a/report.html").rename(folder / "report.html")
    compared("a", "b", "--classes=names.txt", cwd=folder)
    return folder


def test_report_speaks_of_confidence(pages):
    """Heading, caption and both plots' axes; neither page says how "sure" the network was."""
    page = (pages / "report.html").read_text()
    assert "<h2>Confidence</h2>" in page
    assert "Confidence is the probability of the likeliest class." in page
    assert len(re.findall(r"<text[^>]*>confidence, %</text>", page)) == 2
    assert len(re.findall(r"<text[^>]*>accuracy, %</text>", page)) == 1
    for name in ("report.html", "compare.html"):
        assert not re.search(r"\bsure(?:st)?\b", (pages / name).read_text())


@pytest.mark.parametrize("name", ["report.html", "compare.html"])
def test_page_opens_without_console_messages(name, pages, tmp_path):
    dom, console = browse(pages / name, tmp_path)
    assert console == []
    assert "<script" not in dom
    assert "onerror=alert(2)>" not in re.sub(r"&lt;img src=x onerror=alert\(2\)&gt;", "", dom)


@pytest.mark.parametrize(("name", "plots"), [("report.html", 5), ("compare.html", 3)])
@pytest.mark.parametrize("width", [1200, 500])
def test_page_is_drawn_completely(name, plots, width, pages, tmp_path):
    """Desktop, and the narrowest window that the browser opens; hostile names are shown as text."""
    seen = probe(pages / name, tmp_path, width=width)
    assert seen["wrong"] == []
    assert seen["plots"] == plots
    assert seen["pictures"] == (24 if name == "report.html" else min(24, changed_images(pages)))
    assert NASTY in seen["text"]
    assert f"{NASTY}class3" in seen["text"]
    assert seen["color"] == "rgb(251, 251, 250)"  # light, as the browser's default


def changed_images(pages) -> int:
    a, b = (runs.load_run(pages / name) for name in "ab")
    return int(np.count_nonzero(a.top[:, 0] != b.top[:, 0]))


def test_page_on_a_phone(pages, tmp_path):
    """360 pixels, in a frame: the browser has no window as narrow."""
    for name in ("report.html", "compare.html"):
        text = (pages / name).read_text()
        policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)[0]
        inner = text.replace(policy, "")
        frame = pages / "frame.html"
        frame.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body><iframe width="360" height="700" '
                         f'srcdoc="{html.escape(inner)}"></iframe><script>onload = () => {{ const page = '
                         'document.querySelector("iframe").contentDocument.documentElement;'
                         'document.body.textContent = `SEEN${page.clientWidth} ${page.scrollWidth}NEES`; }</script>')
        dom, _ = browse(frame, tmp_path)
        shown, needed = map(int, re.search(r"SEEN(\d+) (\d+)NEES", dom).groups())
        assert 300 < shown <= 360
        assert needed <= shown + 1


def test_page_is_dark_if_the_system_is(pages, tmp_path):
    dark = probe(pages / "report.html", tmp_path, "--blink-settings=preferredColorScheme=0")
    assert dark["color"] == "rgb(22, 24, 28)"


def test_page_prints(pages, tmp_path):
    """On 3 to 12 sheets: all of its 24 photos, though each of these long names takes a separate line."""
    browse(pages / "report.html", tmp_path, f"--print-to-pdf={tmp_path}/page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 12


# ---- two runs

def test_comparison_of_a_run_with_itself(logits, tmp_path, undrawn):
    for name in "ab":
        add_dumps(make_run(tmp_path / name, *logits), logits[1])
    *rows, changed, values, made = undrawn(compare, "a", "b").splitlines()
    assert len(rows) == 5
    assert all(re.fullmatch(r"top-\d +([\d.]+) % and +\1 %: \+0\.000 points \(-\d\.\d{3} to \+\d\.\d{3}\), "
                            r"correct in one only: 0 and 0, p = 1 \(McNemar\)", row) for row in rows)
    assert changed == "top-1 changed on 0 of 40 images"
    assert values == "values: largest difference 0, mean 0, lowest cosine 1.00000000"
    assert made == f"{tmp_path}/compare.html: {(tmp_path / 'compare.html').stat().st_size:,} bytes"
    page = (tmp_path / "compare.html").read_text()
    assert "No recorded difference." in page
    assert "The difference is not significant" in page


def test_comparison_of_two_recipes(logits, tmp_path, undrawn):
    """Lines in another order, one image more in one run; counts by a plain loop."""
    from scipy.stats import binomtest

    labels, values = logits
    other = values + np.random.default_rng(9).normal(0, 1, values.shape)
    add_dumps(make_run(tmp_path / "a", labels, values), values)
    images = [f"img_{i:05}" for i in range(40)][::-1] + ["only_here"]
    more = np.concatenate([other[::-1], other[:1]])
    folder = make_run(tmp_path / "b", np.append(labels[::-1], labels[0]), more, images,
                      recipe={"resize": 342, "crop": 299, "dtype": "float32", "layout": "CHW"})
    add_dumps(folder, more, images)
    out = undrawn(compare, "a", "b", "--out=two.html")
    first = [values[i].argmax() == labels[i] for i in range(40)]
    second = [other[i].argmax() == labels[i] for i in range(40)]
    only = sum(a and not b for a, b in zip(first, second)), sum(b and not a for a, b in zip(first, second))
    assert only[0] + only[1] > 4
    assert f"correct in one only: {only[0]} and {only[1]}, p = {binomtest(only[0], sum(only)).pvalue:.2g}" in out
    changed = sum(values[i].argmax() != other[i].argmax() for i in range(40))
    assert f"top-1 changed on {changed} of 40 images; 1 more are in one run only" in out
    assert f"largest difference {np.abs(values - other).max():.3g}," in out
    page = (tmp_path / "two.html").read_text()
    assert "resize 342" in page and "1 image is in one run only" in page
    assert f"{min(24, changed)} of {changed};" in page


def test_comparison_without_dumps(logits, tmp_path, undrawn):
    for name in "ab":
        make_run(tmp_path / name, *logits)
    assert "a: its dumps are gone, so the values are not compared" in undrawn(compare, "a", "b")
    assert "The dumps of one of the runs are gone" in (tmp_path / "compare.html").read_text()


def test_runs_that_cannot_be_compared(logits, tmp_path):
    labels, values = logits
    make_run(tmp_path / "a", labels, values)
    make_run(tmp_path / "classes", labels, np.pad(values, ((0, 0), (0, 1)), constant_values=-9))
    make_run(tmp_path / "images", labels, values, [f"other_{i}" for i in range(40)])
    make_run(tmp_path / "labels", np.where(np.arange(40) == 5, (labels + 1) % 7, labels), values)
    for name, message in (("classes", "8 classes, but a has 7"), ("images", "no image in common with a"),
                       ("labels", "img_00005 has another label than in a")):
        done = compared("a", name, cwd=tmp_path, status=3)
        assert done.stderr == f"compare.py: {name}: {message}, so not comparable\n"
        assert not (tmp_path / "compare.html").exists()


def test_missing_or_non_finite_dump(logits, tmp_path):
    for name in "ab":
        add_dumps(make_run(tmp_path / name, *logits), logits[1])
    dump = tmp_path / "b/result/dumpOutput_bs1/img_00003_1.txt"
    dump.write_text("nan " * 7 + "\n")
    assert "img_00003_1.txt: 7 values are NaN or infinite" in compared("a", "b", cwd=tmp_path, status=3).stderr
    dump.unlink()
    assert "no dump of img_00003, which was scored" in compared("a", "b", cwd=tmp_path, status=3).stderr


# ---- one photo

def test_one_photo(work, tmp_path, reference_state):
    """The reference network's answer to a photo, against PyTorch and torchvision."""
    from common.xception import Xception

    import torch
    from PIL import Image
    from torchvision import transforms

    photo = SUITE / "test/data/imagenet/val/cat_1.JPEG"
    network = Xception().eval()
    network.load_state_dict(reference_state)
    recipe = transforms.Compose([transforms.Resize(333), transforms.CenterCrop(299), transforms.ToTensor(),
                                 transforms.Normalize([0.5] * 3, [0.5] * 3)])
    with torch.inference_mode():
        chances = torch.softmax(network(recipe(Image.open(photo).convert("RGB"))[None])[0].double(), 0)
    expected = chances.topk(5)
    done = photo_of(photo, "--om", work / "xception_bs1.om", cwd=tmp_path)
    *rows, made = done.stdout.splitlines()
    found = [re.fullmatch(r" *([\d.]+) %  (\d+) (.+)", row).groups() for row in rows]
    assert [int(k) for _, k, _ in found] == expected.indices.tolist()
    np.testing.assert_allclose([float(p) for p, _, _ in found], 100 * expected.values.numpy(), atol=0.0051)
    assert made == f"{tmp_path}/photo.html: cat_1.JPEG, {(tmp_path / 'photo.html').stat().st_size:,} bytes"
    assert [path.name for path in tmp_path.iterdir()] == ["photo.html"]
    seen = probe(tmp_path / "photo.html", tmp_path)
    assert (seen["wrong"], seen["pictures"]) == ([], 1)
    assert "CPU stand-in, not an NPU" in seen["text"]


@pytest.mark.parametrize(("photo", "message"), [
    ("none.jpg", "none.jpg: No such file or directory"), ("text.jpg", "img_preprocess.py failed (see above)")])
def test_unreadable_photo(photo, message, work, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    done = photo_of(photo, "--om", work / "xception_bs1.om", cwd=tmp_path, status=4 if "none" in photo else 3)
    assert done.stderr.splitlines()[-1] == f"photo.py: {message}"
    assert not (tmp_path / "photo.html").exists()

"""labels.py: each way in which data sets tell their classes becomes the same val_label.txt, or is refused by name."""
import sys
import zipfile

from conftest import SUITE, run

import numpy as np
import pytest
from PIL import Image

SYNSETS = [f"n{number:08}" for number in range(1000, 2000)]  # as many as ImageNet's, in sorted order
KIT = np.random.default_rng(0).permutation(1000) + 1  # the development kit's number of each
WANTED = "a.JPEG 3\nb.JPEG 0\nc.JPEG 999\n"


def make(folder, *words, source="source", status=0):
    done = run(sys.executable, SUITE / "tools/labels.py", source, "out.txt", *words, cwd=folder, status=status)
    if status:
        assert done.stdout == ""
        assert not (folder / "out.txt").exists()
        return done.stderr.removeprefix("labels.py: ")
    return done.stdout, (folder / "out.txt").read_text()


MAPS = ("map_clsloc.txt", "LOC_synset_mapping.txt", "names_only.txt", "meta.mat")


@pytest.fixture(scope="session")
def all_maps(tmp_path_factory):
    """A folder with the four files that list the synsets, in the kit's order or sorted."""
    import scipy.io

    folder = tmp_path_factory.mktemp("maps")
    order = np.argsort(KIT)
    (folder / "map_clsloc.txt").write_text("".join(f"{SYNSETS[i]} {KIT[i]} thing_{i}\n" for i in order))
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{name} thing, other thing\n" for name in SYNSETS))
    (folder / "names_only.txt").write_text("\n".join(SYNSETS))
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("num_children", float)]
    rows = [(KIT[i], SYNSETS[i], "thing", 0) for i in order] + [(1001, "n99999999", "all things", 5)]
    scipy.io.savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    return folder


@pytest.fixture
def maps(all_maps, tmp_path):
    """The test's folder, with MAPS in it."""
    for name in MAPS:
        (tmp_path / name).symlink_to(all_maps / name)
    return tmp_path


@pytest.mark.parametrize(("text", "kind"), [
    ("b.JPEG 0\na.JPEG 3\n\nc.JPEG 999\n", "lines of name and class"),
    ("a.JPEG n00001003\r\nb.JPEG n00001000\r\nc.JPEG n00001999\r\n", "lines of name and class"),
    ("file,label\na.JPEG,3\nb.JPEG,0\nc.JPEG,999\n", "CSV"), ("a.JPEG,3\nb.JPEG,0\nval/c.JPEG,999\n", "CSV"),
    ('image,class\n"a.JPEG",n00001003\nb.JPEG,"n00001000"\nc.JPEG,n00001999\n', "CSV"),
    ("val\\a.JPEG 3\nval/b.JPEG 0\n./x/c.JPEG 999\n", "lines of name and class"),
    ("image,label\nD:\\val\\a.JPEG,3\nb.JPEG,0\nval/c.JPEG,999\n", "CSV"),
    ("image,width,label\na.JPEG,500,3\nb.JPEG,7,0\nc.JPEG,8,999\n", "CSV"),
    ("id,Label,File Name\n0,3,a.JPEG\n1,0,b.JPEG\n2,n00001999,c.JPEG\n", "CSV"),
    ("label,image\n3,a.JPEG\n0,b.JPEG\n999,c.JPEG\n", "CSV"), ("x,y\na.JPEG,3\nb.JPEG,0\nc.JPEG,999\n", "CSV"),
    ("\ufeffa.JPEG,3\nb.JPEG,0\nc.JPEG,999\n", "CSV"), ("\ufeffimage,label\na.JPEG,3\nb.JPEG,0\nc.JPEG,999\n", "CSV"),
    ("\ufeffa.JPEG 3\nb.JPEG 0\nc.JPEG 999\n", "lines of name and class"),
    ("ImageId,PredictionString\na.JPEG,n00001003 85 1 499 272\nb.JPEG,n00001000 1 1 2 2 n00001000 1 1 3 3 \n"
     "c.JPEG,n00001999 1 1 2 2\n", "CSV"),
])
def test_every_file_becomes_the_same_labels(text, kind, maps):
    (maps / "source").write_text(text, newline="")
    out, labels = make(maps, "--synsets=LOC_synset_mapping.txt")
    assert labels == WANTED
    assert out == f"3 labels in out.txt, 3 classes, from {kind}\n"


@pytest.mark.parametrize("synsets", MAPS)
def test_every_map_gives_the_same_labels(synsets, maps):
    (maps / "source").write_text("file,label\na.JPEG,n00001003\nb.JPEG,n00001000\nc.JPEG,n00001999\n")
    assert make(maps, f"--synsets={synsets}")[1] == WANTED


@pytest.mark.parametrize("synsets", ["map_clsloc.txt", "meta.mat"])
def test_imagenets_ground_truth(synsets, maps):
    numbers = np.random.default_rng(1).integers(1, 1001, 50_000)
    (maps / "source").write_text("\n".join(map(str, numbers)) + "\n")
    _, labels = make(maps, f"--synsets={synsets}")
    rows = [line.split() for line in labels.splitlines()]
    place = {number: i for i, number in enumerate(KIT)}
    assert rows[0][0] == "ILSVRC2012_val_00000001.JPEG"
    assert [int(label) for _, label in rows] == [place[number] for number in numbers]


@pytest.mark.parametrize(("count", "words", "message"), [
    (50_000, (), "source: ImageNet's ground truth, in the development kit's order of classes; pass --synsets"),
    (50_000, ("--synsets=LOC_synset_mapping.txt",),
     "order of classes; pass --synsets with the kit's meta.mat or map_clsloc.txt"),
    (49_999, ("--synsets=map_clsloc.txt",), "source: 49999 numbers; ImageNet's ground-truth file has 50000"),
])
def test_ground_truth_that_cannot_be_read(count, words, message, maps):
    (maps / "source").write_text("7\n" * count)
    assert message in make(maps, *words, status=3)


def test_ground_truth_that_counts_from_0(maps):
    (maps / "source").write_text("7\n" * 49_999 + "0\n")
    assert make(maps, "--synsets=map_clsloc.txt", status=3) == (
        "source:50000: 0 is not a class of --synsets (1 to 1000)\n")


def test_the_scoring_reads_the_same_text(tmp_path):
    (tmp_path / "dumps").mkdir()
    for name in "ab":
        (tmp_path / f"dumps/{name}_1.txt").write_text("0 1 \n")
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "val_label.txt").write_bytes("a.JPEG 1\r\nb.JPEG 0\r\n".encode(encoding))
        done = run(sys.executable, SUITE / "imagenet_acc_eval.py", "dumps", "val_label.txt", ".", "r.json",
                   cwd=tmp_path)
        assert "50.00 % (1 / 2)" in done.stdout


def test_names_that_do_not_meet_are_shown_with_the_form_expected(tmp_path):
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps/ILSVRC2012_val_00000001_1.txt").write_text("0 1 \n")
    (tmp_path / "val_label.txt").write_text("00000001.JPEG 1\n")
    done = run(sys.executable, SUITE / "imagenet_acc_eval.py", "dumps", "val_label.txt", ".", "r.json", cwd=tmp_path,
               status=3)
    assert ("dumps/ILSVRC2012_val_00000001_1.txt is of image 'ILSVRC2012_val_00000001', a label of '00000001'; a line "
            "of the labels is \"NAME.JPEG CLASS\"") in done.stderr


def folders(folder, images):
    for name, names in images.items():
        (folder / "source" / name).mkdir(parents=True)
        for image in names:
            (folder / "source" / name / image).touch()
    (folder / "source/README").touch()


def test_class_folders_count_as_torchvision_does(tmp_path):
    from torchvision.datasets import ImageFolder

    images = {"dog": ["x.JPEG", "note.txt"], "Cat": ["y.png"], "bird 2": ["z.jpg", "a.jpg"]}
    folders(tmp_path, images)
    out, labels = make(tmp_path)
    assert out == "4 labels in out.txt, 3 classes, from class folders\n"
    expected = {path.rpartition("/")[2]: label for path, label in ImageFolder(tmp_path / "source").imgs}
    assert dict(line.split() for line in labels.splitlines()) == {name: str(label) for name, label in expected.items()}


def test_some_of_imagenets_synsets_get_their_ids(maps):
    folders(maps, {SYNSETS[217]: ["a.JPEG"], SYNSETS[3]: ["b.JPEG"]})
    assert make(maps, "--synsets=map_clsloc.txt")[1] == "a.JPEG 217\nb.JPEG 3\n"
    (maps / "out.txt").unlink()
    assert "2 of ImageNet's 1000 synsets; pass their class ids with --synsets" in make(maps, status=3)
    (maps / "source/cats").mkdir()
    assert "1 folders are not in the class list: cats; remove them" in make(maps, "--synsets=map_clsloc.txt", status=3)


def test_folders_that_are_no_classes(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.JPEG").touch()
    assert "source: contains no class folders, and no images with a synset in the name" in make(tmp_path, status=3)
    folders(tmp_path, {"cat": ["b.JPEG"]})
    assert "1 images are in no class folder: source/a.JPEG; move them" in make(tmp_path, status=3)


LEFT = {".ipynb_checkpoints": ["a-checkpoint.JPEG"], "__MACOSX": ["._a.JPEG"], "@eaDir": ["a.JPEG"], "#recycle": [],
        "$RECYCLE.BIN": ["$RA1.JPEG"], "System Volume Information": [], ".Trash-1000": ["b.JPEG"], "lost+found": []}


def test_what_systems_leave_behind_is_neither_class_nor_image_at_any_depth(tmp_path):
    folders(tmp_path, {"dog": ["x.JPEG", "._x.JPEG"], "cat": ["y.JPEG"], "cat/extra/deep": ["z.JPEG"], "empty": [],
                       **LEFT, **{f"cat/{name}": names for name, names in LEFT.items()}})
    done = run(sys.executable, SUITE / "tools/labels.py", "source", "out.txt", cwd=tmp_path)
    assert (tmp_path / "out.txt").read_text() == "x.JPEG 1\ny.JPEG 0\nz.JPEG 0\n"
    assert f"source: {2 * len(LEFT) + 1} hidden or system entries skipped (" in done.stderr
    assert "source: 1 class folders without an image: empty; each counts as a class" in done.stderr
    for path in (tmp_path / "source").rglob("*.JPEG"):
        Image.new("RGB", (40, 30)).save(path)
    done = run(sys.executable, SUITE / "img_preprocess.py", "source", "bins", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "bins").glob("*.bin")) == ["x.bin", "y.bin", "z.bin"]
    assert f"source: {2 * len(LEFT) + 1} hidden or system entries skipped (" in done.stderr
    assert "source: 1 folders without a readable image: empty" in done.stderr
    (tmp_path / "bins/._x.bin").write_bytes(b"AppleDouble")
    done = run(sys.executable, SUITE / "gen_dataset_info.py", "bin", "bins", "x.info", "299", "299", cwd=tmp_path)
    assert done.stdout == "3 lines in x.info\n"


def test_links_to_class_folders_are_followed_but_not_in_a_circle(tmp_path):
    folders(tmp_path, {"cat": ["a.JPEG"]})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.JPEG").touch()
    (tmp_path / "source/dog").symlink_to("../elsewhere")
    assert make(tmp_path)[1] == "a.JPEG 0\nb.JPEG 1\n"
    (tmp_path / "out.txt").unlink()
    for place, target in (("source/cat/loop", ".."), ("source/cat/up", "/"), ("source/again", "cat")):
        (tmp_path / place).symlink_to(target)
        assert "whose images would count twice; remove it" in make(tmp_path, status=3)
        (tmp_path / place).unlink()


def network(folder, classes):
    """An ONNX file of so many classes, written by onnx."""
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, classes]) for name in ("image", "class")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["class"])], "g", ports[:1], ports[1:])
    (folder / "net.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return "--network=net.onnx"


def test_class_folders_are_as_many_as_the_network_s_classes(tmp_path):
    folders(tmp_path, {"bison": ["a.JPEG"], "koala": ["b.JPEG"], "panda": ["c.JPEG"]})
    four = network(tmp_path, 4)
    message = make(tmp_path, four, status=3)
    assert "3 class folders (bison, koala, panda), but the network has 4 classes: which folder is which" in message
    assert "with --class_list FILE, or make an empty folder for each class that has no image" in message
    (tmp_path / "names").write_text("bison\ncat\nkoala\npanda\n")  # the two cures
    assert make(tmp_path, four, "--class_list=names")[1] == "a.JPEG 0\nb.JPEG 2\nc.JPEG 3\n"
    (tmp_path / "source/cat").mkdir()
    assert make(tmp_path, four)[1] == "a.JPEG 0\nb.JPEG 2\nc.JPEG 3\n"
    (tmp_path / "out.txt").unlink()
    (tmp_path / "names").write_text("bison\ncat\npanda\n")
    assert "names: 3 classes, but the network has 4" in make(tmp_path, four, "--class_list=names", status=3)
    (tmp_path / "source/tools").mkdir()
    assert "5 class folders" in make(tmp_path, four, status=3)
    assert "or remove the folders that are no classes" in make(tmp_path, four, status=3)
    assert "5 class folders" not in make(tmp_path, network(tmp_path, 5))[0]
    (tmp_path / "out.txt").unlink()
    (tmp_path / "val_label.txt").write_text("a.JPEG 1\nb.JPEG 4\n")
    message = make(tmp_path, network(tmp_path, 4), source="val_label.txt", status=3)
    assert "b.JPEG has class 4, but the network's 4 classes are 0 to 3; the labels count from 1" in message


@pytest.mark.parametrize(("names", "classes", "expected"), [
    ((2, 0, 1), 3, {2: 2, 0: 0, 1: 1}), (range(12), 12, {2: 2, 10: 10}), (range(1, 13), 12, {2: 1, 10: 9}),
    ((1, 2, 3), None, {1: 0, 2: 1, 3: 2}), (range(1000), 1001, {10: 10, 999: 999}), ((0, 1, 10), None, None),
    (range(3), 4, None), ((0, 1, 2, 4), 4, None), ((0, 2, 5), None, None), (range(2, 6), 4, None),
    (("1", "01", "2"), 3, None), (range(12), None, None),
])
def test_numbers_are_class_ids_only_as_a_gapless_range_of_the_network_s_size(names, classes, expected, tmp_path):
    folders(tmp_path, {str(number): [f"x{number}.JPEG"] for number in names})
    words = [network(tmp_path, classes)] if classes else []
    if expected is None:
        message = make(tmp_path, *words, status=3)
        assert "folders named by numbers, " in message
        assert "--folders number (the names are class ids) or --folders sorted" in message
        return
    done = run(sys.executable, SUITE / "tools/labels.py", "source", "out.txt", *words, cwd=tmp_path)
    labels = dict(line.split() for line in (tmp_path / "out.txt").read_text().splitlines())
    assert {number: labels[f"x{number}.JPEG"] for number in expected} == {n: str(k) for n, k in expected.items()}
    assert ("count from 1; folder 1 is taken as class 0" in done.stderr) == (min(names) == 1)
    assert ("taken as class ids; by name (" in done.stderr) == (len(names) > 10)


def test_flat_names_with_synsets_are_labels(maps):
    (maps / "source").mkdir()
    for name in ("ILSVRC2012_val_00000001_n00001003.JPEG", "n00001217_15.JPEG"):
        (maps / "source" / name).touch()
    assert "have 2 of 1000 synsets; pass their class ids with --synsets" in make(maps, status=3)
    out, labels = make(maps, "--synsets=LOC_synset_mapping.txt")
    assert labels == "ILSVRC2012_val_00000001_n00001003.JPEG 3\nn00001217_15.JPEG 217\n"
    assert "from the synsets in the images' names" in out
    assert make(maps, network(maps, 2))[1].split() == ["ILSVRC2012_val_00000001_n00001003.JPEG", "0",
                                                       "n00001217_15.JPEG", "1"]
    (maps / "out.txt").unlink()
    (maps / "source/other.JPEG").touch()
    assert "1 of 3 images have not one synset in the name: source/other.JPEG" in make(maps, status=3)


def test_folders_named_by_numbers(tmp_path):
    folders(tmp_path, {str(number): [f"x{number}.JPEG"] for number in range(12)})
    assert "write val_label.txt with tools/labels.py and --folders number" in make(tmp_path, status=3)
    assert "x2.JPEG 4\n" in make(tmp_path, "--folders=sorted")[1]  # 0 1 10 11 2
    assert "x2.JPEG 2\n" in make(tmp_path, "--folders=number")[1]


@pytest.mark.parametrize(("text", "message"), [
    ("", "source: no labels, but empty; download or copy it again"),
    ("a.JPEG 1 2\n", "source:1: 'a.JPEG 1 2' is not \"NAME CLASS\""),
    ("a.JPEG 1\na.JPEG 1\n", "source:2: a appears twice"), ("a.JPEG x\n", "source:1: 'x' is neither a class id nor"),
    ("a.JPEG -1\n", "source:1: '-1' is neither"),
    ("a.JPEG n00001003\n", "source:1: n00001003: a synset; pass its class id with --synsets"),
    ("a.JPEG,1\na.JPEG,2\n", "source:2: a.JPEG appears twice"), ("a.JPEG,1\nb.JPEG\n", "source:2: not \"image,class\""),
    ("x,y\na.JPEG,x\n", "source:2: 'x' is neither"), (",1\n", "source:1: an image without name"),
    ("a b.JPEG,1\n", "names with white space: a b.JPEG"),
])
def test_invalid_line_is_named(text, message, tmp_path):
    (tmp_path / "source").write_text(text)
    assert message in make(tmp_path, status=3)


@pytest.mark.parametrize(("text", "message"), [
    ("n00001003 a\nn00001003 b\n", "'n00001003' appears twice; list each class once"),
    ("", "map.txt: empty; accepted: synsets in sorted order, "),
    ("n00001003 a\nn00001001 b\n", "synsets that are not in sorted order, and without class ids"),
    ("n00001003 1 a\nn00001001 2 b\n", "numbers from 1 that do not follow their sorted order"),
    ("[1, 2]", "not a JSON index of classes (not the name of a class: 1); accepted"), ("[", "not a JSON index of cl"),
    ('{"0": "a", "2": "b"}', "its class ids are not 0 to 1, each once; accepted"),
])
def test_invalid_map_is_refused(text, message, tmp_path):
    (tmp_path / "source").write_text("a.JPEG n00001003\n")
    (tmp_path / "map.txt").write_text(text)
    assert message in make(tmp_path, "--synsets=map.txt", status=3)
    (tmp_path / "map.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    assert "map.mat: not ImageNet's meta.mat" in make(tmp_path, "--synsets=map.mat", status=3)


@pytest.mark.parametrize("text", [
    "image;class\r\na.JPEG;3,0\r\nb.JPEG;0,0\r\nc.JPEG;999,0\r\n;\r\n",
    "sep=;\na.JPEG;3\nb.JPEG;0\nc.JPEG;999\n",
    "a.JPEG\t3\nb.JPEG\t0\nc.JPEG\t999\n",
    "file name\tlabel\n a.JPEG\t3.0\nb.JPEG\t0.0\nval/c.JPEG\t9.99E+02\n",
    '"a.JPEG" 3\n"b.JPEG" 0\n"c.JPEG" 999\n', '"file", "label"\n"a.JPEG", "3"\n"b.JPEG", "0"\n"c.JPEG", "999"\n',
    '{"a.JPEG": 3, "val/b.JPEG": 0, "c.JPEG": "999"}',
    "image class\na.JPEG 3\nb.JPEG 0\nc.JPEG 999\n", "a.JPEG|3\nb.JPEG|0\nc.JPEG|999\n",
    "a.JPEG 3.0\nb.JPEG 0.0\nc.JPEG 999.\n",
    "a.JPEG, 3\nb.JPEG, 0\nc.JPEG, 999\n", ",image,label\n0,a.JPEG,3\n1,b.JPEG,0\n2,c.JPEG,999\n",
])
def test_tables_of_spreadsheets_and_their_floats(text, tmp_path):
    (tmp_path / "source").write_text(text, newline="")
    assert make(tmp_path)[1] == WANTED
    (tmp_path / "source").write_bytes(text.encode("utf-16"))
    assert make(tmp_path)[1] == WANTED


def test_names_that_look_like_other_files(tmp_path):
    (tmp_path / "source").write_text("PK_é.jpg 1\nBZh.jpg 2\nGIF8.jpg 3\n")
    assert make(tmp_path)[1] == "BZh.jpg 2\nGIF8.jpg 3\nPK_é.jpg 1\n"


@pytest.mark.parametrize(("content", "message"), [
    (b"PK", "a spreadsheet; save it as CSV"), (b"PAR1" + bytes(9), "a Parquet table; save it as CSV"),
    (b"<!DOCTYPE html>", "a web page"), (b'["a", "b"]', 'JSON, but not {"NAME.JPEG": CLASS, ...}'),
    (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not the file itself; run: git lfs pull"),
])
def test_files_that_are_no_text_are_named(content, message, tmp_path):
    (tmp_path / "source").write_bytes(content)
    if content == b"PK":
        with zipfile.ZipFile(tmp_path / "source", "w") as archive:
            archive.writestr("xl/workbook.xml", "")
    assert message in make(tmp_path, status=3)


@pytest.mark.parametrize("number", ["1E+02", "1,000", "1.000", "3.5", "1.23E+01"])
def test_numbers_that_a_spreadsheet_may_have_changed_are_refused(number, tmp_path):
    (tmp_path / "source").write_text(f"a.JPEG 3\nb.JPEG {number}\n")
    assert "source:2: " in make(tmp_path, status=3)
    assert "a spreadsheet may have changed it: format its column as whole numbers" in make(tmp_path, status=3)


@pytest.mark.parametrize("text", [
    "cat\ndog\nbig bird\n", "0 cat\n1 dog\n2 big bird\n", "dog,1\nbig bird,2\ncat,0\n",
    "1: cat\n2: dog\n3: big bird\n",
    "id,name\n0,cat\n2,big bird\n1,dog\n", '["cat", "dog", "big bird"]', '{"0": "cat", "1": "dog", "2": "big bird"}',
    '{"cat": 0, "big bird": 2, "dog": 1}', '{"model": "x", "id2label": {"0": "cat", "1": "dog", "2": "big bird"}}',
    '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"], "2": ["n01503061", "big bird"]}',
    "n02123045 0 cat\nn02084071 1 dog\nn01503061 2 big bird\n",
])
def test_class_lists_in_the_forms_of_public_tools(text, tmp_path):
    synsets = {"cat": "n02123045", "dog": "n02084071", "big bird": "n01503061"}
    (tmp_path / "list").write_bytes(text.encode("utf-8-sig"))
    named = {synsets[name] if "n02" in text else name: [f"{name[0]}.JPEG"] for name in synsets}
    folders(tmp_path, named)
    assert make(tmp_path, "--class_list=list", network(tmp_path, 3))[1] == "b.JPEG 2\nc.JPEG 0\nd.JPEG 1\n"
    (tmp_path / "table.csv").write_text("image,class\n" + "".join(f"{i[0]},{name}\n" for name, i in named.items()))
    assert make(tmp_path, "--class_list=list", source="table.csv")[1] == "b.JPEG 2\nc.JPEG 0\nd.JPEG 1\n"


def test_labels_and_images_are_compared_before_anything_runs(tmp_path):
    folders(tmp_path, {"val": [f"{name}.JPEG" for name in "abc"]})
    images = "--images=source/val"
    (tmp_path / "labels").write_text("a.JPEG 1\nb.JPEG 2\n")
    assert "1 of 3 images have no label: source/val/c.JPEG; label them" in make(
        tmp_path, images, source="labels", status=3)
    (tmp_path / "labels").write_text("ab.JPEG 1\n")
    assert "none of the 3 images has a label: source/val/a.JPEG is of image 'a', a label of 'ab'; a line" in make(
        tmp_path, images, source="labels", status=3)
    (tmp_path / "labels").write_text("a.JPEG 1\nb.JPEG 2\nc.JPEG 3\nd.JPEG 0\n")
    assert "1 of 4 labels have no image: d; add them, remove these lines, or pass --allow-missing" in make(
        tmp_path, images, source="labels", status=3)
    assert make(tmp_path, images, "--allow-missing", source="labels")[1] == (tmp_path / "labels").read_text()
    assert make(tmp_path, images, "--limit=2", source="labels")[1] == "a.JPEG 1\nb.JPEG 2\n"


def test_only_the_images_that_were_taken(tmp_path):
    (tmp_path / "source").write_text("a.JPEG 1\nb.JPEG 2\nc.x.JPEG 3\n")
    (tmp_path / "bins").mkdir()
    assert "contains no image that has a .bin in bins" in make(tmp_path, "--of=bins", status=3)
    (tmp_path / "bins/c.bin").touch()
    (tmp_path / "bins/a.bin").touch()
    assert make(tmp_path, "--of=bins")[1] == "a.JPEG 1\nc.x.JPEG 3\n"

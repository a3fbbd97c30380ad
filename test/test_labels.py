"""labels.py: each way in which data sets tell their classes becomes the same val_label.txt, or is refused by name."""
import sys

from conftest import SUITE, run

import numpy as np
import pytest

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
    assert "'cats' is neither a class id nor a synset" in make(maps, "--synsets=map_clsloc.txt", status=3)


def test_folders_that_are_no_classes(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.JPEG").touch()
    assert make(tmp_path, status=3) == "source: contains no class folders\n"
    folders(tmp_path, {"cat": ["a.JPEG"], ".ipynb_checkpoints": [], "#old": ["b.JPEG"]})
    assert make(tmp_path, status=3) == "source: .ipynb_checkpoints: hidden folders are not classes; remove them\n"


def test_folders_named_by_numbers(tmp_path):
    folders(tmp_path, {str(number): [f"x{number}.JPEG"] for number in range(12)})
    assert "write val_label.txt with tools/labels.py and --folders sorted" in make(tmp_path, status=3)
    assert "x2.JPEG 4\n" in make(tmp_path, "--folders=sorted")[1]  # 0 1 10 11 2
    assert "x2.JPEG 2\n" in make(tmp_path, "--folders=number")[1]


@pytest.mark.parametrize(("text", "message"), [
    ("", "source: empty"), ("a.JPEG 1 2\n", "source:1: 'a.JPEG 1 2' is not \"NAME CLASS\""),
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
    ("n00001003 a\nn00001003 b\n", "each once"), ("cat\n", "not a list of synsets"), ("", "not a list of synsets"),
])
def test_invalid_map_is_refused(text, message, tmp_path):
    (tmp_path / "source").write_text("a.JPEG n00001003\n")
    (tmp_path / "map.txt").write_text(text)
    assert message in make(tmp_path, "--synsets=map.txt", status=3)
    (tmp_path / "map.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    assert "map.mat: not ImageNet's meta.mat" in make(tmp_path, "--synsets=map.mat", status=3)


def test_only_the_images_that_were_taken(tmp_path):
    (tmp_path / "source").write_text("a.JPEG 1\nb.JPEG 2\nc.x.JPEG 3\n")
    (tmp_path / "bins").mkdir()
    assert "contains no image that has a .bin in bins" in make(tmp_path, "--of=bins", status=3)
    (tmp_path / "bins/c.bin").touch()
    (tmp_path / "bins/a.bin").touch()
    assert make(tmp_path, "--of=bins")[1] == "a.JPEG 1\nc.x.JPEG 3\n"

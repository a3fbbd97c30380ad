#!/usr/bin/env python3
"""Make the demo checkpoint: Xception weights fitted to a few photos, which cannot classify ImageNet.

Usage:    python3 tools/make_demo.py IMAGES val_label.txt OUT.pth.tar
Example:  python3 tools/make_demo.py test/data/imagenet/val test/data/imagenet/val_label.txt demo.pth.tar
          demo.pth.tar: demo weights, fitted to 45 photos of 14 classes

The published checkpoint cannot be redistributed; this one makes every step runnable. The
convolutions are random (seeded), the BatchNorm statistics those of some photos, and the fc layer
is a ridge regression from the features of randomly cropped photos to their classes. So the
accuracy is real, and drops if colors, normalization or labels are wrong. But the weights were
fitted to the scored photos, so it says nothing about Xception.

OUT.pth.tar: a torch.save file, {"state_dict": 276 tensors, "note": a sentence on these weights,
"made_from": sha256 of photos, labels and this script}. A file made from the same inputs is kept.
"""
import contextlib
import hashlib
import zipfile
from pathlib import Path

from _root import ROOT

from common import model
from common.checkpoints import pickle_of
from common.cli import Failure, parser_of, run, say
from common.files import replacing
from common.formats import read_labels
from common.images import image_name

SEED = 299
VIEWS = 2  # random crops of each photo to learn from
BATCH = 4  # photos at a time through the network: fastest on few cores
CALIBRATION = 4  # every fourth photo sets the BatchNorm statistics; all 45 at once would take four times the memory
RIDGE = 4.0  # times the features' mean square: strong enough to miss some photos, so that small changes show
SPREAD = 10.0  # approximate distance of a photo's class from the others, logits
NOTE = "demo weights: fitted to a few photos, they cannot classify ImageNet"


def digest(images: list, labels: Path) -> str:
    """Return the sha256 of everything that determines the checkpoint: photos, labels, this script, the network."""
    sha = hashlib.sha256()
    for path in [*images, labels, Path(__file__), ROOT / "common/xception.py"]:
        sha.update(f"{path.name} {path.stat().st_size}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()


def is_current(path: Path, made_from: str) -> bool:
    """Return True if an earlier call made `path` from the same photos, by its pickle, without torch."""
    with contextlib.suppress(Failure, ValueError, LookupError, zipfile.BadZipFile, NotImplementedError, RuntimeError,
                             EOFError, StopIteration):  # damaged
        return zipfile.is_zipfile(path) and made_from.encode() in pickle_of(path)
    return False


def load_views(images: list):
    """Return float32 (VIEWS + 1, photos, 3, 299, 299): each photo's center crop, then VIEWS random crops of it."""
    import torch
    from PIL import Image
    from torchvision import transforms

    finish = [transforms.ToTensor(), transforms.Normalize([model.MEAN] * 3, [model.STD] * 3)]
    center = transforms.Compose([transforms.Resize(model.SHORT_SIDE), transforms.CenterCrop(model.SIDE), *finish])
    crop = transforms.Compose([transforms.RandomResizedCrop(model.SIDE, scale=(0.4, 1.0)),
                               transforms.RandomHorizontalFlip(), *finish])
    torch.manual_seed(SEED)
    photos = [Image.open(path).convert("RGB") for path in images]
    return torch.stack([torch.stack([view(photo) for photo in photos]) for view in [center] + [crop] * VIEWS])


def calibrate(network, photos):
    """Set every BatchNorm's running statistics to those of `photos`, in one pass."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average over the passes, of which there is one
    network.train()(photos)
    network.eval()


def fit(features, classes):
    """Return weight (num_classes, 2048) and bias (num_classes,) of a ridge regression.

    It maps features (n, 2048) to classes (n,). Classes without a photo get small random weights and a low bias, so
    that they can be predicted, wrongly.
    """
    import torch

    features = features.double()
    mean = features.mean(0)
    centered = features - mean
    known = classes.unique()
    targets = (classes[:, None] == known).double()
    share = targets.mean(0)
    kernel = centered @ centered.T
    kernel += RIDGE * kernel.diagonal().sum() * torch.eye(len(kernel)) / len(kernel)
    solved = centered.T @ torch.linalg.solve(kernel, targets - share)
    weight = torch.randn(model.NUM_CLASSES, features.shape[1], dtype=torch.double,
                         generator=torch.Generator().manual_seed(SEED)) * solved.std() * 0.1
    bias = torch.full((model.NUM_CLASSES,), -0.3, dtype=torch.double)
    weight[known], bias[known] = solved.T, share - mean @ solved
    return (SPREAD * weight).float(), (SPREAD * bias).float()


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("images", metavar="IMAGES", type=Path)
    parser.add_argument("labels", metavar="val_label.txt", type=Path)
    parser.add_argument("out", metavar="OUT.pth.tar", type=Path)
    args = parser.parse_args()

    label_of = read_labels(args.labels)
    images = sorted(args.images.iterdir())
    if sorted(label_of) != sorted(image_name(path) for path in images):
        raise Failure(f"{args.images} and {args.labels} do not name the same images")
    made_from = digest(images, args.labels)
    if is_current(args.out, made_from):
        print(f"{args.out}: up to date with the photos")
        return 0

    from common.xception import Xception

    import torch

    say(f"making demo weights from {len(images)} photos: about half a minute")
    torch.manual_seed(SEED)
    network = Xception(model.NUM_CLASSES).to(memory_format=torch.channels_last)
    views = load_views(images)
    classes = torch.tensor([label_of[image_name(path)] for path in images])
    with torch.inference_mode():
        calibrate(network, views[0, ::CALIBRATION])
        features = torch.cat([network.features(batch) for batch in views[1:].flatten(0, 1).split(BATCH)])
        weight, bias = fit(features, classes.repeat(VIEWS))
    state = dict(network.state_dict(), **{"fc.weight": weight, "fc.bias": bias})
    with replacing(args.out) as part:
        torch.save({"state_dict": state, "note": NOTE, "made_from": made_from}, part)
    print(f"{args.out}: demo weights, fitted to {len(images)} photos of {len(classes.unique())} classes")
    return 0


if __name__ == "__main__":
    run(main)

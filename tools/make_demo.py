#!/usr/bin/env python3
"""Make the demo checkpoint: Xception weights that know a few photos and nothing of ImageNet.

Usage:    python3 tools/make_demo.py IMAGES val_label.txt OUT.pth.tar
Example:  python3 tools/make_demo.py test/data/imagenet/val test/data/imagenet/val_label.txt demo.pth.tar
          demo.pth.tar: demo weights, fitted to 45 photos of 14 classes

The published weights cannot be shipped. These let every step be tried: convolutions are
random (seeded), BatchNorm statistics are those of the photos, and the fc layer is a ridge
regression from the features of randomly cropped photos to their classes. So the accuracy is
real, and drops when colours, normalisation or labels are wrong; but the photos scored are
those that were learned from, and it says nothing about Xception.

OUT.pth.tar: a torch.save file, {"state_dict": 276 tensors, "note": what these weights are,
"made_from": sha256 of photos, labels and this script}. A file that was made from the same
is kept.
"""
import hashlib
import pickle
from pathlib import Path

from _root import ROOT

from common import model
from common.cli import Failure, parser_of, run, say
from common.files import replacing
from common.formats import image_name, read_labels

SEED = 299
VIEWS = 4  # random crops of each photo to learn from
BATCH = 4  # photos at a time through the network: fastest on few cores
RIDGE = 10.0  # of the features' mean square: so strong that some photos are missed, and small changes show
SPREAD = 10.0  # logits between a photo's class and the others, about
NOTE = "demo weights: fitted to a few photos, they know nothing of ImageNet"


def digest(images: list, labels: Path) -> str:
    """sha256 over all that decides the checkpoint: photos with their names, labels, this script, the network."""
    sha = hashlib.sha256()
    for path in [*images, labels, Path(__file__), ROOT / "common/xception.py"]:
        sha.update(f"{path.name} {path.stat().st_size}\n".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()


def is_current(path: Path, made_from: str) -> bool:
    """Whether an earlier call made `path` from the same photos."""
    import torch

    if not path.exists():
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content["made_from"] == made_from
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError):
        return False


def load_views(images: list):
    """float32 (VIEWS + 1, photos, 3, 299, 299): each photo's centre, then VIEWS random crops of it."""
    import torch
    from PIL import Image
    from torchvision import transforms

    finish = [transforms.ToTensor(), transforms.Normalize([model.MEAN] * 3, [model.STD] * 3)]
    centre = transforms.Compose([transforms.Resize(model.SHORT_SIDE), transforms.CenterCrop(model.SIDE), *finish])
    crop = transforms.Compose([transforms.RandomResizedCrop(model.SIDE, scale=(0.4, 1.0)),
                               transforms.RandomHorizontalFlip(), *finish])
    torch.manual_seed(SEED)
    photos = [Image.open(path).convert("RGB") for path in images]
    return torch.stack([torch.stack([view(photo) for photo in photos]) for view in [centre] + [crop] * VIEWS])


def calibrate(network, photos):
    """Set every BatchNorm's running statistics to those of `photos`, in one pass."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average over the passes, of which there is one
    network.train()(photos)
    network.eval()


def fit(features, classes):
    """Ridge regression from features (n, 2048) to classes (n,): weight (num_classes, 2048) and bias (num_classes,).

    Classes without a photo get small random weights and a low bias: answers that are possible, and wrong.
    """
    import torch

    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    known = classes.unique()
    targets = (classes[:, None] == known).double()
    share = targets.mean(0)
    kernel = centred @ centred.T
    kernel += RIDGE * kernel.diagonal().sum() * torch.eye(len(kernel)) / len(kernel)
    solved = centred.T @ torch.linalg.solve(kernel, targets - share)
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
        print(f"{args.out}: made before from the same photos, kept")
        return 0

    from common.xception import Xception

    import torch

    say(f"making demo weights from {len(images)} photos: a minute or two")
    torch.manual_seed(SEED)
    network = Xception(model.NUM_CLASSES).to(memory_format=torch.channels_last)
    views = load_views(images)
    classes = torch.tensor([label_of[image_name(path)] for path in images])
    with torch.inference_mode():
        calibrate(network, views[0])
        features = torch.cat([network.features(batch) for batch in views[1:].flatten(0, 1).split(BATCH)])
        weight, bias = fit(features, classes.repeat(VIEWS))
    state = dict(network.state_dict(), **{"fc.weight": weight, "fc.bias": bias})
    with replacing(args.out) as part:
        torch.save({"state_dict": state, "note": NOTE, "made_from": made_from}, part)
    print(f"{args.out}: demo weights, fitted to {len(images)} photos of {len(classes.unique())} classes")
    return 0


if __name__ == "__main__":
    run(main)

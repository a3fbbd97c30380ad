#!/usr/bin/env python3
"""Measure plain PyTorch's accuracy on labeled images: the reference for a converted model.

Usage:    python3 tools/pytorch_reference.py CHECKPOINT IMAGES val_label.txt [--resize 333]
                  [--interpolation bilinear|bicubic] [--state_dict KEY] [--of BINS...] [--record FILE.json]
Example:  python3 tools/pytorch_reference.py demo.pth.tar test/data/imagenet/val test/data/imagenet/val_label.txt
          93.75,100.0

Prints top-1 and top-5 in percent, as imagenet_acc_eval.py --reference takes them. The path from image
to class is independent (torchvision's transforms, PyTorch, torch.topk) and shares only the reading of
the checkpoint with the suite, so that a fault in the suite shows as a difference.

FILE.json: {reference: what was printed, made_from: sha256 of checkpoint, options, labels, names, sizes and times of the
images, and versions}. As long as made_from holds, it is printed again, at once: ImageNet takes hours on a CPU.
"""
import contextlib
import hashlib
import json
from pathlib import Path

from _root import ROOT

from common import model
from common.cli import Failure, listing, parser_of, run, say
from common.files import hash_of, read_json, write
from common.formats import bins_of, read_labels
from common.images import eight_bits, find_images, is_deep, open_image
from common.stats import percentages

TOP = 5
BATCH = 4  # images at a time: fastest on few cores
LEAST_TOP5 = 10.0  # percent; chance gives 0.5 on 1000 classes


def predict(network, paths: list, short_side: int, interpolation: str):
    """Return the likeliest classes of each image, int64 (images, up to 5)."""
    import torch
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.Resize(short_side, interpolation=transforms.InterpolationMode(interpolation)),
        transforms.CenterCrop(model.SIDE), transforms.ToTensor(),
        transforms.Normalize([model.MEAN] * 3, [model.STD] * 3),
    ])
    found = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            photos = [eight_bits(photo) if is_deep(photo) else photo
                      for photo in map(open_image, paths[start:start + BATCH])]
            images = torch.stack([transform(photo.convert("RGB")) for photo in photos])
            values = network(images)
            found.append(values.topk(min(TOP, values.shape[1])).indices)
    return torch.cat(found)


def digest(args, labels: dict, images: list) -> str:
    """Return the sha256 of everything that determines the reference; images: find_images' (path, size, mtime_ns)."""
    from importlib.metadata import version  # novm: with torch, Python is 3.9 or later

    sha = hashlib.sha256(f"{args.resize} {args.interpolation} {args.state_dict}\n".encode())
    for path in (args.checkpoint, Path(__file__), ROOT / "common/xception.py"):
        sha.update(f"{hash_of(path)}\n".encode())
    for package in ("torch", "torchvision", "pillow"):
        with contextlib.suppress(ImportError):  # PackageNotFoundError, of a package from the system
            sha.update(f"{package} {version(package)}\n".encode())
    for (name, label), (_, *stamp) in zip(labels.items(), images):
        sha.update(f"{name} {label} {stamp}\n".encode(errors="surrogateescape"))
    return sha.hexdigest()


def recorded(path, made_from: str):
    """Return the reference of an earlier call's record, None if there is none, or of something else."""
    try:
        record = read_json(path)
        percentages(record["reference"])
        return record["reference"] if record["made_from"] == made_from else None
    except (Failure, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("images", metavar="IMAGES", type=Path)
    parser.add_argument("labels", metavar="val_label.txt", type=Path)
    parser.add_argument("--resize", type=int, default=model.SHORT_SIDE,
                        help="short side before the crop, pixels (default: %(default)s)")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear",
                        help="default: %(default)s")
    parser.add_argument("--state_dict", metavar="KEY", help="which one, of several in the checkpoint")
    parser.add_argument("--of", metavar="BINS", type=Path, nargs="+", help="only images that have a .bin in "
                        "these folders: without those that img_preprocess.py left out")
    parser.add_argument("--record", metavar="FILE.json", type=Path, help="keep the result there, and print it again if "
                        "nothing has changed")
    args = parser.parse_args()

    labels = read_labels(args.labels)
    if args.of:
        taken = {name for folder in args.of for name in bins_of(folder)}
        labels = {name: label for name, label in labels.items() if name in taken}
    places = find_images(args.images)[0]
    missing = [name for name in labels if name not in places]
    if missing or not labels:
        raise Failure(f"{args.images}: contains no image {listing(missing)}, which {args.labels} lists" if missing else
                      f"{args.labels}: none of its images has a tensor in {listing(args.of)}; rerun img_preprocess.py")
    made_from = digest(args, labels, [places[name] for name in labels]) if args.record else ""
    reference = recorded(args.record, made_from) if args.record else None
    if reference:
        say(f"plain PyTorch on the same {len(labels)} images: {reference}, measured before ({args.record})")
        print(reference)
        return 0

    from xception_pth2onnx import build_network, load_checkpoint

    import torch

    network = build_network(args.checkpoint, load_checkpoint(args.checkpoint, args.state_dict)[0])
    network = network.to(memory_format=torch.channels_last)
    expected = torch.tensor(list(labels.values()))
    paths = [places[name][0] for name in labels]
    hits = predict(network, paths, args.resize, args.interpolation) == expected[:, None]
    top1, top5 = (100 * hits[:, :k].any(1).double().mean().item() for k in (1, 5))
    if top5 < LEAST_TOP5:
        raise Failure(f"{args.checkpoint}: plain PyTorch has top-5 {top5:.2f} % on these images: weights and "
                      f"{args.labels} do not belong together")
    say(f"plain PyTorch on the same {len(labels)} images: top-1 {top1:.3f} %, top-5 {top5:.3f} %")
    if args.record:
        write(args.record, json.dumps({"reference": f"{top1!r},{top5!r}", "made_from": made_from}, indent=1) + "\n")
    print(f"{top1!r},{top5!r}")
    return 0


if __name__ == "__main__":
    run(main)

"""What a user would otherwise run, each in its best honest form: the other side of bench.py's table.

Usage:    python3 peers.py NAME ARGUMENT...
Prints one number: the seconds of the loop alone. Imports and set-up are not counted, to the peer's advantage.
"""
import os
import sys
import time
from multiprocessing import Pool
from pathlib import Path

THREADS = len(os.sched_getaffinity(0))


def transforms_of_the_original(short_side=333, crop=299):
    """The original script's transforms (tstandley/Xception-PyTorch, xception.py)."""
    from torchvision import transforms

    return transforms.Compose([
        transforms.Resize(short_side), transforms.CenterCrop(crop), transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3)])


def torchvision_loop(src, dst):
    """The plain loop of the original preprocessing script: one process, a tensor file for each image."""
    from PIL import Image

    transform = transforms_of_the_original()
    Path(dst).mkdir()
    started = time.monotonic()
    for name in sorted(os.listdir(src)):
        with Image.open(os.path.join(src, name)) as image:
            tensor = transform(image.convert("RGB"))
        tensor.numpy().tofile(os.path.join(dst, name.split(".")[0] + ".bin"))
    return time.monotonic() - started


def dataset_of(src, transform, finish):
    """A torch Dataset over the images of a folder; `finish(name, tensor)` makes what an item is."""
    from PIL import Image
    from torch.utils.data import Dataset

    class Images(Dataset):
        names = sorted(os.listdir(src))

        def __len__(self):
            return len(self.names)

        def __getitem__(self, i):
            with Image.open(os.path.join(src, self.names[i])) as image:
                return finish(self.names[i], transform(image.convert("RGB")))

    return Images()


def dataloader(src, dst):
    """torch's DataLoader with a worker for each core, which write the files themselves."""
    from torch.utils.data import DataLoader

    Path(dst).mkdir()

    def write(name, tensor):
        tensor.numpy().tofile(os.path.join(dst, name.split(".")[0] + ".bin"))
        return 0

    loader = DataLoader(dataset_of(src, transforms_of_the_original(), write), batch_size=16, num_workers=THREADS,
                        multiprocessing_context="fork")
    started = time.monotonic()
    for _ in loader:
        pass
    return time.monotonic() - started


def decode_and_resize(path):
    from PIL import Image

    with Image.open(path) as image:
        short = min(image.size)
        image.convert("RGB").resize(tuple(333 * side // short for side in image.size), Image.BILINEAR)


def limit(src):
    """What cannot be left out: JPEG decode and Pillow's resize, on all cores; nothing is written."""
    paths = [os.path.join(src, name) for name in sorted(os.listdir(src))]
    with Pool(THREADS) as pool:
        pool.map(decode_and_resize, paths[:THREADS], chunksize=1)  # imports
        started = time.monotonic()
        pool.map(decode_and_resize, paths, chunksize=16)
        return time.monotonic() - started


def onnxruntime(onnx, batch, rounds):
    """ONNX Runtime on the same ONNX, threads and batch."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    values = np.random.default_rng(0).random((int(batch), 3, 299, 299), dtype=np.float32)
    session.run(None, {"image": values})
    started = time.monotonic()
    for _ in range(int(rounds)):
        session.run(None, {"image": values})
    return time.monotonic() - started


def network(weights):
    """The suite's network in PyTorch, eval mode, channels last."""
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from xception_pth2onnx import build_network, load_checkpoint

    model = build_network(Path(weights), load_checkpoint(Path(weights))[0])
    return model.eval().to(memory_format=torch.channels_last)


def pytorch(weights, batch, rounds):
    """PyTorch eager, float32, channels last."""
    import torch

    model = network(weights)
    values = torch.rand(int(batch), 3, 299, 299).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(values)
        started = time.monotonic()
        for _ in range(int(rounds)):
            model(values)
        return time.monotonic() - started


def validation_loop(src, labels, weights):
    """The usual loop: DataLoader with 2 workers, batch 16, channels last, inference_mode, top-5."""
    import torch
    from torch.utils.data import DataLoader

    model = network(weights)
    rows = (line.split() for line in Path(labels).read_text().splitlines())
    label_of = {name.split(".")[0]: int(label) for name, label in rows}
    data = dataset_of(src, transforms_of_the_original(), lambda name, tensor: (tensor, label_of[name.split(".")[0]]))
    hits = torch.zeros(5, dtype=torch.int64)
    started = time.monotonic()
    with torch.inference_mode():
        for images, targets in DataLoader(data, batch_size=16, num_workers=2, multiprocessing_context="fork"):
            top5 = model(images.to(memory_format=torch.channels_last)).topk(5).indices
            hits += (top5 == targets[:, None]).cumsum(1).sum(0)
    seconds = time.monotonic() - started
    print("top-1..5:", *(f"{100 * hits / len(data)}".split()), file=sys.stderr)
    return seconds


def per_token(dumps, labels):
    """The original evaluation loop: np.float32 for each token of a dump, a full argsort."""
    import numpy as np

    rows = (line.split() for line in Path(labels).read_text().splitlines())
    label_of = {name.split(".")[0]: int(label) for name, label in rows}
    hits = np.zeros(5)
    started = time.monotonic()
    for name in sorted(os.listdir(dumps)):
        with open(os.path.join(dumps, name)) as file:
            values = np.array([np.float32(token) for token in file.read().split()])
        order = np.argsort(-values)
        label = label_of[name.rpartition("_")[0]]
        for k in range(5):
            if order[k] == label:
                hits[k:] += 1
                break
    return time.monotonic() - started


if __name__ == "__main__":
    print(globals()[sys.argv[1]](*sys.argv[2:]))

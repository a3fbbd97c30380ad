#!/usr/bin/env python3
"""Show where fp16, bf16 or int8 changes the network's values, layer by layer, and the effect on its predictions.

Usage:    python3 tools/precision.py WORKDIR [--precision fp16|bf16|int8] [--images 64] [--dumps DIR]
                  [--out WORKDIR/precision.html]
Example:  python3 tools/precision.py work
          layer                                  relative error     cosine  below 2^-14  beyond 65504
          image                                         0.019 %  1.0000000       0.00 %             0
          ...
          class                                         0.020 %  1.0000000       0.00 %             0
          top-1   88.89 % in f32 and  88.89 % in fp16: +0.000 points (-5.897 to +5.897), p = 1 (McNemar)
          top-1 changed on 0 of 45 images
          /home/me/work/precision.html: 45 images, 129 layers, 67,948 bytes

WORKDIR is one of run_all.sh, with its bins. The images are drawn at random, the same for the same names. fp16 is
emulated (host/precision.py), bf16 is OpenVINO's, int8 is the deploy model of a --precision int8 run, simulated in
float32. Everything runs on the CPU; no chip is needed, and no statement about
a chip is made without --dumps.

--dumps DIR: a real NPU's dumps for the same images (result/dumpOutput_bs1, with the same weights and recipe). Their
differences from float32 are compared with those of the emulation: does fp16 alone explain them?

int8's noise floor: how far the same int8 model differs from itself, relative to float32, when its rounding is disturbed
(computed with other operators). Rounding flips grow from layer to layer, so differences within it mean nothing.

precision.html: UTF-8, self-contained, as report.py's pages. "Below 2^-14": share of float32's nonzero values that fp16
represents with fewer bits, or as zero below 2^-25. "Beyond 65504": values that are infinite or NaN in fp16, as they
would be on the chip.
"""
import contextlib
import math
import os
import random
from pathlib import Path
from types import SimpleNamespace

import _root

import charts
from common import model, runs
from common.cli import Failure, import_openvino, listing, parser_of, positive, printable, progress, run
from common.files import as_written, hash_of, read, read_json
from common.formats import find_dumps, parse_dump
from common.stats import highest, rank
from imagenet_acc_eval import TOP

import numpy as np

SMALLEST_NORMAL, SMALLEST = 2.0**-14, 2.0**-25  # of fp16; smaller values than the second become zero
EXPLAINED = 2.0  # times the emulation's difference from float32: up to this, fp16 alone explains an NPU's difference
FAR = 5.0  # times the emulation's largest difference: another order of summation cannot explain more


def sample(folders: list, images: list, count: int, size: int) -> list:
    """Return [(image, path of its bin)] of `count` random images; raises Failure if a bin is missing or has changed."""
    chosen = sorted(random.Random(0).sample(sorted(images), min(count, len(images))))
    found = []
    for image in chosen:
        paths = [folder / f"{image}.bin" for folder in folders if (folder / f"{image}.bin").exists()]
        if not paths:
            raise Failure(f"{folders[0] / image}.bin: missing; rerun run_all.sh")
        if paths[0].stat().st_size != size:
            raise Failure(f"{paths[0]}: {paths[0].stat().st_size} bytes, expected {size}; rerun run_all.sh")
        found.append((image, paths[0]))
    return found


def tensor(path: Path, recipe: dict) -> np.ndarray:
    """Return a bin of either kind as the network's float32 input (1, 3, crop, crop)."""
    side = int(recipe["crop"])
    if recipe["dtype"] == "float32":
        return np.frombuffer(read(path, 12 * side * side), "<f4").reshape(1, 3, side, side)
    pixels = np.frombuffer(read(path, 3 * side * side), np.uint8).reshape(1, side, side, 3)
    return np.ascontiguousarray(((pixels.astype("f4") / np.float32(255) - np.float32(model.MEAN))
                                 / np.float32(model.STD)).transpose(0, 3, 1, 2))


def int8_models(path: Path, digest: str) -> list:
    """Return a deploy model twice, as bytes for OpenVINO: its int8 layers by FakeQuantize, and by plain arithmetic.

    Both simulate int8 in float32, but round sums differently: the difference is the noise floor.
    """
    from host import contract, deploy

    if hash_of(path) != digest:
        raise Failure(f"{path}: not the deploy model that run.json describes; rerun run_all.sh")
    try:
        quantized = contract.load_model(str(path))
        contract.check_model(str(path), quantized)
        deploy.check(quantized, {})
        return [make(quantized).SerializeToString() for make in (deploy.to_fake_quantize, deploy.to_plain)]
    except contract.AtcError as error:
        raise Failure(f"{path}: {error}") from error


def compile_taps(onnx: Path, side: int, precision: str, model=None, wanted=None):
    """Return (a compiled model that outputs all layers, [their names]) for a batch of one, in f32, fp16, bf16 or int8.

    model: the bytes to read in place of file `onnx`; wanted: the names of the layers to output, where there are others.
    """
    from host import om
    from host import precision as rounding

    openvino = import_openvino()
    core = openvino.Core()
    om.bound_memory(onnx, [(1, 3, side, side)])
    try:
        network = core.read_model(model or onnx)
    except Exception as error:  # any: a damaged file raises nearly every type
        raise Failure(f"{onnx}: OpenVINO cannot read it ({' '.join(str(error).split())[-200:]})") from error
    if len(network.inputs) != 1:
        raise Failure(f"{onnx}: {len(network.inputs)} inputs, expected one")
    network.reshape([1, 3, side, side])
    layers = rounding.apply(openvino, network) if precision == "fp16" else rounding.results(network)
    if wanted:
        layers = [(name, output) for name, output in layers if name in wanted]
    tapped = openvino.Model([openvino.opset13.result(output) for _, output in layers], network.get_parameters())
    config = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    if precision == "int8":
        config["LP_TRANSFORMS_MODE"] = "NO"  # simulated, on CPUs with int8 too
    compiled = core.compile_model(tapped, "CPU", config)
    if precision == "bf16" and om.effective_precision(compiled, precision) != "bf16":
        raise Failure("OpenVINO computes in f32 on this CPU, not in bf16; use --precision fp16, which is "
                      "emulated on any", 4)
    return compiled, [name for name, _ in layers]


class Sums:
    """Sums over the images for one layer, in float64."""

    def __init__(self):
        self.squares = self.difference = self.product = self.others = self.noise = 0.0
        self.count = self.small = self.lost = self.beyond = self.finite = 0

    def add(self, exact: np.ndarray, other: np.ndarray):
        """Add one image's values in float32 and in the other precision; non-finite ones are only counted."""
        finite = np.isfinite(other)
        beyond = int(other.size - np.count_nonzero(finite))
        self.finite += other.size - beyond
        if beyond:
            exact, other = exact[finite], other[finite]
        a, b = exact.ravel().astype(np.float64), other.ravel().astype(np.float64)
        size = np.abs(a)
        self.squares += float(a @ a)
        self.others += float(b @ b)
        self.product += float(a @ b)
        self.difference += float((a - b) @ (a - b))
        self.count += np.count_nonzero(size)
        self.small += int(np.count_nonzero((size < SMALLEST_NORMAL) & (size > 0)))
        self.lost += int(np.count_nonzero((size < SMALLEST) & (size > 0)))
        self.beyond += beyond

    def disturb(self, other: np.ndarray, disturbed: np.ndarray):
        """Add one image's values in the other precision, and in the same with its rounding disturbed."""
        gap = (other - disturbed).ravel().astype(np.float64)
        self.noise += float(gap @ gap)

    def row(self, name: str) -> dict:
        """Return the layer's row of the table: relative error, cosine, shares."""
        length = math.sqrt(self.squares * self.others)
        error = math.sqrt(self.difference / self.squares) if self.squares else math.inf if self.difference else 0.0
        alike = self.product / length if length else float(self.squares == self.others)  # 1 for zeros on both sides
        return {"name": name, "error": error if self.finite else math.inf, "cosine": alike if self.finite else math.nan,
                "noise": math.sqrt(self.noise / self.squares) if self.squares else 0.0,
                "small": self.small / self.count if self.count else 0.0,
                "lost": self.lost / self.count if self.count else 0.0, "beyond": self.beyond}


def run_both(onnx: Path, recipe: dict, images: list, precision: str, quantized=()) -> tuple:
    """Return (rows of the table, float32 logits (N, classes), the precision's) for images [(name, path of its bin)].

    quantized: of int8, the file of the deploy model and its sha256.
    """
    side = int(recipe["crop"])
    exact, names = compile_taps(onnx, side, "f32")
    if quantized:
        taps = [compile_taps(quantized[0], side, precision, model, names) for model in int8_models(*quantized)]
        if taps[0][1] != names:
            exact, names = compile_taps(onnx, side, "f32", None, taps[0][1])
    else:
        taps = [compile_taps(onnx, side, precision)]
    if any(names != others for _, others in taps):
        raise Failure(f"{onnx}: OpenVINO names its layers differently in {precision}", 4)
    sums, logits = [Sums() for _ in names], ([], [])
    with progress(len(images), "images") as advance:
        for _, path in images:
            values = tensor(path, recipe)
            found = [[result.copy() for result in compiled(values).values()]
                     for compiled in (exact, *(compiled for compiled, _ in taps))]
            for layer, a, b in zip(sums, *found[:2]):
                layer.add(a, b)
            for layer, b, c in zip(sums, *found[1:]) if quantized else ():
                layer.disturb(b, c)
            for kept, results in zip(logits, found):
                kept.append(results[-1].reshape(-1))
            advance()
    return [layer.row(name) for layer, name in zip(sums, names)], np.array(logits[0]), np.array(logits[1])


def answers(logits: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    """Return ranks (N,) and top (N, up to 5) of logits (N, classes); with NaN an image is wrong and its top is -1."""
    broken, known = np.isnan(logits).any(axis=1), np.nan_to_num(logits, nan=0.0, posinf=np.inf, neginf=-np.inf)
    ranks, top = rank(known, labels), highest(known, min(TOP, logits.shape[1]))
    ranks[broken], top[broken] = logits.shape[1] + 1, -1
    return SimpleNamespace(ranks=ranks, top=top)


def flips(a: SimpleNamespace, b: SimpleNamespace, logits: np.ndarray, images: list, names: list) -> list:
    """Return the images whose likeliest class changed, the greatest margin in float32 first.

    The margin is the difference of the two classes' float32 logits, infinite if the other precision has NaN.
    """
    changed = np.flatnonzero(a.top[:, 0] != b.top[:, 0])
    margins = {int(i): float(logits[i, a.top[i, 0]] - logits[i, b.top[i, 0]]) if b.top[i, 0] >= 0 else math.inf
               for i in changed}
    names = [*names, "none: NaN"]  # for -1
    return [{"image": images[i][0], "margin": margins[i], "a": names[a.top[i, 0]], "b": names[b.top[i, 0]],
             "ranks": (int(a.ranks[i]), int(b.ranks[i]))} for i in sorted(margins, key=lambda i: (-margins[i], i))]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a - b| / |a| for each image's logits, (N, classes) each; infinite if b is not finite."""
    with np.errstate(invalid="ignore"):
        found = np.linalg.norm(a.astype("f8") - b, axis=1) / np.linalg.norm(a.astype("f8"), axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def chip_verdict(folder: Path, images: list, exact: np.ndarray, emulated: np.ndarray, precision: str) -> dict:
    """Return the distances between an NPU's dumps, float32 and the emulation, and the verdict.

    `verdict` is a line of text; flips and emulated_flips count images whose likeliest class is not float32's.
    """
    dumps = find_dumps(folder)
    missing = [image for image, _ in images if image not in dumps]
    if missing:
        raise Failure(f"{folder}: no dump of {listing(missing)}; pass dumps of the same images as WORKDIR's")
    rows = []
    for image, _ in images:
        rows.append(parse_dump(dumps[image]))
        if len(rows[-1]) != exact.shape[1]:
            raise Failure(f"{dumps[image]}: {len(rows[-1])} values, but the network has {exact.shape[1]}; of another "
                          "model")
    chip = np.array(rows)
    off, off_emulated = distances(exact, chip), distances(exact, emulated)
    broken, broken_emulated = ~np.isfinite(off), ~np.isfinite(off_emulated)
    finite = ~broken & ~broken_emulated
    found = {"chip": median(off[finite]), "emulated": median(off_emulated[finite]),
             "between": median(distances(emulated, chip)[finite]),
             "flips": int(np.count_nonzero(answers(chip, chip.argmax(axis=1)).top[:, 0] != highest(exact, 1)[:, 0])),
             "emulated_flips": int(np.count_nonzero(answers(emulated, emulated.argmax(axis=1)).top[:, 0]
                                                    != highest(exact, 1)[:, 0]))}
    found["ratio"] = found["chip"] / found["emulated"] if found["emulated"] else math.inf if found["chip"] else 1.0
    far = finite & (off > FAR * np.max(off_emulated[finite], initial=0.0))
    names = np.array([image for image, _ in images])
    found["verdict"] = (
        f"{made_by(folder)} differs from float32 by {100 * found['chip']:.3f} % (median over the images), the "
        f"emulation of {precision} by {100 * found['emulated']:.3f} %, the two from each other by "
        f"{100 * found['between']:.3f} %; its likeliest class changes on {found['flips']} of {len(images)} images, "
        f"the emulation's on {found['emulated_flips']}: "
        + why(found["ratio"], precision, *(names[where].tolist() for where in (
            broken & ~broken_emulated, broken_emulated & ~broken, broken & broken_emulated, far))))
    return found


def why(ratio: float, precision: str, only_chip: list, only_emulated: list, both: list, far: list) -> str:
    """Return the explanation of an NPU's values; the lists are images with NaN or infinite values, and outliers."""
    if only_chip:
        return f"{len(only_chip)} images have NaN or infinite values only there ({listing(only_chip)}), which " \
               f"{precision} does not explain"
    if only_emulated:
        return f"{len(only_emulated)} images have NaN or infinite values only in the emulation " \
               f"({listing(only_emulated)}): the NPU computed in a wider range than {precision} has"
    if far:
        return f"{len(far)} images differ more than {FAR:g} times as much as any in the emulation ({listing(far)}), " \
               f"which {precision} does not explain; check them first"
    if ratio > EXPLAINED:
        return f"{ratio:.1f} times what {precision} alone explains; check recipe and weights, then look for an " \
               "operator that the chip computes differently"
    if ratio < 1 / EXPLAINED:
        return f"closer to float32 than {precision}: the NPU computed in a higher precision"
    return f"{precision} alone explains the difference" + (
        f", with NaN or infinite values on {len(both)} images on both sides" if both else "")


def made_by(folder: Path) -> str:
    """Return the device that made the dumps, from infer.py's record next to them, if any."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        path = Path(os.path.abspath(folder))
        if read_json(path.with_name(f"{path.name}.json"))["engine"] == "host":
            return "the CPU stand-in (not an NPU)"
    return "the NPU"


def median(values: np.ndarray) -> float:
    """Return the median of any number of values, 0 of none."""
    return float(np.median(values)) if len(values) else 0.0


def draw_errors(rows: list, precision: str):
    """Draw the relative error by layer, in the order of the network."""
    def draw(axes):
        errors = [100 * row["error"] if 0 < row["error"] < math.inf else math.nan for row in rows]
        axes.plot(range(len(rows)), errors, "o-", color=charts.FIRST, markersize=3, linewidth=1, label=precision)
        if precision == "int8":
            noise = [100 * row["noise"] if row["noise"] else math.nan for row in rows]
            axes.plot(range(len(rows)), noise, "-", color=charts.SECOND, linewidth=1, label="noise floor")
            axes.legend(loc="lower right")
        broken = [i for i, row in enumerate(rows) if row["beyond"]]
        if broken:
            axes.plot(broken, [min(filter(lambda e: e == e, errors), default=1)] * len(broken), "x",
                      color=charts.SECOND, markersize=5, label="infinite or NaN values")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set(xlabel="layer, in the order of the network", ylabel="relative error, %")
        axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    return charts.plot(draw, f"Relative error of {precision} by layer", width=7.2, height=3.4)


def print_layers(rows: list, precision: str):
    """Print a line per layer, in the order of the network; only fp16 has columns on its range, int8 its noise floor."""
    width = max(len(row["name"]) for row in rows)
    print(f"{'layer':<{width}}  relative error" + ("  noise floor" if precision == "int8" else "") + "     cosine"
          + ("  below 2^-14  beyond 65504" if precision == "fp16" else "   not finite"))
    for row in rows:
        small = f"  {100 * row['small']:9.2f} %" if precision == "fp16" else ""
        noise = f"  {100 * row['noise']:9.3f} %" if precision == "int8" else ""
        print(f"{printable(row['name']):<{width}}  {100 * row['error']:12.3f} %{noise}  {row['cosine']:9.7f}{small}"
              f"  {row['beyond']:{12 if small else 11}}")


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path)
    parser.add_argument("--precision", choices=("fp16", "bf16", "int8"), default="fp16",
                        help="default: %(default)s")
    parser.add_argument("--images", type=positive, default=64, help="how many of the set (default: %(default)s)")
    parser.add_argument("--dumps", metavar="DIR", type=Path, help="a real NPU's, for the same images")
    parser.add_argument("--classes", metavar="NAMES.txt", type=Path, help="a class name per line")
    parser.add_argument("--out", metavar="PAGE.html", type=Path, help="default: WORKDIR/precision.html")
    args = parser.parse_args()

    if args.dumps and args.precision == "int8":
        raise Failure("--dumps: not with int8, whose values differ from engine to engine; compare accuracies", 2)
    found = runs.load_run(args.workdir)
    quantization = found.record.get("quantization")
    if args.precision == "int8" and not quantization:
        raise Failure(f"{args.workdir}: not a run in int8; run bash run_all.sh --precision int8")
    with as_written(args.workdir / "run.json"):
        recipe = found.record["recipe"]
        onnx = Path(args.workdir, found.record["onnx"]["file"])
        size = 3 * int(recipe["crop"]) ** 2 * {"float32": 4, "uint8": 1}[recipe["dtype"]]
        digest = found.record["onnx"]["sha256"]
        quantized = (args.workdir / quantization["file"], quantization["sha256"]) if args.precision == "int8" else ()
    if hash_of(onnx) != digest:
        raise Failure(f"{onnx}: not the file that run.json describes; rerun run_all.sh")
    images = sample(runs.bins_of(found), found.images, args.images, size)
    label_of = dict(zip(found.images, found.labels.tolist()))
    labels = np.array([label_of[image] for image, _ in images])
    names = runs.class_names(args.classes, args.workdir, found.classes)
    layers, exact, other = run_both(onnx, recipe, images, args.precision, quantized)
    if exact.shape[1] != found.classes:
        raise Failure(f"{onnx}: {exact.shape[1]} classes, run.json has {found.classes}; rerun run_all.sh")
    a, b = answers(exact, labels), answers(other, labels)
    rows = runs.paired_rows(a, b)
    changed = flips(a, b, exact, images, names)
    chip = chip_verdict(args.dumps, images, exact, other, args.precision) if args.dumps else None
    first_broken = next((row["name"] for row in layers if row["beyond"]), None)

    print_layers(layers, args.precision)
    for row in rows:
        print(f"top-{row['k']}  {row['a']:6.2f} % in f32 and {row['b']:6.2f} % in {args.precision}: "
              f"{row['difference']:+.3f} points ({row['low']:+.3f} to {row['high']:+.3f}), "
              f"p = {row['p']:.2g} (McNemar)")
    print(f"top-1 changed on {len(changed)} of {len(images)} images"
          + (f", the largest margin in float32 {changed[0]['margin']:.3g}" if changed else ""))
    if first_broken:
        print(f"{args.precision} overflows: the first infinite or NaN values are in {first_broken}; an NPU would have "
              "them too")
    if chip:
        print(chip["verdict"])
    out = args.out or args.workdir / "precision.html"
    with charts.fonts_elsewhere():
        written = charts.write_page(
            "precision.html", out, run=found, precision=args.precision, layers=layers, rows=rows, changed=changed,
            total=len(images), errors=draw_errors(layers, args.precision), chip=chip, first_broken=first_broken,
            demo=bool(found.record.get("demo")), shown=changed[:charts.LONGEST])
    print(f"{out.resolve()}: {len(images)} images, {len(layers)} layers, {written:,} bytes")
    return 0


if __name__ == "__main__":
    run(main)

"""Time each stage against what a user would otherwise run, the two alternating in one run.

Usage:    bash test/bench/run.sh [STAGE...]
Example:  bash test/bench/run.sh preprocess
          | stage | ours | peer | ratio | asked for |
          | img_preprocess, float32, 2 cores | 1000 images: 2.31 s | torchvision loop: 8.12 s | 3.52x | >= 3.4x |

Prints a row for each figure, and without STAGE writes all of them, with this machine's description, to
test/bench/RESULTS.md; what stands there below the line "## What limits" is kept. Times are medians over the rounds,
a ratio is the median of the rounds' ratios, so that a change of the machine's speed between rounds does not enter.
Ours is the time of the whole process; a peer's is that of its loop alone (peers.py), so imports count against us.

Works below work/bench and removes it; needs 15 GB there and 11 GB in /dev/shm. Nothing here is pass or fail.
"""
import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUITE = HERE.parents[1]
sys.path.insert(0, str(SUITE))
from host import om  # noqa: E402

WORK = SUITE / "work/bench"
RESULTS = HERE / "RESULTS.md"
KEPT = "## What limits"
CORES = len(os.sched_getaffinity(0))
SIDE = (500, 375)  # pixels: the commonest size in ImageNet
PHOTOS = 4000  # for preprocessing: half a second of start-up is 5 %
SCORED = 400  # for inference
DUMPS = 50_000
MEMORY = Path("/dev/shm")  # preprocessing writes here, 11 GB: a disk's whims would drown the difference
HAS_BF16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
BENCHMARK = f"benchmark.{platform.machine()}"


# --- measuring ------------------------------------------------------------------------------------------------------

def run(command, cwd, **options):
    """Run a command quietly; return (seconds of wall time, its stdout). Its failure ends the bench."""
    path = os.pathsep.join([str(SUITE / "host"), str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.monotonic()
    done = subprocess.run([str(word) for word in command], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False, env={**os.environ, "PATH": path}, **options)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{command}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return seconds, done.stdout


def script(name, *arguments, cwd):
    """Seconds of one of the suite's scripts."""
    return run([sys.executable, SUITE / name, *arguments], cwd)[0]


def peer(name, *arguments, cwd):
    """Return the seconds that a loop of peers.py prints."""
    return float(run([sys.executable, HERE / "peers.py", name, *arguments], cwd)[1])


def alternate(rounds, *sides):
    """Call the sides in turn, in the other direction every second round; return a list of seconds for each."""
    times = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for i in order:
            times[i].append(sides[i]())
    return times


def ratio(numerators, denominators):
    return statistics.median(a / b for a, b in zip(numerators, denominators))


def seconds(values, unit="s"):
    return f"{statistics.median(values):.3g} {unit}"


def row(stage, ours, other, value, asked):
    print(f"| {stage} | {ours} | {other} | {value} | {asked} |", flush=True)
    return (stage, ours, other, value, asked)


def peak_memory(command, cwd):
    """Largest resident size, MB, of any one process of a command, and its seconds."""
    path = os.pathsep.join([str(SUITE / "host"), str(Path(sys.executable).parent), os.environ["PATH"]])
    started = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], cwd=cwd, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "PATH": path})
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"{command}: failed\n{message.decode()[-2000:]}")
    return usage.ru_maxrss / 1024, time.monotonic() - started


# --- data -----------------------------------------------------------------------------------------------------------

def make_photos(count):
    """WORK/photosN: `count` links to the demo's photos, brought to ImageNet's commonest size."""
    from PIL import Image

    folder, originals = WORK / f"photos{count}", WORK / "originals"
    if folder.exists():
        return folder
    if not originals.exists():
        originals.mkdir(parents=True)
        for path in sorted((SUITE / "test/data/imagenet/val").iterdir()):
            with Image.open(path) as image:
                size = SIDE if image.width >= image.height else SIDE[::-1]
                image.convert("RGB").resize(size, Image.LANCZOS).save(originals / path.name, quality=92)
    files = sorted(originals.iterdir())
    folder.mkdir()
    for i in range(count):
        os.link(files[i % len(files)], folder / f"image_{i:06}.JPEG")
    labels = dict(line.split() for line in (SUITE / "test/data/imagenet/val_label.txt").read_text().splitlines())
    (WORK / f"labels{count}.txt").write_text("".join(
        f"image_{i:06}.JPEG {labels[files[i % len(files)].name]}\n" for i in range(count)))
    return folder


def make_model():
    """WORK/demo.pth.tar and xception.onnx, and oms for batches of 1, 8 and 16."""
    if not (WORK / "xception_bs16.om").exists():
        data = SUITE / "test/data/imagenet"
        script("tools/make_demo.py", data / "val", data / "val_label.txt", "demo.pth.tar", cwd=WORK)
        script("xception_pth2onnx.py", "demo.pth.tar", "xception.onnx", cwd=WORK)
        for batch in (1, 8, 16):
            compile_om(batch)


def compile_om(batch, stem="xception", *extra):
    run(["atc", "--framework=5", f"--model={stem}.onnx", f"--output={stem}_bs{batch}", "--input_format=NCHW",
         f"--input_shape=image:{batch},3,299,299", "--soc_version=Ascend310", *extra], WORK)


def make_half():
    """WORK/half_bs1.om, which computes in bf16."""
    shutil.copy(WORK / "xception.onnx", WORK / "half.onnx")
    compile_om(1, "half", "--precision_mode_v2=mixed_bfloat16")


def make_int8(batches):
    """WORK/int8_bsN.om, of the stand-in's deploy model, calibrated with 8 tensors."""
    script("tools/gen_calibration_bin.py", f"prep{SCORED}", "calibration_bin", "8", "1", cwd=WORK)
    run(["amct_onnx", "calibration", "--model", "xception.onnx", "--save_path", "./int8", "--input_shape",
         "image:8,3,299,299", "--data_dir", "calibration_bin", "--data_types", "float32"], WORK)
    shutil.move(WORK / "int8_deploy_model.onnx", WORK / "int8.onnx")
    for batch in batches:
        compile_om(batch, "int8")


def make_tensors(count, folder="prep"):
    """WORK/prepN and its info file."""
    if not (WORK / f"{folder}{count}.info").exists():
        script("img_preprocess.py", make_photos(count), f"{folder}{count}", cwd=WORK)
        script("gen_dataset_info.py", "bin", f"./{folder}{count}", f"{folder}{count}.info", "299", "299", cwd=WORK)


def make_dumps(count, suffix):
    """WORK/dumps_txt or dumps_bin: `count` links to 50 made-up dumps; WORK/dump_labels.txt."""
    import numpy as np

    folder = WORK / f"dumps{count}_{suffix}"
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"image_{i:06}_1.{suffix}"
        if i < 50:
            values = (3 * random.standard_normal(1000)).astype("<f4")
            path.write_bytes(values.tobytes() if suffix == "bin" else
                             (("%f " * 1000) % tuple(values.tolist()) + "\n").encode())
        else:
            os.link(folder / f"image_{i % 50:06}_1.{suffix}", path)
    (WORK / f"dump_labels{count}.txt").write_text("".join(f"image_{i:06}.JPEG {i % 1000}\n" for i in range(count)))
    return folder


# --- the stages -----------------------------------------------------------------------------------------------------

def preprocess(rounds):
    """img_preprocess.py: against a loop, a DataLoader, and what cannot be left out."""
    photos = make_photos(PHOTOS)

    def into_memory(time_one, name, *arguments):
        def call():
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                return time_one(name, photos, f"{folder}/out", *arguments, cwd=WORK)
        return call

    both, one, uint8, loop, loader, least = alternate(
        rounds, into_memory(script, "img_preprocess.py"), into_memory(script, "img_preprocess.py", "--jobs=1"),
        into_memory(script, "img_preprocess.py", "--aipp"), into_memory(peer, "torchvision_loop"),
        into_memory(peer, "dataloader"), lambda: peer("limit", photos, cwd=WORK))
    number = f"{PHOTOS} images: "
    yield row(f"img_preprocess, float32, {CORES} cores", number + seconds(both), f"torchvision loop: {seconds(loop)}",
              f"{ratio(loop, both):.2f}x", ">= 3.4x")
    yield row("img_preprocess, float32, one job", number + seconds(one), f"torchvision loop: {seconds(loop)}",
              f"{ratio(loop, one):.2f}x", ">= 1.7x")
    yield row(f"img_preprocess --aipp, {CORES} cores", number + seconds(uint8), f"torchvision loop: {seconds(loop)}",
              f"{ratio(loop, uint8):.2f}x", ">= 5x")
    yield row(f"img_preprocess, float32, {CORES} cores", number + seconds(both),
              f"DataLoader, {CORES} workers: {seconds(loader)}", f"{ratio(loader, both):.2f}x", ">= 1.6x")
    yield row(f"img_preprocess, float32, {CORES} cores", number + seconds(both),
              f"limit, decode and resize alone: {seconds(least)}", f"{ratio(both, least):.2f}x of its time", "<= 1.35x")


def benchmark(rounds):
    """host/benchmark: against ONNX Runtime, and its end-to-end rate against its own Interface rate."""
    make_model()
    make_tensors(SCORED)
    for batch, images in ((1, 128), (8, 128)):
        (WORK / "some.info").write_text("".join((WORK / f"prep{SCORED}.info").read_text().splitlines(True)[:images]))

        def ours(batch=batch, images=images):
            return images / rates(batch, "some.info")[0]

        mine, theirs = alternate(rounds, ours, lambda batch=batch, images=images: peer(
            "onnxruntime", "xception.onnx", batch, images // batch, cwd=WORK))
        yield row(f"host benchmark, f32, batch {batch}", f"{images / statistics.median(mine):.3g} images/s",
                  f"ONNX Runtime: {images / statistics.median(theirs):.3g} images/s", f"{ratio(theirs, mine):.2f}x",
                  ">= 1.0x")
    shutil.copy(WORK / "xception.onnx", WORK / "fp16.onnx")
    compile_om(1, "fp16", "--precision_mode=force_fp16")
    mine, theirs = alternate(rounds, lambda: 128 / rates(1, "some.info", "fp16")[0],
                             lambda: 128 / rates(1, "some.info")[0])
    yield row("host benchmark, fp16 emulated, batch 1", f"{128 / statistics.median(mine):.3g} images/s",
              f"in f32: {128 / statistics.median(theirs):.3g} images/s", f"{ratio(theirs, mine):.2f}x", "about 1x")
    if HAS_BF16:
        yield from bfloat16(rounds)
    else:
        yield row("host benchmark, bf16", "this CPU has no bf16", "-", "not measured", ">= 2.0x; >= 4.5x")
    found = [rates(1, f"prep{SCORED}.info") for _ in range(max(2, rounds // 2))]
    yield row(f"host benchmark, {SCORED} images, e2e", f"{statistics.median(e2e for _, e2e in found):.3g} images/s",
              f"its Interface rate: {statistics.median(rate for rate, _ in found):.3g} images/s",
              f"{statistics.median(e2e / rate for rate, e2e in found):.3f}", ">= 0.97")


def rates(batch, info, stem="xception"):
    """(Interface throughputRate, e2e rate) of a run of the host benchmark, images/s."""
    shutil.rmtree(WORK / "result", ignore_errors=True)
    run([BENCHMARK, "-model_type=vision", "-device_id=0", f"-batch_size={batch}", f"-om_path={stem}_bs{batch}.om",
         f"-input_text_path={info}", "-input_width=299", "-input_height=299", "-output_binary=False"], WORK)
    text = (WORK / f"result/perf_vision_batchsize_{batch}_device_0.txt").read_text()
    return tuple(float(re.search(pattern, text).group(1)) for pattern in
                 (r"Interface throughputRate: ([^,\s]+)", r"\[e2e\] throughputRate: ([^,\s]+)"))


def bfloat16(rounds):
    """bf16 on the host against ONNX Runtime and PyTorch in f32, batch 1."""
    make_half()
    images = 64
    mine, ort, torch = alternate(
        rounds, lambda: images / rates(1, "some.info", "half")[0],
        lambda: peer("onnxruntime", "xception.onnx", 1, images, cwd=WORK),
        lambda: peer("pytorch", "demo.pth.tar", 1, images, cwd=WORK))
    for name, times, asked in (("ONNX Runtime f32", ort, ">= 2.0x"), ("PyTorch eager f32", torch, ">= 4.5x")):
        yield row("host benchmark, bf16, batch 1", f"{images / statistics.median(mine):.3g} images/s",
                  f"{name}: {images / statistics.median(times):.3g} images/s", f"{ratio(times, mine):.2f}x", asked)


def int8(rounds):
    """int8 on the host against f32 and, where the CPU has it, bf16."""
    make_model()
    make_tensors(SCORED)
    kind = "int8" if om.has_int8() else "int8, simulated: this CPU lacks VNNI"
    make_int8((1, 8))
    shutil.copy(WORK / "xception.onnx", WORK / "half.onnx")
    for batch, asked in ((1, ">= 4x with AMX, nowhere < 1x"), (8, ">= 5x with AMX, nowhere < 1x")):
        others = {"f32": "xception", **({"bf16": "half"} if HAS_BF16 else {})}
        if HAS_BF16:
            compile_om(batch, "half", "--precision_mode_v2=mixed_bfloat16")
        sides = [lambda stem=stem, batch=batch: 64 / rates(batch, "few.info", stem)[0]
                 for stem in ("int8", *others.values())]
        (WORK / "few.info").write_text("".join((WORK / f"prep{SCORED}.info").read_text().splitlines(True)[:64]))
        mine, *theirs = alternate(rounds, *sides)
        for name, times in zip(others, theirs):
            yield row(f"host benchmark, {kind}, batch {batch}", f"{64 / statistics.median(mine):.3g} images/s",
                      f"in {name}: {64 / statistics.median(times):.3g} images/s", f"{ratio(times, mine):.2f}x",
                      asked if name == "f32" else "-")


def whole(rounds):
    """JPEGs to top-N against the usual validation loop in PyTorch."""
    make_model()
    photos = make_photos(SCORED)

    def ours(stem="xception"):
        shutil.rmtree(WORK / "prep", ignore_errors=True)
        shutil.rmtree(WORK / "result", ignore_errors=True)
        started = time.monotonic()
        script("img_preprocess.py", photos, "./prep", cwd=WORK)
        script("gen_dataset_info.py", "bin", "./prep", "prep.info", "299", "299", cwd=WORK)
        rates(1, "prep.info", stem)
        script("imagenet_acc_eval.py", "result/dumpOutput_device0", f"labels{SCORED}.txt", ".", "result.json", cwd=WORK)
        return time.monotonic() - started

    mine, theirs = alternate(max(2, rounds // 2), ours, lambda: peer(
        "validation_loop", photos, f"labels{SCORED}.txt", "demo.pth.tar", cwd=WORK))
    yield row(f"JPEGs to top-N, {SCORED} photos, f32", seconds(mine), f"PyTorch validation loop: {seconds(theirs)}",
              f"{ratio(theirs, mine):.2f}x", ">= 1.5x")
    if not HAS_BF16:
        yield row(f"JPEGs to top-N, {SCORED} photos, bf16", "this CPU has no bf16", "-", "not measured", ">= 3x")
        return
    make_half()
    mine, theirs = alternate(max(2, rounds // 2), lambda: ours("half"), lambda: peer(
        "validation_loop", photos, f"labels{SCORED}.txt", "demo.pth.tar", cwd=WORK))
    yield row(f"JPEGs to top-N, {SCORED} photos, bf16", seconds(mine), f"PyTorch validation loop: {seconds(theirs)}",
              f"{ratio(theirs, mine):.2f}x", ">= 3x")


def scoring(rounds):
    """imagenet_acc_eval.py against the original loop."""
    folders = {suffix: make_dumps(DUMPS, suffix) for suffix in ("txt", "bin")}

    def ours(suffix):
        return lambda: script("imagenet_acc_eval.py", folders[suffix], f"dump_labels{DUMPS}.txt", ".", "result.json",
                              cwd=WORK)

    text, binary, loop = alternate(rounds, ours("txt"), ours("bin"), lambda: peer(
        "per_token", folders["txt"], f"dump_labels{DUMPS}.txt", cwd=WORK))
    for suffix, times, asked in (("txt", text, ">= 5x"), ("bin", binary, ">= 25x")):
        yield row(f"imagenet_acc_eval, {DUMPS:,} .{suffix} dumps", seconds(times),
                  f"per-token loop on .txt: {seconds(loop)}", f"{ratio(loop, times):.1f}x", asked)


def export(rounds):
    """xception_pth2onnx.py against importing torch."""
    make_model()

    def ours():
        (WORK / "again.onnx").unlink(missing_ok=True)  # else it would be kept
        return script("xception_pth2onnx.py", "demo.pth.tar", "again.onnx", cwd=WORK)

    mine, torch = alternate(rounds, ours, lambda: run([sys.executable, "-c", "import torch"], WORK)[0])
    yield row("xception_pth2onnx", seconds(mine), f"import torch: {seconds(torch)}",
              f"{ratio(mine, torch):.2f}x of its time", "<= 4x")


def start(rounds):
    """What answers at once: scoring and listing a few files, and every --help, against importing numpy."""
    make_tensors(20)
    dumps = make_dumps(20, "txt")
    helps = [path for path in sorted(SUITE.glob("*.py")) if "argparse" in path.read_text()]
    helps += [SUITE / "host/atc", SUITE / "host/benchmark"]
    sides = {"gen_dataset_info, 20 bins": lambda: script(
                 "gen_dataset_info.py", "bin", "./prep20", "again.info", "299", "299", cwd=WORK),
             "imagenet_acc_eval, 20 dumps": lambda: script(
                 "imagenet_acc_eval.py", dumps, "dump_labels20.txt", ".", "result.json", cwd=WORK)}
    for path in helps:
        sides[f"{path.name} --help"] = lambda path=path: run([sys.executable, path, "--help"], WORK)[0]
    *times, numpy = alternate(3 * rounds, *sides.values(), lambda: run([sys.executable, "-c", "import numpy"], WORK)[0])
    found = sorted(((ratio(mine, numpy), name, mine) for (name, mine) in zip(sides, times)), reverse=True)
    worst = next(entry for entry in found if entry[1].endswith("--help"))
    for value, name, mine in [entry for entry in found if not entry[1].endswith("--help")] + [worst]:
        label = f"slowest of {len(helps)} --help: {name}" if name.endswith("--help") else name
        yield row(label, seconds([1000 * s for s in mine], "ms"),
                  f"import numpy: {seconds([1000 * s for s in numpy], 'ms')}", f"{value:.2f}x of its time", "<= 3x")


def driver(rounds):
    """run_all.sh's default job, when all is made, against its steps one by one."""
    run(["bash", SUITE / "run_all.sh", "--workdir", WORK / "job"], SUITE)
    commands = [*json.loads((WORK / "job/run.json").read_text())["commands"], f"python3 {SUITE}/tools/report.py ."]

    def steps():
        return sum(run(["bash", "-c", command], WORK / "job")[0] for command in commands
                   if not command.startswith(("cd ", "atc ")))  # an om that is there is kept, not compiled

    mine, sums = alternate(rounds, lambda: run(["bash", SUITE / "run_all.sh", "--workdir", WORK / "job"], SUITE)[0],
                           steps)
    yield row("run_all.sh, default job, second run", seconds(mine), f"its steps one by one: {seconds(sums)}",
              f"{100 * (ratio(mine, sums) - 1):+.1f} %", "<= +10 %")


def scale(rounds):
    """Peak memory at 100, 1,000 and 10,000 images, and time per image at the last two."""
    import onnx

    sys.path.insert(0, str(SUITE / "test"))
    make_model()
    onnx.save(tiny_network(), WORK / "tiny.onnx")
    compile_om(1, "tiny")
    sizes = (100, 1000, 10_000)
    for name, command in (
        ("img_preprocess, float32", lambda n: [sys.executable, SUITE / "img_preprocess.py", make_photos(n),
                                               MEMORY / "bench-grow"]),
        ("gen_dataset_info", lambda n: [sys.executable, SUITE / "gen_dataset_info.py", "bin", f"./prep{n}",
                                        "again.info", "299", "299"]),
        ("host benchmark, a tiny network", lambda n: [
            BENCHMARK, "-batch_size=1", "-om_path=tiny_bs1.om", f"-input_text_path=prep{n}.info",
            "-output_binary=False"]),
        ("imagenet_acc_eval, .txt", lambda n: [sys.executable, SUITE / "imagenet_acc_eval.py", make_dumps(n, "txt"),
                                               f"dump_labels{n}.txt", ".", "result.json"]),
    ):
        memory, times = [], []
        for n in sizes:
            words = command(n)
            if "prep" in str(words):
                make_tensors(n)
            shutil.rmtree(MEMORY / "bench-grow", ignore_errors=True)
            shutil.rmtree(WORK / "result", ignore_errors=True)
            used, taken = peak_memory(words, WORK)
            memory.append(used)
            times.append(taken / n)
        shutil.rmtree(MEMORY / "bench-grow", ignore_errors=True)
        yield row(f"{name}: peak memory of a process at 100, 1,000, 10,000",
                  ", ".join(f"{used:.0f} MB" for used in memory), "its own at 100",
                  f"{100 * (max(memory) / memory[0] - 1):+.1f} %", "<= +10 %, 150 MB a worker")
        yield row(f"{name}: time per image at 10,000", f"{1000 * times[2]:.3g} ms",
                  f"at 1,000: {1000 * times[1]:.3g} ms", f"{100 * (times[2] / times[1] - 1):+.1f} %", "<= +10 %")


def tiny_network():
    """An ONNX that costs nothing, with Xception's input and output: mean of each channel, then 1000 classes."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(1).standard_normal((3, 1000)).astype("f4"), "weight")
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
         helper.make_node("Flatten", ["pooled"], ["flat"]),
         helper.make_node("Gemm", ["flat", "weight"], ["class"])], "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [-1, 3, 299, 299])],
        [helper.make_tensor_value_info("class", TensorProto.FLOAT, [-1, 1000])], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


STAGES = {function.__name__: function for function in
          (preprocess, benchmark, int8, whole, scoring, export, start, driver, scale)}


# --- the page -------------------------------------------------------------------------------------------------------

def machine():
    """A line on this machine and the versions that ran."""
    from importlib import metadata

    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1)) / 2**20
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in
                         ("numpy", "pillow", "opencv-python", "torch", "torchvision", "openvino", "onnxruntime"))
    return (f"{model.group(1) if model else platform.machine()}, {CORES} cores, {memory:.0f} GiB, {platform.system()} "
            f"{platform.release()}; Python {platform.python_version()}, {versions}")


def page(rows):
    """The text of RESULTS.md; what a person wrote below KEPT stays."""
    old = RESULTS.read_text() if RESULTS.exists() else ""
    kept = old[old.index(KEPT):] if KEPT in old else f"{KEPT}\n"
    lines = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return (f"# Each stage against what a user would otherwise run\n\nWritten by `bash test/bench/run.sh` on "
            f"{time.strftime('%Y-%m-%d')}. {machine()}.\n\nA CPU's figures: they say nothing about an NPU. "
            "The two sides alternated in one run; ratios are medians over its rounds. Ours is a whole process, a "
            "peer's its loop "
            f"alone.\n\n| stage | ours | peer | ratio | asked for |\n|---|---|---|---|---|\n{lines}\n{kept}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", metavar="STAGE", nargs="*", help=f"default: all of {', '.join(STAGES)}")
    parser.add_argument("--rounds", type=int, default=5, help="times that each side runs (default: %(default)s)")
    args = parser.parse_args()
    unknown = set(args.stages) - STAGES.keys()
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))} (known: {', '.join(STAGES)})")

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    print("| stage | ours | peer | ratio | asked for |\n|---|---|---|---|---|", flush=True)
    rows = [cells for name in args.stages or STAGES for cells in STAGES[name](args.rounds)]
    if not args.stages:
        RESULTS.write_text(page(rows))
        print(f"also in {RESULTS.relative_to(SUITE)}")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()

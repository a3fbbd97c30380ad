"""What several test files need: the suite's folder, and one network carried through checkpoint, ONNX and om.

The network's weights are those of the reference logits in xception_reference.npz: made from
NumPy alone, by name, so that nothing large is stored.
"""
import atexit
import contextlib
import fcntl
import functools
import marshal
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

# Of a script's background job, or under nohup, they are ignored, and so by all that it starts: bash could not even trap
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

CLASSES, SIDE = 6, 8  # of the small network
SUITE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(SUITE), str(SUITE / "tools")]


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=2, help="runs that test_faults.py kills (full test: 40)")
    parser.addoption("--soak", type=int, default=500, help="images of test_soak.py (full test: 20000)")


def reference_weight(name: str, shape: tuple) -> np.ndarray:
    """The weight that xception_reference.npz was computed with, before the cast to its dtype."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if name.endswith("running_var"):
        return 0.5 + random.random(shape)
    if name.endswith("running_mean"):
        return 0.1 * random.standard_normal(shape)
    if len(shape) == 1 and name.endswith(".weight"):
        return 0.5 + random.random(shape)
    if name.endswith(".bias"):
        return 0.1 * random.standard_normal(shape)
    return random.standard_normal(shape) * np.sqrt(0.6 / np.prod(shape[1:]))


GUIDE_PINS = ("numpy==1.18.5", "Pillow==7.2.0", "opencv-python==4.2.0.34", "tqdm==4.64.1")  # the guide's, and tqdm


@functools.cache
def old_pythons() -> dict:
    """{version: path} of Python 3.7 and 3.8: from pyenv, on PATH, or where CANN's guide installs it."""
    pyenv, found = Path(pwd.getpwuid(os.getuid()).pw_dir, ".pyenv/versions"), {}  # $HOME may be another folder
    for version in ("3.7", "3.8"):
        places = [*pyenv.glob(f"{version}.*/bin/python{version}"), shutil.which(f"python{version}"),
                  *Path("/usr/local").glob(f"python{version}*/bin/python{version}")]
        for path in filter(None, places):
            if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0:
                found[version] = path
    return found


def old_environment(version: str) -> Path:
    """Return the bin folder of a virtual environment with GUIDE_PINS, made once for a checkout."""
    folder = SUITE / f".venv/python{version}"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            subprocess.run([old_pythons()[version], "-m", "venv", "--clear", folder], check=True)
            subprocess.run([folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *GUIDE_PINS],
                           check=True)
            (folder / "complete").touch()
    return folder / "bin"


def pytest_terminal_summary(terminalreporter):
    missing = {"3.7", "3.8"} - old_pythons().keys()
    if missing:
        terminalreporter.write_line(f"not tested with Python {' and '.join(sorted(missing))}: not installed here")


@pytest.fixture(scope="session")
def reference_rows():
    """(name, dtype, shape) of each entry of the published state dict, in order."""
    lines = (SUITE / "test/xception_state_dict.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [(name, dtype, tuple(int(side) for side in shape.split(",") if side)) for name, dtype, shape in rows]


@pytest.fixture(scope="session")
def reference_images():
    """float32 (2, 3, 299, 299): what xception_reference.npz was computed from."""
    return np.random.Generator(np.random.PCG64(299)).standard_normal((2, 3, 299, 299)).astype("<f4")


@pytest.fixture(scope="session")
def reference_logits():
    """float64 (2, 1000): the upstream network's answer."""
    return np.load(SUITE / "test/xception_reference.npz")["logits"]


@pytest.fixture(scope="session")
def reference_state(reference_rows):
    """{name: tensor}, the weights behind reference_logits."""
    import torch

    return {
        name: torch.from_numpy(np.asarray(reference_weight(name, shape))).to(getattr(torch, dtype))
        for name, dtype, shape in reference_rows
    }


def run(*command, cwd, env=None, status=0, quick=False, **options) -> subprocess.CompletedProcess:
    """Run a command as a user would, with the suite's Python and host/ first on PATH; check its exit status.

    quick: a launcher.py also runs the Python scripts that the command starts.
    """
    words = [os.fspath(word) for word in command]
    python = quick_python() if quick else Path(sys.executable).parent
    path = os.pathsep.join([str(SUITE / "host"), str(python), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **(env or {})}
    script = script_of(words)
    if script and not options and not any(name.startswith(("PYTHON", "LC_", "LANG", "LD_")) for name in env or {}):
        result = launch(script, cwd, environment)
    else:
        result = subprocess.run(words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, check=False, **options)
    message = f"{command}\nexit {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    assert status is None or result.returncode == status, message
    assert "Traceback (most recent call last):\n  File" not in result.stderr, message
    return result


def script_of(words: list):
    """Return the suite's Python script and its arguments, None for another command."""
    words = words[1:] if words[0] in (sys.executable, "python3") else words
    path = Path(words[0])
    if path.is_absolute() and path.parent in (SUITE, SUITE / "tools", SUITE / "host") and path.is_file() \
            and path.read_bytes().startswith(b"#!/usr/bin/env python3"):
        return words
    return None


LIBRARIES = ("numpy", "PIL.Image", "tqdm", "cv2", "onnx", "openvino", "jinja2", "matplotlib.figure",
             "matplotlib.font_manager", "matplotlib.backends.backend_svg")
TORCH_LIBRARIES = ("torch", "torchvision.transforms")
TORCH = ("xception_pth2onnx.py", "make_demo.py", "pytorch_reference.py")  # for others its fork takes too long


@functools.cache
def start_launcher(libraries: tuple) -> str:
    """Return the address of a launcher.py that has these libraries; of several pytest processes the first starts it."""
    session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    address = f"launcher {session} {zlib.crc32(' '.join(libraries).encode()):08x}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, contextlib.suppress(OSError):  # in use
        listener.bind(f"\0{address}")
        listener.listen(100)
        subprocess.Popen([sys.executable, SUITE / "test/launcher.py", str(listener.fileno()), str(session), *libraries],
                         stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()])
    return address


def launch(words: list, cwd, environment: dict) -> subprocess.CompletedProcess:
    """Run a script by a launcher.py."""
    torch = os.path.basename(words[0]) in TORCH or "--verify" in words
    address = start_launcher((*LIBRARIES, *TORCH_LIBRARIES) if torch else LIBRARIES)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull) as nothing, \
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(f"\0{address}")
        request = marshal.dumps([words, os.fspath(cwd), environment])
        socket.send_fds(connection, [request], [nothing.fileno(), out.fileno(), err.fileno()])
        answer = connection.recv(100)
        assert answer, "launcher.py has ended"
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    return subprocess.CompletedProcess(words, int(answer), *texts)


@functools.cache
def quick_python(libraries: tuple = LIBRARIES) -> Path:
    """Return a folder for PATH whose python3 runs scripts by a launcher.py that has these libraries.

    With the default, the scripts in TORCH run by a second launcher, which has torch as well.
    """
    folder = Path(tempfile.mkdtemp(prefix="python-"))
    atexit.register(shutil.rmtree, folder)
    address = start_launcher(libraries)
    torch = start_launcher((*LIBRARIES, *TORCH_LIBRARIES)) if libraries == LIBRARIES else address
    words = [sys.executable, "-IS", str(SUITE / "test/client.py"), address, torch, " ".join(TORCH)]
    (folder / "python3").write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    (folder / "python3").chmod(0o755)
    return folder


def made_once(tmp_path_factory, name: str, make) -> Path:
    """Return a folder that make(folder) has filled; of several pytest processes the first makes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    done = Path(f"{folder}.done")
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def work(tmp_path_factory, reference_state):
    """A folder with reference.pth, xception.onnx made of it, and its oms for batches of 1 and 4."""
    def make(folder):
        import torch

        torch.save(reference_state, folder / "reference.pth")
        run(sys.executable, SUITE / "xception_pth2onnx.py", "reference.pth", "xception.onnx", cwd=folder)
        for batch in (1, 4):
            run(SUITE / "host/atc", "--framework=5", "--model=xception.onnx", f"--output=xception_bs{batch}",
                "--input_format=NCHW", f"--input_shape=image:{batch},3,299,299", "--log=error",
                "--soc_version=Ascend310", cwd=folder)
    return made_once(tmp_path_factory, "reference", make)


@pytest.fixture(scope="session")
def default_job(tmp_path_factory):
    """`bash run_all.sh` once: stdout, stderr, its work directory, and its home directory, empty before it."""
    def make(folder):
        (folder / "home").mkdir()
        done = run("bash", SUITE / "run_all.sh", "--workdir", folder / "work", cwd=folder / "home",
                   env={"HOME": str(folder / "home")})
        (folder / "stdout").write_text(done.stdout)
        (folder / "stderr").write_text(done.stderr)
    folder = made_once(tmp_path_factory, "job", make)
    return SimpleNamespace(stdout=(folder / "stdout").read_text(), stderr=(folder / "stderr").read_text(),
                           work=folder / "work", home=folder / "home")


def copy_of_work(work, target):
    """Copy a work directory, its large files by links: no script writes those in place."""
    shutil.copytree(work, target, copy_function=lambda source, copy: (
        os.link if os.path.getsize(source) > 1 << 18 else shutil.copy2)(source, copy))


def few_photos(folder: Path, first=1, step=4) -> Path:
    """Make folder/imagenet/val and val_label.txt of the photos first, first + step, and so on: 11 by default."""
    (folder / "imagenet/val").mkdir(parents=True)
    lines = (SUITE / "test/data/imagenet/val_label.txt").read_text().splitlines(keepends=True)[first::step]
    for name in (line.split()[0] for line in lines):
        (folder / "imagenet/val" / name).symlink_to(SUITE / "test/data/imagenet/val" / name)
    (folder / "imagenet/val_label.txt").write_text("".join(lines))
    return folder / "imagenet"


def copy_of_the_suite(folder, work):
    """Make a checkout in `folder` with the same .venv, and a copy of the work directory of a finished run."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=SUITE,
                           capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SUITE / name, folder / name, follow_symlinks=False)
    os.symlink(SUITE / ".venv", folder / ".venv")
    copy_of_work(work, folder / "work")
    for path in (folder / "work").glob("*.om.json"):  # so that the oms are up to date there too
        path.write_text(path.read_text().replace(f"{SUITE}/", f"{folder}/"))
    return folder


def small_model(batch="-1", opset=11, domains=1, outputs=1):
    """A classifier small enough to run thousands of times: 3x8x8 -> mean -> Gemm -> 6 classes."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    weight = numpy_helper.from_array(random.standard_normal((3, CLASSES)).astype("f4"), "weight")
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["class"]),
    ]
    results = [helper.make_tensor_value_info("class", TensorProto.FLOAT, [batch, CLASSES])]
    if outputs == 2:
        nodes.append(helper.make_node("Relu", ["pooled"], ["second"]))
        results.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [batch, 3, 1, 1]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])
    graph = helper.make_graph(nodes, "small", [image], results, [weight])
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid("x.y", 1)] * (domains - 1)
    return helper.make_model(graph, opset_imports=imports, ir_version=6)


@pytest.fixture
def small(tmp_path):
    """A folder with m.onnx and five random tensors: p/t0.bin to p/t4.bin, listed in m.info."""
    import onnx

    onnx.save(small_model(), tmp_path / "m.onnx")
    (tmp_path / "p").mkdir()
    tensors = np.random.default_rng(2).standard_normal((5, 3, SIDE, SIDE)).astype("<f4")
    for i, tensor in enumerate(tensors):
        tensor.tofile(tmp_path / f"p/t{i}.bin")
    (tmp_path / "m.info").write_text("".join(f"{i} ./p/t{i}.bin {SIDE} {SIDE}\n" for i in range(5)))
    return tmp_path


ODD = (None, True, -1, 0, 10**400, float("nan"), "x", "", [], {}, [[]], "gone")


def others(content, top=None):
    """Yield `top` (what json.loads made) with one of its values after the other replaced by each of ODD, or gone."""
    top = content if top is None else top
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    if content is top:
        yield from ODD
    for key in list(keys):
        kept = content[key]
        for value in ODD:
            content[key] = value
            if value == "gone" and isinstance(content, dict):
                del content[key]
            yield top
            content[key] = kept
        yield from others(kept, top)


def fake_module(folder, name, text):
    """Return an environment in which `import name` runs `text`."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}

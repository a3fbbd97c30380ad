"""Read a checkpoint as training tools write it, and find the network's state dict in it. Imported only.

Nothing in a checkpoint is run: torch.load reads it with weights_only=True. Imports torch where it reads.
"""
import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import pickletools
import re
import resource
import select
import signal
import types
import warnings
import zipfile
from pathlib import Path

from common.cli import Failure, listing, printable, say
from common.filetypes import AGAIN, CUT, look, refuse
from common.jobs import end_with_parent

ROOM = 256 << 20  # bytes that reading a checkpoint may take in addition to twice its size
CPU_SECONDS, BYTES_A_SECOND = 3, 25 << 20  # CPU time that reading may take; a file of 92 MB takes 0.1 s
WALL_FACTOR = 20  # seconds of waiting per second of CPU time: for a busy machine or slow disk
NAME_LIMIT = 200  # characters of a tensor's name; the network's longest has 33, and trainers add prefixes
NOTE_LIMIT = 500  # characters
STORAGES = {"DoubleStorage": 8, "LongStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2,
            "ByteStorage": 1, "CharStorage": 1, "BoolStorage": 1}  # bytes of a value; others have 4
PICKLE_LIMIT = 1 << 18  # bytes of a pickle, without its tensors, that are looked at; the network's has 40,000
DEPTH = 3  # dictionaries in each other, down to the state dict
# What wrappers insert, at any place: nn.DataParallel, torch.compile, FSDP, activation checkpointing, Lightning's Fabric
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# The last layer as others name it, also wrapped by nn.Sequential, or by a head module of timm
HEAD = re.compile(r"(?:fc|last_linear|classifier|head|logits|output)(?:\.(?:[0-9]+|fc|linear))?\.(weight|bias)")
AVERAGED = re.compile(r"(?:^|[_.])(?:ema|swa|avg|averaged?|shadow)(?:[_.]|$)", re.IGNORECASE)
FIRST_CHOICES = ("state_dict", "model", "model_state_dict", "net", "")  # of several that are not averages
SAVE = "save its state_dict(): torch.save(model.state_dict(), FILE)"


# --- reading --------------------------------------------------------------------------------------------------------

def harmless(by_name: bool) -> list:
    """Return what training tools store beside the weights and what runs no code: for torch's safe_globals.

    `by_name`: also pairs (object, name in the pickle), which it takes from torch 2.6 on.
    """
    import numpy as np

    core = getattr(np, "_core", None) or np.core  # renamed by numpy 2, and so in its pickles
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdgFDSUV"}
    found = [argparse.Namespace, types.SimpleNamespace, np.dtype, np.ndarray, *dtypes, datetime.date,
             datetime.datetime, datetime.timedelta, datetime.timezone, collections.defaultdict, list, dict, tuple,
             frozenset, int, float, str]
    if not by_name:
        return [*found, core.multiarray.scalar, core.multiarray._reconstruct]
    for package in ("numpy.core", "numpy._core"):
        found += [(core.multiarray.scalar, f"{package}.multiarray.scalar"),
                  (core.multiarray._reconstruct, f"{package}.multiarray._reconstruct")]
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path"):
        kind = pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath
        found += [(kind, f"pathlib.{name}"), (kind, f"pathlib._local.{name}")]
    return found


def read_checkpoint(path: Path):
    """Return what torch.save or safetensors wrote, without running code from the file; raises Failure naming it."""
    import torch

    check_pickle(path)
    allowed = harmless(tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6))
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # what they warn about is refused, here or as not a state dict
            return read_safetensors(path) if is_safetensors(path) else \
                torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except pickle.UnpicklingError as error:
        what = [*re.findall(r"GLOBAL \S+|Unsupported operand \d+", str(error)), type(error).__name__][0][:200]
        raise Failure(f"{path}: refused: contains more than tensors ({what}); save its state_dict() with torch.save"
                      ) from error
    except Exception as error:  # any: torch raises nearly every type on a damaged file
        text = str(error).split("weights_only")[0][:200]
        raise Failure(f"{path}: not a PyTorch checkpoint, or damaged ({type(error).__name__}: {text})") from error


def is_safetensors(path) -> bool:
    """Return True if a file starts as safetensors do: the length of a JSON header, and the header."""
    with open(path, "rb") as file:
        start = file.read(10)
    return len(start) == 10 and start[8:10] in (b'{"', b"{}", b"{ ") and int.from_bytes(start[:8], "little") < 1 << 27


def read_safetensors(path) -> dict:
    """Return {name: tensor} of a safetensors file."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise Failure(f"{path}: needs the package safetensors to be read (pip install safetensors)", 4) from error
    return load_file(path)


def pickle_of(path) -> bytes:
    """Return the pickle of a checkpoint, without its tensors; raises Failure on TorchScript."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
                raise Failure(f"{path}: TorchScript, a compiled model; save its weights: torch.save(torch.jit.load("
                              f"{os.path.basename(path)!r}).state_dict(), 'weights.pth')")
            with archive.open(next(name for name in names if name.endswith("/data.pkl"))) as file:
                return file.read(PICKLE_LIMIT)
    with open(path, "rb") as file:
        return file.read(PICKLE_LIMIT)


def claimed(path) -> int:
    """Return the bytes of the tensors in a zip of torch.save that was cut short, by its pickle, which comes first."""
    with open(path, "rb") as file:
        start = file.read(PICKLE_LIMIT)
    total, kind, number, memo, before = 0, "", 0, {}, ""
    try:
        content = io.BytesIO(start[start.index(b"\x80\x02", start.index(b"data.pkl")):])
        for code, argument, _ in pickletools.genops(content):
            if code.name == "GLOBAL" and argument.endswith("Storage"):
                kind = argument.split()[1]
            elif code.name in ("BINPUT", "LONG_BINPUT") and before == "GLOBAL":
                memo[argument] = kind
            elif code.name in ("BINGET", "LONG_BINGET") and memo.get(argument):
                kind = memo[argument]
            elif code.name.startswith("BININT"):
                number = argument
            elif code.name == "BINPERSID":  # of ("storage", kind, key, place, number of values)
                total += number * STORAGES.get(kind, 4)
            before = code.name
    except ValueError:
        pass
    return total


def check_pickle(path):
    """Raise Failure that says what a file is, if it is not a checkpoint of the default kind, or holds a whole model."""
    if look(path).startswith(CUT) and claimed(path) > os.path.getsize(path):
        raise Failure(f"{path}: cut short: {os.path.getsize(path):,} bytes, of which its tensors alone have "
                      f"{claimed(path):,}; {AGAIN}")
    refuse(path, "a PyTorch checkpoint")
    if is_safetensors(path):
        return
    called = []
    try:
        data = pickle_of(path)
        if data[:1] == b"\x08":
            raise Failure(f"{path}: not a PyTorch checkpoint; if it is an ONNX file, give it a name that ends in .onnx")
        if data[:1] != b"\x80":
            raise Failure(f"{path}: not a PyTorch checkpoint, nor another file that is known here (it starts with the "
                          f"bytes {data[:4].hex()}); weights of MindSpore, TensorFlow or others must be converted to "
                          "PyTorch")
        if data[1:2] > b"\x02":
            raise Failure(f"{path}: saved with pickle protocol {data[1]}; where it was made, save it again without "
                          "pickle_protocol: torch.save(model.state_dict(), 'weights.pth')")
        stream = io.BytesIO(data)  # before torch 1.6 three short pickles, then the content
        for _ in range(1 if zipfile.is_zipfile(path) else 4):
            called += [argument for code, argument, _ in pickletools.genops(stream) if code.name == "GLOBAL"]
    except (ValueError, LookupError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, StopIteration,
            OSError):
        pass  # damaged, of which torch says how, or longer
    layers = [name for name in called if name.startswith("torch.nn.modules.")]
    if layers:
        raise Failure(f"{path}: a whole model ({called[0].replace(' ', '.')[:100]}), whose code must not be run, "
                      "instead of its weights; where it was trained: torch.save(model.state_dict(), 'weights.pth')")


def rehearse(path: Path):
    """Read the checkpoint in a child process with bounded memory and time; raises Failure if it fails.

    A few bytes of pickle can request gigabytes or hours, in one C call that nothing in this process can interrupt.
    """
    size = path.stat().st_size
    seconds = CPU_SECONDS + size // BYTES_A_SECOND
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            bound(2 * size + ROOM, seconds)
            read_checkpoint(path)
            os.write(writer, b"read")
        except Failure as error:
            if "MemoryError" not in str(error) and "can't allocate memory" not in str(error):
                os.write(writer, printable(str(error)).encode())
        finally:
            os._exit(0)  # also if there was not enough memory for the message
    os.close(writer)
    with open(reader, "rb") as pipe:
        in_time = select.select([pipe], [], [], WALL_FACTOR * seconds)[0]  # CPU time does not pass in a deadlock
        if not in_time:
            os.kill(child, signal.SIGKILL)
        outcome = pipe.read().decode()
    os.waitpid(child, 0)
    if not in_time:
        raise Failure(f"{path}: reading it did not finish in {WALL_FACTOR * seconds} s; rerun on an idle machine, or "
                      "download the file again")
    if not outcome:
        raise Failure(f"{path}: refused: reading it takes more memory or time than {size:,} bytes should, or crashes "
                      "torch; it is damaged or malicious")
    if outcome != "read":
        raise Failure(outcome)


def bound(memory: int, seconds: int):
    """Limit this child process to `memory` bytes in addition to what it has, and to `seconds` of CPU time."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for kind, limit in ((resource.RLIMIT_AS, pages * resource.getpagesize() + memory), (resource.RLIMIT_CPU, seconds)):
        before = [most for most in resource.getrlimit(kind) if most != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min([limit, *before]),) * 2)


# --- finding the state dict -----------------------------------------------------------------------------------------

def dictionaries(content: dict, label: str = "", depth: int = DEPTH, seen=None):
    """Yield (label, dict) of a dictionary and those in it; a label is the keys on the way, joined by dots."""
    seen = {id(content)} if seen is None else seen
    yield label, content
    for key, value in dict.items(content):  # not content.items: a pickle may put an attribute of that name on it
        if isinstance(key, str) and isinstance(value, dict) and depth and id(value) not in seen:
            seen.add(id(value))
            yield from dictionaries(value, f"{label}.{key}".strip("."), depth - 1, seen)


def tensors_of(found: dict) -> dict:
    """Return the entries of a dictionary that are tensors under a name."""
    import torch

    return {name: value for name, value in dict.items(found)
            if isinstance(name, str) and len(name) < NAME_LIMIT and isinstance(value, torch.Tensor)}


def split(spelling: str, names: set) -> tuple:
    """Return (prefix, the network's name) of a tensor's name: the longest end of it in `names`, or its head's name.

    Without one, the network's name is "", and the prefix all of it.
    """
    parts = [part for part in spelling.split(".") if part not in WRAPPERS]
    for start in range(len(parts)):
        end = ".".join(parts[start:])
        head = HEAD.fullmatch(end)
        if end in names or head:
            return ".".join(parts[:start]), f"fc.{head.group(1)}" if head else end
    return spelling, ""


def candidates(content: dict, names: set) -> dict:
    """Return {label: (dictionary, {network's name: [spellings]})} of what has half of the network's `names` or more.

    A head that is alone behind its prefix, as mmpretrain's head.fc beside backbone., belongs to the only one of these.
    """
    found = {}
    for label, one in dictionaries(content):
        groups = collections.defaultdict(lambda: collections.defaultdict(list))
        for spelling in tensors_of(one):
            prefix, name = split(spelling, names)
            groups[prefix][name].append(spelling)
        for group in groups.values():
            group.pop("", None)
        large = {prefix: group for prefix, group in groups.items() if 2 * len(group) >= len(names)}
        heads = [group for group in groups.values() if group.keys() == {"fc.weight", "fc.bias"}]
        if len(large) == len(heads) == 1 and "fc.weight" not in next(iter(large.values())):
            next(iter(large.values())).update(heads[0])
        found.update((f"{label}.{prefix}".strip("."), (one, group)) for prefix, group in large.items())
    return found


def choose(path: Path, labels: list, asked) -> str:
    """Return the state dict to take of those in a file: the one asked for, the averaged weights, or the usual key."""
    listed = listing([repr(label) for label in labels], 8)
    if asked is not None:
        if asked not in labels:
            raise Failure(f"{path}: no state dict {asked!r} of this network; there is {listed}")
        return asked
    averaged = [label for label in labels if AVERAGED.search(label)]
    usual = [label for label in FIRST_CHOICES if label in labels]
    if len(labels) > 1:
        if len(averaged) != 1 and (averaged or not usual):
            raise Failure(f"{path}: {len(labels)} state dicts ({listed}); pass one of them with --state_dict")
        say(f"{path}: {len(labels)} state dicts ({listed}); {(averaged or usual)[0]!r} is taken"
            f"{', the averaged weights' if averaged else ''}; --state_dict takes another")
    return (averaged or usual or labels)[0]


def find_state(path: Path, content, names: set, asked=None) -> dict:
    """Return {name: tensor} under the network's `names`, from a checkpoint's content; raises Failure naming its keys.

    Entries that are not the network's are kept under their own names, for the caller to refuse.
    """
    if isinstance(content, (list, tuple)) and content and all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in content):
        raise Failure(f"{path}: a list of {len(content)} pairs ({listing(pair[0] for pair in content)}); save it as a "
                      f"dictionary: torch.save(dict(torch.load({os.path.basename(path)!r})), 'weights.pth')")
    if not isinstance(content, dict):
        raise Failure(f"{path}: contains no state dict, but a {type(content).__name__}; {SAVE}")
    if not content:
        raise Failure(f"{path}: an empty dictionary; {SAVE}")
    found = candidates(content, names)
    if not found:
        most = max((tensors_of(one) for _, one in dictionaries(content)), key=len)
        keys = list(most) or [str(key) for key in dict.keys(content)]
        raise Failure(f"{path}: contains no state dict of this network: {len(keys)} {'tensors' if most else 'entries'} "
                      f"({printable(listing(key[:NAME_LIMIT] for key in keys))}); pass Xception weights, or {SAVE}")
    label = choose(path, list(found), asked)
    one, group = found[label]
    twice = [spellings for spellings in group.values() if len(spellings) > 1]
    if twice:
        what = "heads" if twice[0] in (group.get("fc.weight"), group.get("fc.bias")) else "two"
        raise Failure(f"{path}: two tensors for one of the network's: {listing(twice[0])}; remove one of the {what} "
                      "from the state dict")
    state = {name: one[spellings[0]] for name, spellings in group.items()}
    others = {spelling for other, members in found.values() if other is one
              for spellings in members.values() for spelling in spellings}
    if any(isinstance(key, str) and len(key) >= NAME_LIMIT for key in dict.keys(one)):
        raise Failure(f"{path}: a tensor's name has more than {NAME_LIMIT} characters; {SAVE}")
    rest = {spelling: value for spelling, value in tensors_of(one).items() if spelling not in others}
    counters = [spelling for spelling, value in rest.items() if not value.dim()]
    if counters:  # n_averaged of torch.optim.swa_utils, step
        say(f"{path}: left out, as they are no weights: {listing(counters)}")
    return {**state, **{spelling: value for spelling, value in rest.items() if spelling not in counters}}


def load_checkpoint(path: Path, names: set, asked=None) -> tuple:
    """Read a checkpoint without running code from it, in a child process with bounded memory and time first.

    Returns ({name: tensor} under the network's `names`, note or None). `asked` is the label of one of several state
    dicts. Raises Failure, naming the file, if there is none, or if it claims values that the file does not have.
    """
    import torch

    rehearse(path)
    content = read_checkpoint(path)
    note = dict.get(content, "note") if isinstance(content, dict) else None
    stored = {}
    for _, one in dictionaries(content) if isinstance(content, dict) else ():
        for name, value in tensors_of(one).items():
            tensor = torch.Tensor.detach(value)  # not value.detach, as above
            if tensor.layout != torch.strided or tensor.device.type != "cpu" or \
                    tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
                raise Failure(f"{path}: {name} claims {shape_of(tensor)} values, which are not in the file")
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    if sum(stored.values()) > path.stat().st_size:  # compressed, or created by a call
        raise Failure(f"{path}: refused: its tensors claim {sum(stored.values()):,} bytes, the file has "
                      f"{path.stat().st_size:,}: not written by torch.save")
    state = {name: torch.Tensor.detach(value) for name, value in find_state(path, content, names, asked).items()}
    return state, printable(note)[:NOTE_LIMIT] if isinstance(note, str) else None


def shape_of(tensor) -> str:
    """Return a tensor's shape for a message: an untrusted one may have a million dimensions."""
    return str(list(tensor.shape[:8]))

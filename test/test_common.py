"""common/: files are whole or absent, locks end with their process, and every failure is one line."""
import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from common import cli, files
from common.cli import Failure, printable
from common.files import hold, lines, read, read_json, replacing, write
from conftest import SUITE

import pytest


def python(code, cwd, *words, **options):
    """Run `code` as a script of the suite: main() is its body. Returns (status, stdout, stderr)."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    script = cwd / "step.py"
    script.write_text("import os, sys, time\nfrom pathlib import Path\n"
                      "from common import cli\nfrom common.cli import *\n"
                      "from common.files import *\nfrom common.jobs import *\n"
                      f"def main():\n{body}\ncli.run(main)\n")
    done = subprocess.run([sys.executable, script, *words], cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(SUITE)}, **options)
    return done.returncode, done.stdout, done.stderr


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- writing

def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "x.json"
    for data in ("one", b"two", "drei \udcff"):
        write(path, data)
    assert path.read_bytes() == b"drei \xff"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_after_an_error_the_old_file_is_there_and_no_other(error, lasting, tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path, lasting=lasting) as part:
        part.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / "x.json.part").write_text("a long half of something")
    write(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new"


def test_second_writer_of_a_file_is_refused(tmp_path):
    with replacing(tmp_path / "x.json") as part:
        part.write_text("first")
        with pytest.raises(Failure, match="another process is writing it") as second:
            write(tmp_path / "x.json", "second")
    assert second.value.status == 4
    assert (tmp_path / "x.json").read_text() == "first"


def test_of_many_writers_one_wins_and_the_file_is_complete(tmp_path):
    """Each writes 200 times, or fails since another one is writing; the reader would see half a file."""
    code = ("import sys; sys.path.insert(0, sys.argv[1])\n"
            "from common.cli import Failure; from common.files import write\n"
            "for _ in range(200):\n"
            "    try: write('x', sys.argv[2] * 100_000)\n"
            "    except Failure: pass\n")
    write(tmp_path / "x", "a" * 100_000)
    writers = [subprocess.Popen([sys.executable, "-c", code, SUITE, letter], cwd=tmp_path) for letter in "bcd"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        data = (tmp_path / "x").read_text()
        assert len(data) == 100_000
        assert data == data[0] * 100_000
        seen.add(data[0])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1
    assert not (tmp_path / "x.part").exists()


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x.part").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic link"):
        write(tmp_path / "x", "new")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(("number", "message"), [
    (errno.ENOSPC, r"x: the disk is full \(needs 1,234 bytes, [0-9,]+ are free\); free space and rerun"),
    (errno.EDQUOT, r"x: the disk is full \(needs 1,234 bytes, [0-9,]+ are free\); free space and rerun"),
])
def test_a_full_disk_is_reported_with_what_is_needed(number, message, tmp_path):
    with pytest.raises(Failure, match=message) as failure, replacing(tmp_path / "x", 1234):
        raise OSError(number, os.strerror(number))
    assert failure.value.status == 4


def test_a_write_that_fails_names_its_file(tmp_path):
    with pytest.raises(OSError, match=re.escape(f"'{tmp_path}/x'")), replacing(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{tmp_path}/none/x'")):
        write(tmp_path / "none/x", "new")


# ---- locks

def test_lock_names_its_holder_and_a_kill_releases_it(tmp_path):
    code = "lock = hold(Path('.lock'), 'the folder')\nprint('held', flush=True)\ntime.sleep(600)"
    script = tmp_path / "first.py"
    script.write_text(f"import time; from pathlib import Path; from common.files import *\n{code}\n")
    first = subprocess.Popen([sys.executable, script], cwd=tmp_path, stdout=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(SUITE)})
    try:
        assert first.stdout.readline() == b"held\n"
        second = python("hold(Path('.lock'), 'the folder')", tmp_path)
        assert second[0] == 4
        holder = f"pid {first.pid} on {re.escape(os.uname().nodename)} since"
        assert re.fullmatch(rf"step.py: the folder: in use by {holder} "
                            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait until it ends\n", second[2])
    finally:
        first.kill()
        first.wait()
    assert python("hold(Path('.lock'), 'the folder')", tmp_path) == (0, "", "")


SHELL = """exec 7>>.lock
python3 {tools}/lock.py .lock 'the folder' --descriptor=7 || exit
sleep 600 &
wait"""


def test_a_step_that_a_killed_run_left_behind_is_named(tmp_path):
    """The killed shell's process id would be no help: nobody can find or end it."""
    shell = subprocess.Popen(["bash", "-c", SHELL.format(tools=SUITE / "tools")], cwd=tmp_path)
    while not subprocess.run(["pgrep", "-P", str(shell.pid), "sleep"], capture_output=True, check=False).stdout:
        time.sleep(0.01)
    step = int(subprocess.run(["pgrep", "-P", str(shell.pid), "sleep"], capture_output=True, check=True).stdout)
    second = ["bash", "-c", SHELL.format(tools=SUITE / "tools").replace("sleep 600 &", "")]
    try:
        done = subprocess.run(second, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert re.match(rf"run_all.sh: the folder: in use by pid {shell.pid} on .* since .*; wait until it ends\n$",
                        done.stderr)
        shell.kill()
        shell.wait()
        done = subprocess.run(second, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (
            4, f"run_all.sh: the folder: in use by pid {step} (sleep), left by a run that was killed; "
               "wait until it ends\n")
    finally:
        os.kill(step, signal.SIGKILL)
    while is_alive(step):
        time.sleep(0.01)
    assert subprocess.run(second, cwd=tmp_path, check=False).returncode == 0


def test_failed_lock_is_not_reported_as_in_use(tmp_path):
    done = subprocess.run([sys.executable, SUITE / "tools/lock.py", ".lock", "the folder", "--descriptor=99"],
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (4, "run_all.sh: .lock: cannot be locked (Bad file descriptor)\n")


def test_lock_file_with_any_content_is_accepted(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\x1b[2J" * 1000)
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, _, err = python("hold(Path('.lock'), 'the folder')", tmp_path)
        assert status == 4
        assert err.count("\n") == 1
        assert "\x1b" not in err
    assert python("hold(Path('.lock'), 'the folder')", tmp_path)[0] == 0


def test_a_file_system_without_locks_is_reported_once(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    hold(tmp_path / ".lock", "the folder")
    write(tmp_path / "x", "written")
    assert "no locks on this file system" in capsys.readouterr().err
    assert (tmp_path / "x").read_text() == "written"


# ---- reading

def test_read_refuses_what_does_not_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        with pytest.raises(Failure, match="not a regular file"):
            read(tmp_path / name, 100)
    (tmp_path / "x").write_bytes(bytes(101))
    with pytest.raises(Failure, match="101 bytes, more than the 100"):
        read(tmp_path / "x", 100)
    assert read(tmp_path / "x", 101) == bytes(101)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": 1} x'])
def test_json_that_is_invalid_is_a_value_error(data, tmp_path):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ValueError, match="."):
        read_json(tmp_path / "x.json")


def test_lines_keeps_bytes_that_are_no_utf8_and_splits_at_the_ends_of_lines_alone(tmp_path):
    (tmp_path / "x").write_bytes(b"a\r\nb\xff\x0c\x1c\xe2\x80\xa8c\n\nlast")
    assert list(lines(tmp_path / "x")) == [(1, "a"), (2, "b\udcff\x0c\x1c\u2028c"), (3, ""), (4, "last")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_reads_what_editors_and_spreadsheets_write(encoding, end, tmp_path):
    (tmp_path / "x").write_bytes(f"a.JPEG 1{end}b\u00e9.JPEG 2{end}".encode(encoding))
    assert list(lines(tmp_path / "x")) == [(1, "a.JPEG 1"), (2, "b\u00e9.JPEG 2")]


def test_lines_names_what_is_not_utf16(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfea\0b")
    with pytest.raises(Failure, match="x: starts as UTF-16 text, but is not; save it as UTF-8"):
        list(lines(tmp_path / "x"))


def test_lines_has_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LINES_LIMIT", 3)
    (tmp_path / "x").write_text("1\n2\n3\n")
    assert len(list(lines(tmp_path / "x"))) == 3
    (tmp_path / "x").write_text("1\n2\n3\n4")
    with pytest.raises(Failure, match="more than 3 lines"):
        list(lines(tmp_path / "x"))
    (tmp_path / "x").write_text("1\n" + "x" * 20_000)
    with pytest.raises(Failure, match=":2: a line of 10,000 characters or more"):
        list(lines(tmp_path / "x"))


# ---- how a script ends

@pytest.mark.parametrize(("code", "status", "message"), [
    ("raise Failure('x: wrong')", 3, "x: wrong"),
    ("raise Failure('x: two\\nlines')", 3, "x: two lines"),
    ("raise Failure('x: missing', 4)", 4, "x: missing"),
    ("open('none/x')", 4, "none/x: No such file or directory"),
    ("os.write(99, b'x')", 4, "standard output: Bad file descriptor"),
    ("bytes(1 << 62)", 4, "out of memory"),
    ("import nothing_of_that_name", 4, "No module named 'nothing_of_that_name': see requirements.txt"),
    ("{}['x']", 3, "KeyError: 'x' (unexpected; please report it with the output of --debug)"),
    ("def f(): f()\nf()", 3, "RecursionError: maximum recursion depth exceeded (unexpected; please report it with the "
                            "output of --debug)"),
    ("raise Failure('\\x1b[2J')", 3, "\\x1b[2J"),
    ("os.kill(os.getpid(), 2)\ntime.sleep(9)", 130, "interrupted"),
])
def test_a_failure_is_one_line_and_a_status(code, status, message, tmp_path):
    assert python(code, tmp_path) == (status, "", f"step.py: {message}\n")


def test_terminated(tmp_path):
    assert python("try:\n    os.kill(os.getpid(), 15)\n    time.sleep(9)\nfinally:\n    print('cleaned', flush=True)",
                  tmp_path) == (143, "cleaned\n", "step.py: terminated\n")


PARSE = """parser = cli.parser_of('')
parser.add_argument('word')
print(parser.parse_args().word)"""


def test_common_options_are_not_taken_where_they_are_values(tmp_path):
    for word in ("--debug", "--quiet", "--version"):
        assert python(PARSE, tmp_path, "--", word) == (0, f"{word}\n", "")


def test_debug_adds_the_trace(tmp_path):
    status, out, err = python(f"{PARSE}\nopen('none/x')", tmp_path, "a", "--debug")
    assert (status, out) == (4, "a\n")
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("\nstep.py: none/x: No such file or directory\n")


def test_standard_output_that_is_full_or_gone(tmp_path):
    with open("/dev/full", "w") as full:
        script = tmp_path / "step.py"
        python("print('x')", tmp_path)
        done = subprocess.run([sys.executable, script], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(SUITE)})
    assert done.returncode == 4
    assert done.stderr == "step.py: standard output: No space left on device\n"


PROGRESS = """cli.SPEAK_EVERY = 0.2
with progress(10, "images") as advance:
    for _ in range(10):
        time.sleep(0.1)
        advance()"""


def test_progress_in_a_log_is_a_line_now_and_then(tmp_path):
    status, out, err = python(PROGRESS, tmp_path)
    assert (status, out) == (0, "")
    assert 2 <= len(err.splitlines()) <= 5
    for line in err.splitlines():
        assert re.fullmatch(r"[1-9] of 10 images, \d+\.\d images/s, [01] s left", line)


def test_quiet_is_quiet(tmp_path, monkeypatch):
    assert python(f"cli.parser_of('').parse_args()\n{PROGRESS}", tmp_path, "--quiet") == (0, "", "")
    monkeypatch.setenv("RUN_ALL_QUIET", "yes")
    assert python(PROGRESS, tmp_path) == (0, "", "")


def test_progress_on_a_terminal_is_a_bar_with_rate_and_time_left(tmp_path):
    python("pass", tmp_path)
    (tmp_path / "step.py").write_text((tmp_path / "step.py").read_text().replace("    pass\n", "".join(
        f"    {line}\n" for line in PROGRESS.splitlines())))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run([sys.executable, tmp_path / "step.py"], stderr=theirs, stdout=subprocess.DEVNULL, check=False,
                          env={**os.environ, "PYTHONPATH": str(SUITE)})
    shown = os.read(ours, 100_000).decode()
    assert done.returncode == 0
    assert re.search(r"50%\|.*5/10 \[00:00<00:00, .*images/s\]", shown)
    assert "left" not in shown


def test_version(tmp_path):
    assert python("cli.parser_of('').parse_args()", tmp_path, "--version") == (0, f"{cli.VERSION}\n", "")
    done = subprocess.run(["bash", SUITE / "run_all.sh", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{cli.VERSION}\n"


def test_names_that_are_no_utf8_can_be_printed(tmp_path):
    assert python("print('\\udcff')\nsay('\\udcff')", tmp_path) == (0, "\\udcff\n", "\\udcff\n")


def test_printable():
    assert printable("a b'ü雪\t\n\x1b\x7f\u202e\udcff") == "a b'ü雪\\t\\n\\x1b\\x7f\\u202e\\udcff"


def test_a_step_ends_with_run_all_sh_even_if_that_is_killed(tmp_path):
    script = tmp_path / "step.py"
    script.write_text("import os, time\nfrom common.cli import run\nfrom common.files import write\n"
                      "def main():\n    write('pid', str(os.getpid()))\n    time.sleep(600)\nrun(main)\n")
    shell = subprocess.Popen(["bash", "-c", f"export RUN_ALL_PID=$$; {sys.executable} step.py & wait"], cwd=tmp_path,
                             env={**os.environ, "PYTHONPATH": str(SUITE)})
    while not (tmp_path / "pid").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    shell.send_signal(signal.SIGKILL)
    shell.wait()
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if not is_alive(pid):
            return
        time.sleep(0.01)
    pytest.fail("it lives on")


SCRIPTS = sorted(str(path.relative_to(SUITE)) for pattern in ("*.py", "tools/*.py", "host/*")
                 for path in SUITE.glob(pattern)
                 if path.is_file() and "\n    run(main)\n" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_at_once_with_usage_and_example(script, tmp_path):
    """Without any package: none is imported before it is needed, but for numpy and Pillow, which the host has."""
    for name in ("torch", "torchvision", "onnx", "openvino", "cv2", "matplotlib", "jinja2"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    done = subprocess.run([sys.executable, SUITE / script, "--help"], cwd=tmp_path, capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "Usage:" in done.stdout
    assert "Example:" in done.stdout
    assert done.stderr == ""


def test_all_scripts_are_known():
    assert len(SCRIPTS) >= 14


def test_an_error_line_has_an_end(tmp_path):
    status, _, err = python("raise Failure('x' * 1_000_000)", tmp_path)
    assert status == 3
    assert len(err) == cli.MESSAGE_LIMIT + 1

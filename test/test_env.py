"""env.sh: which atc and benchmark end up on PATH, for each place CANN may lie in, and nothing else changes.

Each case sources a copy of env.sh in a separate checkout, with an empty HOME and a PATH of four programs, so
that neither a CANN nor a checkout on this machine is seen.
"""
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

ENV_SH = Path(__file__).resolve().parent.parent / "env.sh"
BENCHMARK = f"benchmark.{platform.machine()}"
STRICT = "set -euo pipefail"

# What a set_env.sh may do to its caller: read variables that are not set, and end with a test that fails.
SET_ENV_SH = """\
export LD_LIBRARY_PATH={toolkit}/lib64:$LD_LIBRARY_PATH
export TOOLCHAIN_HOME=$NEVER_SET{toolkit}/toolkit
export PATH={toolkit}/bin:$PATH
[ -d {toolkit}/missing ] && export PATH={toolkit}/missing:$PATH
"""


def program(path: Path) -> Path:
    """An executable file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def make_checkout(folder: Path) -> Path:
    """env.sh, and host/ with what env.sh knows the stand-ins by."""
    for name in ("atc", BENCHMARK):
        program(folder / "host" / name)
    (folder / "host/om.py").touch()
    shutil.copy(ENV_SH, folder)
    return folder


def add_set_env(toolkit: Path):
    """A CANN that brings set_env.sh."""
    program(toolkit / "bin/atc")
    (toolkit / "set_env.sh").write_text(SET_ENV_SH.format(toolkit=toolkit))


def add_5_0_1(toolkit: Path):
    """A CANN 5.0.1, which brings none."""
    program(toolkit / "latest/atc/bin/atc")


@pytest.fixture
def place(tmp_path):
    """Checkout, home, PATH before sourcing, and where CANN would be looked for."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "env", "uname"):
        (tools / name).symlink_to(shutil.which(name))
    (tmp_path / "home").mkdir()
    return SimpleNamespace(checkout=make_checkout(tmp_path / "checkout"), home=tmp_path / "home", path=str(tools),
                           cann=tmp_path / "cann/ascend-toolkit", tmp=tmp_path)


@pytest.fixture
def source(place):
    """Source env.sh in a bash; return (stdout lines of `after`, its environment at the end, stderr)."""
    def run(before="", after="", sourcing="source ../checkout/env.sh", cwd=None, **environment):
        environment = {"PATH": place.path, "HOME": str(place.home),
                       "ASCEND_INSTALL_PATH": str(place.cann.parent), **environment}
        script = f"{before}\n{sourcing}\n{after}\nprintf '===\\n'\nexec env -0"
        done = subprocess.run([shutil.which("bash"), "-c", script], cwd=cwd or place.home, env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        out, _, variables = done.stdout.partition("===\n")
        return out.splitlines(), dict(item.split("=", 1) for item in variables.split("\0")[:-1]), done.stderr
    return run


# ---- without CANN

@pytest.mark.parametrize("options", ["", "set -u", "set -eu", STRICT])
def test_stand_ins_without_cann(place, source, options):
    out, variables, err = source(options, after=f"command -v atc {BENCHMARK}")
    host = place.checkout / "host"
    assert out == [f"{host}/atc", f"{host}/{BENCHMARK}"]
    assert (variables["PATH"], variables["ATC_ENGINE"]) == (f"{host}:{place.path}", "host")
    assert err == f"env.sh: no CANN found: atc and benchmark are the CPU stand-ins in {host}\n"


def test_nothing_else_is_exported_without_cann(source):
    _, before, _ = source(sourcing="")
    _, after, _ = source()
    assert {name for name in {**before, **after} if before.get(name) != after.get(name)} == {"PATH", "ATC_ENGINE"}


def test_unset_home_is_accepted(source):
    assert "ATC_ENGINE" in source(f"{STRICT}; unset HOME")[1]


@pytest.mark.parametrize("cdpath", ["", "CDPATH=.:/"])
@pytest.mark.parametrize("folder, path", [
    (".", "env.sh"), ("host", "../env.sh"), ("..", "checkout/env.sh"), ("/", "{checkout}/env.sh"),
])
def test_sourced_from_any_folder(place, source, folder, path, cdpath):
    cwd = (place.checkout / folder).resolve()
    out, variables, _ = source(cdpath, "pwd -P", f"source {path.format(checkout=place.checkout)}", cwd)
    assert out == [str(cwd)]
    assert variables["PATH"] == f"{place.checkout}/host:{place.path}"


def test_checkout_with_blanks_in_its_path(place, source):
    checkout = make_checkout(place.tmp / "my  own checkout")
    program(checkout / ".venv/bin/python3")
    out, variables, err = source(STRICT, "command -v atc python3", f"source {shlex.quote(str(checkout))}/env.sh")
    assert out == [f"{checkout}/host/atc", f"{checkout}/.venv/bin/python3"]
    assert variables["PATH"] == f"{checkout}/.venv/bin:{checkout}/host:{place.path}"
    assert str(checkout) in err


def test_the_venv_of_the_checkout_comes_first(place, source):
    python = program(place.checkout / ".venv/bin/python3")
    other = program(place.tmp / "other/python3").parent
    for path in (f"{other}:{place.path}", f"{other}:{python.parent}:{place.path}"):
        out, variables, _ = source(after="command -v python3 atc", PATH=path)
        assert out == [str(python), f"{place.checkout}/host/atc"]
        assert variables["PATH"].split(":").count(str(python.parent)) == 1


@pytest.mark.parametrize("ours", [False, True])
def test_stand_ins_of_another_checkout_are_no_cann(place, source, ours):
    other = make_checkout(place.tmp / "other") / "host"
    path = f"{other}:{place.checkout}/host" if ours else other
    out, variables, _ = source(after=f"command -v atc {BENCHMARK}", PATH=f"{path}:{place.path}")
    assert variables["ATC_ENGINE"] == "host"
    assert out == [f"{place.checkout}/host/{name}" for name in ("atc", BENCHMARK)]


# ---- with CANN

@pytest.mark.parametrize("options", ["", STRICT])
@pytest.mark.parametrize("where", ["ASCEND_INSTALL_PATH", "home"])
def test_cann_with_set_env(place, source, where, options):
    toolkit = place.cann if where != "home" else place.home / "Ascend/ascend-toolkit"
    add_set_env(toolkit)
    out, variables, err = source(options, "command -v atc")
    assert out == [f"{toolkit}/bin/atc"]
    assert (variables["PATH"], variables["ATC_ENGINE"]) == (f"{toolkit}/bin:{place.path}", "cann")
    assert variables["TOOLCHAIN_HOME"] == f"{toolkit}/toolkit"  # what comes after the first unset variable
    assert err == f"env.sh: CANN from {toolkit}/set_env.sh\n"


@pytest.mark.parametrize("options", ["", STRICT])
@pytest.mark.parametrize("where", ["ASCEND_INSTALL_PATH", "home"])
def test_cann_5_0_1(place, source, where, options):
    toolkit = place.cann if where != "home" else place.home / "Ascend/ascend-toolkit"
    add_5_0_1(toolkit)
    latest = f"{toolkit}/latest"
    _, variables, err = source(options)
    first, second, rest = variables["PATH"].split(":")
    assert {first, second} == {f"{latest}/atc/bin", f"{latest}/atc/ccec_compiler/bin"}
    assert rest == place.path
    assert variables["PYTHONPATH"] == f"{latest}/atc/python/site-packages"
    assert sorted(variables["LD_LIBRARY_PATH"].split(":")) == [f"{latest}/acllib/lib64", f"{latest}/atc/lib64"]
    assert variables["ASCEND_OPP_PATH"] == f"{latest}/opp"
    assert variables["ASCEND_AICPU_PATH"] == latest
    assert variables["ATC_ENGINE"] == "cann"
    assert err == f"env.sh: CANN from {latest} (5.0.1 layout)\n"


def test_a_set_env_without_atc_is_reported(place, source):
    add_set_env(place.cann)
    (place.cann / "bin/atc").unlink()
    _, variables, err = source()
    assert variables["ATC_ENGINE"] == "cann"
    assert err == f"env.sh: CANN from {place.cann}/set_env.sh, but that puts no atc on PATH\n"


def test_cann_5_0_1_comes_before_the_users_own_folders(place, source):
    add_5_0_1(place.cann)
    _, variables, _ = source(PYTHONPATH="/mine", LD_LIBRARY_PATH="/opt/a:/opt/b")
    assert variables["PYTHONPATH"] == f"{place.cann}/latest/atc/python/site-packages:/mine"
    assert variables["LD_LIBRARY_PATH"].split(":")[2:] == ["/opt/a", "/opt/b"]


def test_empty_lists_get_no_empty_entry(place, source):
    """An empty entry is the current folder: files that lie there would be loaded."""
    add_5_0_1(place.cann)
    _, variables, _ = source(PYTHONPATH="", LD_LIBRARY_PATH="")
    assert variables["PYTHONPATH"] == f"{place.cann}/latest/atc/python/site-packages"
    assert "" not in variables["LD_LIBRARY_PATH"].split(":")


def test_the_named_folder_goes_before_home_and_set_env_before_5_0_1(place, source):
    for toolkit in (place.cann, place.home / "Ascend/ascend-toolkit"):
        add_5_0_1(toolkit)
        add_set_env(toolkit)
    out, _, err = source(after="command -v atc")
    assert out == [f"{place.cann}/bin/atc"]
    assert err == f"env.sh: CANN from {place.cann}/set_env.sh\n"


def test_an_atc_on_path_is_taken_as_it_is(place, source):
    add_set_env(place.cann)  # not asked, since one is chosen already
    atc = program(place.tmp / "found/atc")
    _, variables, err = source(STRICT, PATH=f"{atc.parent}:{place.path}")
    assert (variables["PATH"], variables["ATC_ENGINE"]) == (f"{atc.parent}:{place.path}", "cann")
    assert err == f"env.sh: CANN is on PATH already ({atc})\n"


# ---- the benchmark binary, which is handed out alone

@pytest.mark.parametrize("add_cann", [add_set_env, add_5_0_1])
def test_benchmark_next_to_env_sh_is_found_with_cann(place, source, add_cann):
    add_cann(place.cann)
    binary = program(place.checkout / BENCHMARK)
    assert source(after=f"command -v {BENCHMARK}")[0] == [str(binary)]


def test_benchmark_next_to_env_sh_does_not_run_the_stand_ins_om(place, source):
    program(place.checkout / BENCHMARK)
    assert source(after=f"command -v {BENCHMARK}")[0] == [f"{place.checkout}/host/{BENCHMARK}"]


# ---- what is left behind

LAYOUTS = pytest.mark.parametrize("add_cann", [None, add_set_env, add_5_0_1], ids=["host", "set_env", "5.0.1"])


@LAYOUTS
def test_sourced_twice_is_as_once(place, source, add_cann):
    program(place.checkout / ".venv/bin/python3")
    program(place.checkout / BENCHMARK)
    if add_cann:
        add_cann(place.cann)
    once, twice = source()[1], source(after="source ../checkout/env.sh")[1]
    assert twice == once
    assert len(set(once["PATH"].split(":"))) == len(once["PATH"].split(":"))


@LAYOUTS
@pytest.mark.parametrize("options", ["", "set -u", STRICT])
def test_shell_options_are_kept(place, source, add_cann, options):
    if add_cann:
        add_cann(place.cann)
    show = "echo $- $SHELLOPTS; set -o; shopt | md5sum"
    (place.tmp / "tools/md5sum").symlink_to(shutil.which("md5sum"))
    before, after = (source(options, show, sourcing)[0] for sourcing in ("", "source ../checkout/env.sh"))
    assert after == before
    assert ("u" in after[0].split()[0]) == ("u" in options)


@LAYOUTS
def test_no_name_is_left_but_the_documented_exports(place, source, add_cann):
    if add_cann:
        add_cann(place.cann)
    show = "compgen -A variable -A function -A alias"
    before, after = (set(source("", show, sourcing)[0]) for sourcing in ("", "source ../checkout/env.sh"))
    of_cann = {None: set(), add_set_env: {"LD_LIBRARY_PATH", "TOOLCHAIN_HOME"},
               add_5_0_1: {"PYTHONPATH", "LD_LIBRARY_PATH", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH"}}
    bash_own = {"BASH_REMATCH", "PIPESTATUS", "_"}
    assert after - before - bash_own == {"ATC_ENGINE"} | of_cann[add_cann]
    assert before - after == set()


def test_says_nothing_on_stdout(place, source):
    add_set_env(place.cann)
    assert source()[0] == []
    assert os.listdir(place.home) == []


@pytest.mark.parametrize(("before", "after"), [(":/a::/b:", "/a:/b"), ("/a", "/a"), (":", ""), (None, None)])
def test_pythonpath_keeps_no_empty_entry(before, after, tmp_path):
    """Which would be the current folder: modules of a work directory would be imported."""
    checkout = make_checkout(tmp_path)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    if before is not None:
        environment["PYTHONPATH"] = before
    script = f"{STRICT}; source {shlex.quote(str(checkout / 'env.sh'))}; echo \"${{PYTHONPATH-unset}}\""
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{'unset' if after is None else after}\n"

"""The tree: what may be at the top level, which room may import which, which files may be executed."""
import ast
import subprocess

from conftest import SUITE

TOP_LEVEL = {
    "LICENSE", "README.md", "requirements.txt", "env.sh", "run_all.sh", "xception_pth2onnx.py", "img_preprocess.py",
    "gen_dataset_info.py", "imagenet_acc_eval.py", "common", "tools", "host", "docs", "test",
}
STEPS = {"xception_pth2onnx", "img_preprocess", "gen_dataset_info", "imagenet_acc_eval"}
MAY_IMPORT = {  # docs/development.md
    "common": {"common"},
    "host": {"common", "host"},
    "steps": {"common", "host", "steps"},
    "tools": {"common", "host", "steps", "tools"},
}


def tracked() -> list:
    """The files of the checkout, new ones too, without the ignored ones; links are left out."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=SUITE,
                            capture_output=True, text=True, check=True).stdout
    return sorted(SUITE / name for name in listed.split("\0") if name and not (SUITE / name).is_symlink()
                  and (SUITE / name).exists())


def is_python(path) -> bool:
    return path.suffix == ".py" or path.read_bytes().startswith(b"#!/usr/bin/env python3")


def room_of(module: str, tools: set):
    """The room of an imported module, None for one from elsewhere."""
    first = module.split(".")[0]
    return first if first in ("common", "host", "tools") else "steps" if first in STEPS else \
        "tools" if first in tools else None


def imported(path) -> set:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def test_the_top_level_has_the_cards_entries():
    names = {path.relative_to(SUITE).parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_no_room_imports_from_the_room_above():
    tools = {path.stem for path in (SUITE / "tools").glob("*.py")}
    wrong, seen = [], set()
    for path in tracked():
        room = path.relative_to(SUITE).parts[0]
        room = "steps" if path.stem in STEPS else room
        if room in MAY_IMPORT and is_python(path):
            seen.add(room)
            wrong += [f"{path.relative_to(SUITE)} imports {module}" for module in sorted(imported(path))
                      if room_of(module, tools) not in (None, *MAY_IMPORT[room])]
    assert seen == MAY_IMPORT.keys()
    assert wrong == []


def test_scripts_can_be_executed_and_modules_cannot():
    """But for env.sh and venv.sh, which are sourced, a file is executable if and only if it names its interpreter."""
    wrong = [str(path.relative_to(SUITE)) for path in tracked()
             if bool(path.stat().st_mode & 0o100) != path.read_bytes()[:2].startswith(b"#!")]
    assert wrong == []


def test_the_driver_fits_on_a_few_pages():
    assert len((SUITE / "run_all.sh").read_text().splitlines()) < 200


def test_the_guides_python_can_read_the_scripts():
    """3.7: its syntax, and of later libraries only what has a fallback."""
    wrong = []
    for path in tracked():
        if path.relative_to(SUITE).parts[0] in ("test", "docs") or not is_python(path):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))
        wrong += [f"{path.name}:{node.value.lineno}: missing_ok" for node in ast.walk(tree)
                  if isinstance(node, ast.keyword) and node.arg == "missing_ok"]
        wrong += [f"{path.name}:{node.lineno}: importlib.metadata" for node in tree.body
                  if isinstance(node, (ast.Import, ast.ImportFrom)) and "metadata" in ast.unparse(node)]
    assert wrong == []

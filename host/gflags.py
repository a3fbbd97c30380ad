"""The command lines of atc and benchmark, as gflags parses them: --name=value, --name value, one dash or two."""
import os
import sys

from common import cli

TRUE = {"1", "t", "true", "y", "yes"}
FALSE = {"0", "f", "false", "n", "no"}
OWN = {"debug": False, "quiet": False, "version": False}  # of the stand-ins alone, as of every script (common/cli.py)


def fail_unknown(name: str):
    """End as gflags ends on a flag that it does not know: one line on stderr, status 1."""
    sys.exit(f"ERROR: unknown command line flag '{name}'")


def parse_bool(name: str, text: str) -> bool:
    """A bool in any of gflags' spellings; ends the program on another."""
    if text.lower() not in TRUE | FALSE:
        sys.exit(f"ERROR: illegal value '{text}' specified for bool flag '{name}'")
    return text.lower() in TRUE


def parse_int(name: str, text: str) -> int:
    """A decimal integer; ends the program on anything else."""
    try:
        return int(text)
    except ValueError:
        sys.exit(f"ERROR: illegal value '{text}' specified for int32 flag '{name}'")


def parse(arguments: list, defaults: dict) -> dict:
    """Read `arguments` into a copy of `defaults`, {flag: value}; a default's type (str, int, bool) is the flag's.

    The flags of OWN are carried out here. Ends the program, with gflags' own message, on an unknown flag or a value of
    the wrong type.
    A flag that is given twice takes the last value; words without a dash are ignored, as by gflags.
    """
    defaults = {**defaults, **OWN}
    flags, words = dict(defaults), [os.fspath(word) for word in arguments]
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            continue
        name, has_value, value = word.lstrip("-").partition("=")
        negated = name[2:] if name.startswith("no") and isinstance(defaults.get(name[2:]), bool) else None
        if negated and not has_value:
            flags[negated] = False
            continue
        if name not in defaults:
            fail_unknown(name)
        if not has_value and isinstance(defaults[name], bool):
            value = "true"  # -flag alone; a bool never takes the next word
        elif not has_value:
            if not words:
                sys.exit(f"ERROR: flag '{name}' is missing its argument")
            value = words.pop(0)
        if isinstance(defaults[name], bool):
            flags[name] = parse_bool(name, value)
        else:
            flags[name] = parse_int(name, value) if isinstance(defaults[name], int) else value
    debug, quiet, version = (flags.pop(name) for name in OWN)
    if version:
        print(cli.VERSION)
        sys.exit(0)
    cli.debug, cli.quiet = cli.debug or debug, cli.quiet or quiet
    return flags

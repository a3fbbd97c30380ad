"""Parse the command lines of atc and benchmark as gflags does: --name=value, --name value, one dash or two."""
import os
import re
import sys

from common import cli

TRUE = {"1", "t", "true", "y", "yes"}
FALSE = {"0", "f", "false", "n", "no"}
OWN = {"debug": False, "quiet": False, "version": False}  # of the stand-ins only, as of every script here


def parse_bool(name: str, text: str) -> bool:
    """Return a bool from any of gflags' spellings; raises ValueError on another."""
    if text.lower() not in TRUE | FALSE:
        raise ValueError(f"illegal value '{text}' specified for bool flag '{name}'")
    return text.lower() in TRUE


def parse_int(name: str, text: str) -> int:
    """Return a decimal int32; raises ValueError on anything else."""
    if not re.fullmatch("[+-]?0*[0-9]{1,10}", text) or not -1 << 31 <= int(text) < 1 << 31:
        raise ValueError(f"illegal value '{text}' specified for int32 flag '{name}'")
    return int(text)


def read_word(word: str, words: list, defaults: dict) -> tuple:
    """Return (flag, value) of a word with a dash, taking the value from `words` if it has none; raises ValueError."""
    name, has_value, value = re.sub("^--?", "", word).partition("=")
    if name.startswith("no") and isinstance(defaults.get(name[2:]), bool) and not has_value:
        return name[2:], False
    if name not in defaults:
        raise ValueError(f"unknown command line flag '{name}'")
    kind = type(defaults[name])
    if not has_value and kind is bool:
        return name, True  # -flag alone; a bool never takes the next word
    if not has_value and not words:
        raise ValueError(f"flag '{name}' is missing its argument")
    value = value if has_value else words.pop(0)
    return name, parse_bool(name, value) if kind is bool else parse_int(name, value) if kind is int else value


def read(arguments: list, defaults: dict) -> dict:
    """Read `arguments` into a copy of `defaults`, {flag: value}; a default's type (str, int, bool) is the flag's.

    Ends the program as gflags does, status 1 and a line on stderr for each unknown flag or value of the wrong type.
    The last value of a flag counts; words without a dash are ignored, and -- ends the flags, as in gflags.
    """
    flags, words, errors = dict(defaults), [os.fspath(word) for word in arguments], []
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            continue
        try:
            name, value = read_word(word, words, defaults)
        except ValueError as error:
            errors.append(f"ERROR: {error}")
        else:
            flags[name] = value
    if errors:
        sys.exit("\n".join(errors))
    return flags


def parse(arguments: list, defaults: dict) -> dict:
    """Like `read`, for the stand-ins, which have the flags of OWN as well; those take effect here."""
    flags = read(arguments, {**defaults, **OWN})
    debug, quiet, version = (flags.pop(name) for name in OWN)
    if version:
        print(cli.VERSION)
        sys.exit(0)
    cli.debug, cli.quiet = cli.debug or debug, cli.quiet or quiet
    return flags

"""Read the files in which public tools list classes: synsets, class names, JSON indexes. Imported by labels.py.

A map is ({name: class id}, {number of ImageNet's development kit: class id}). A name is a synset (n01440764), or what
a class folder or a CSV calls the class. The second part is empty unless the file numbers the synsets as the kit does.
"""
import json
import re
from collections import Counter
from pathlib import Path

from common.cli import Failure, say
from common.files import decoded, lines, size_of
from common.model import NUM_CLASSES

SYNSET = re.compile(r"n[0-9]{8}")
FORMS = ("accepted: synsets in sorted order, \"n01440764 tench\" in each line; map_clsloc.txt; meta.mat; class names "
         "in class order, one per line; \"0 name\" or \"name 0\" in each line, from 0; JSON: a list of names, "
         "{\"0\": \"name\"}, {\"0\": [\"n01440764\", \"tench\"]} or {\"name\": 0}")
JSON_KEYS = ("id2label", "class_to_idx", "label2id")  # under which training tools keep the index in a larger JSON
MAP_LIMIT = 64 << 20  # bytes; the kit's meta.mat has about a million
SEPARATOR = r"[\s,;:|=]+"
LINE_FORMS = (  # of every line: group "id", group "names", or both
    re.compile(rf"(?P<names>{SYNSET.pattern})(?:{SEPARATOR}(?P<id>[0-9]{{1,6}})(?:{SEPARATOR}.*)?)"),
    re.compile(rf"(?P<id>[0-9]{{1,6}}){SEPARATOR}(?P<names>.+)"),
    re.compile(rf"(?P<names>.+?){SEPARATOR}(?P<id>[0-9]{{1,6}})"),
)


def read_map(path: Path) -> tuple:
    """Return the map of a file in any of FORMS; raises Failure that lists them."""
    if path.suffix.lower() == ".mat":
        return by_kit(path, read_meta_mat(path))
    rows = [line.strip().replace('"', "").strip() for _, line in lines(path) if line.strip()]
    if not rows:
        raise Failure(f"{path}: empty; {FORMS}")
    if not all(rows):
        raise Failure(f"{path}: a line of quotes without a name; name that class, or remove the line")
    if rows[0][0] in "[{":
        return from_json(path)
    headless = rows[1:] if re.search(r"[,;|\t]", rows[0]) else []
    return from_numbered_lines(path, rows) or from_numbered_lines(path, headless) or by_place(
        path, [names_of(row) for row in rows])


def read_meta_mat(path: Path) -> dict:
    """Return {synset: number} of the leaves in the development kit's meta.mat."""
    if size_of(path) > MAP_LIMIT:
        raise Failure(f"{path}: too large for ImageNet's meta.mat")
    try:
        from scipy.io import loadmat

        table = loadmat(path, squeeze_me=True)["synsets"]
        return {str(row["WNID"]): int(row["ILSVRC2012_ID"]) for row in table if int(row["num_children"]) == 0}
    except ImportError as error:
        raise Failure(f"{path}: needs scipy to be read (pip install scipy); map_clsloc.txt does not", 4) from error
    except Exception as error:  # any: a damaged file makes loadmat raise nearly every type
        raise Failure(f"{path}: not ImageNet's meta.mat ({type(error).__name__})") from error


def by_kit(path: Path, numbers: dict) -> tuple:
    """Return the map of {synset: number from 1, in the kit's order}; a class id is the synset's place when sorted."""
    if not numbers or sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
        raise Failure(f"{path}: its numbers are not 1 to {len(numbers)}, each once")
    if len(numbers) != NUM_CLASSES and sorted(numbers) != sorted(numbers, key=numbers.get):
        raise Failure(f"{path}: {len(numbers)} synsets with numbers from 1 that do not follow their sorted order; "
                      "write the network's class ids, from 0")
    ids = {name: place for place, name in enumerate(sorted(numbers))}
    return ids, {number: ids[name] for name, number in numbers.items()}


def by_place(path: Path, classes: list) -> tuple:
    """Return the map of [names of a class], in class order; synsets must be sorted, as the ids of all networks are."""
    firsts = [names[0] for names in classes]
    if all(map(SYNSET.fullmatch, firsts)) and firsts != sorted(firsts):
        raise Failure(f"{path}: synsets that are not in sorted order, and without class ids; sort the lines if the "
                      "network's classes are in that order (as torchvision's ImageFolder), or write \"0 "
                      f"{firsts[0]}\", the class id first")
    return unique(path, list(enumerate(classes))), {}


def by_number(path: Path, pairs: list):
    """Return the map of [(number, names of that class)], None unless the numbers are gapless from 0 or 1."""
    numbers = sorted(number for number, _ in pairs)
    first = numbers[0] if numbers else -1
    if first not in (0, 1) or numbers != list(range(first, first + len(numbers))):
        return None
    if first and all(SYNSET.fullmatch(names[0]) for _, names in pairs):
        return by_kit(path, {names[0]: number for number, names in pairs})
    if first:
        say(f"{path}: counts classes from 1; the first is taken as class 0")
    return unique(path, [(number - first, names) for number, names in pairs]), {}


def unique(path: Path, pairs: list) -> dict:
    """Return {name: class id} of [(class id, its names)], with a class's further names where no other has them."""
    ids, shared = {}, Counter(name for _, names in pairs for name in set(names))
    for number, names in pairs:
        if names[0] in ids:
            raise Failure(f"{path}: {names[0][:80]!r} appears twice; list each class once")
        ids[names[0]] = number
    for number, names in pairs:
        ids.update((name, number) for name in names[1:] if shared[name] == 1)
    return ids


def names_of(text: str) -> list:
    """Return the names of a class in a line: "n01440764 tench, Tinca tinca" or "tench, Tinca tinca"."""
    synset = re.match(rf"({SYNSET.pattern})(?:{SEPARATOR}|$)", text)
    words = [synset.group(1), text[synset.end():].strip()] if synset else [text.strip()]
    return [word for word in (*words, words[-1].split(",")[0].strip()) if word] or [""]


def from_numbered_lines(path: Path, rows: list):
    """Return the map of lines in one of LINE_FORMS, None if they are in none of them."""
    for form in LINE_FORMS:
        found = [form.fullmatch(row) for row in rows]
        if rows and all(found):
            numbered = by_number(path, [(int(row.group("id")), names_of(row.group("names"))) for row in found])
            if numbered:
                return numbered
    return None


def from_json(path: Path) -> tuple:
    """Return the map of a JSON index; raises Failure if it has none of the forms."""
    try:
        content = json.loads(decoded(path, MAP_LIMIT))
        content = next((content[key] for key in JSON_KEYS if key in content), content)
        if isinstance(content, list):
            return by_place(path, [json_names(names) for names in content])
        if all(isinstance(value, int) for value in content.values()):
            found = by_number(path, [(number, [name]) for name, number in content.items()])
        elif all(map(SYNSET.fullmatch, content)):
            found = by_place(path, [[name, *json_names(names)] for name, names in content.items()])
        else:
            found = by_number(path, [(int(number), json_names(names)) for number, names in content.items()])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise Failure(f"{path}: not a JSON index of classes ({error}); {FORMS}") from error
    if not found:
        raise Failure(f"{path}: its class ids are not 0 to {len(content) - 1}, each once; {FORMS}")
    return found


def json_names(names) -> list:
    """Return the names of a class in a JSON index: a text, or a list of them; raises TypeError on anything else."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"not the name of a class: {str(names)[:80]}")
    return [*names_of(names[0]), *names[1:]]

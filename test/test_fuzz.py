"""Each reader accepts an input or refuses it with the expected error: fuzz.py's targets, 120 new inputs each."""
import json

import fuzz
from conftest import others

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EDIT = st.tuples(st.sampled_from(["insert", "delete", "replace", "double"]), st.floats(0, 1), st.integers(0, 20),
                 st.one_of(st.binary(max_size=8), st.sampled_from([
                     b"\n", b" ", b"0", b"-1", b"1e999", b"nan", b"9" * 30, b"9" * 5000, b"{}", b"[", b"null", b"true",
                     b'"x"', b"\0", b"\xff", "١".encode(), "\u2028".encode(), b":", b";", b",", b"#", b"}"])))


def edited(seed: bytes, edits: list) -> bytes:
    """`seed` with pieces inserted, deleted, replaced or doubled."""
    for kind, where, length, piece in edits:
        at = int(where * len(seed))
        if kind == "insert":
            seed = seed[:at] + piece + seed[at:]
        elif kind == "delete":
            seed = seed[:at] + seed[at + length:]
        elif kind == "replace":
            seed = seed[:at] + piece + seed[at + length:]
        else:
            seed = seed[:at] + seed[max(0, at - length):]
    return seed


@pytest.mark.parametrize("target", fuzz.SEEDS)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_input_is_read_or_refused(target, data):
    seed = data.draw(st.sampled_from([b"", *fuzz.SEEDS[target][1]]))
    fuzz.handles(target, data.draw(st.binary()) if not seed else edited(seed, data.draw(st.lists(EDIT, max_size=6))))


@pytest.mark.parametrize("target", ["manifest", "record", "result", "om_header"])
def test_any_json_value_may_have_another_type(target):
    seed = fuzz.SEEDS[target][1][0]
    for data in others(json.loads(seed)):
        fuzz.handles(target, json.dumps(data).encode())


@pytest.mark.parametrize("target", fuzz.SEEDS)
def test_first_seed_is_accepted(target):
    """Otherwise every input derived from it would be refused at the first check."""
    fuzz.SEEDS[target][0](fuzz.SEEDS[target][1][0])


@pytest.mark.parametrize(("target", "data"), fuzz.FINDINGS)
def test_findings_stay_fixed(target, data):
    fuzz.handles(target, data)

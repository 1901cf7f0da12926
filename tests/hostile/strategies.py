"""Broken input: values where others belong, texts and files that were cut or changed."""

import copy
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from amstf.errors import AmstfError


def examples(count: int) -> settings:
    """So many examples, and as many times more as the profile in use asks for (see conftest)."""
    return settings(max_examples=count * settings().max_examples // 100)


WHOLE_NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63)]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    WHOLE_NUMBERS,
    st.floats(),
    st.text(st.characters(), max_size=6),  # control characters and lone surrogates too
    st.sampled_from(["", "\0", "\x1b[2J\n", "../../etc/passwd", "/dev/zero", "a/b", "x" * 5000]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def broken_json(draw: st.DrawFn, document: Any) -> str:
    """A good document with some of its values replaced, taken out, or its text changed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()):
            holder[key] = draw(JSON)
        else:
            del holder[key]
    text = json.dumps(document)
    change = draw(st.sampled_from(["none", "none", "cut", "replace", "deep", "foreign"]))
    at = draw(st.integers(0, len(text)))
    if change == "cut":
        return text[:at]
    if change == "replace":
        return text[:at] + draw(st.text(max_size=4)) + text[at + draw(st.integers(0, 4)) :]
    if change == "deep":
        return text[:at] + draw(st.sampled_from(["[", '{"a":', "1"])) * 100_000 + text[at:]
    if change == "foreign":
        return draw(st.text(max_size=20))
    return text


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


@st.composite
def broken_bytes(draw: st.DrawFn, content: bytes, first: int | None = None) -> bytes:
    """A good file that was cut, or of which some bytes were changed; `first`: only among those."""
    changed, changes = bytearray(content), []
    end = min(len(content), first or len(content))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, end - 1))
        new = draw(st.binary(min_size=1, max_size=8))
        changed[at : at + len(new)] = new
        changes.append(f"byte {at} on: {new!r}")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(changed)))
        del changed[at:]
        changes.append(f"cut at {at}")
    broken = _Broken(changed)
    broken.changes = ", ".join(changes) or "nothing"
    return broken


class _Broken(bytes):
    """Says what was changed; the whole content would fill the page of a failure."""

    changes: str

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, changed: {self.changes}>"


def check_message(message: str, *names: str) -> None:
    """A refusal is one line that a terminal shows as it is, not endless, and says where."""
    assert message.isprintable(), message
    assert 0 < len(message) < 4_200
    assert any(name in message for name in names), message


def good_or_refused(call: Any, *names: str) -> Any:
    """Returns the result, or None after checking the refusal."""
    try:
        return call()
    except AmstfError as error:
        check_message(str(error), *names)
    return None

"""The store of byte strings: what is put is what is got, whoever puts it, however often, and whatever breaks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loralab.data.storage import shards
from loralab.data.storage.shards import Damaged, Shards
from loralab.errors import UserError

KEYS = [bytes([number]) for number in range(6)]
records = st.dictionaries(st.sampled_from(KEYS), st.binary(max_size=40), max_size=4)


@given(puts=st.lists(st.tuples(st.integers(0, 1), records), max_size=5), flip=st.integers(0, 400))
@settings(max_examples=30, deadline=None)
def test_what_is_put_is_what_is_got(puts, flip):
    """Each key once, by two stores of one folder, in files of 50 bytes; a byte that flips costs one record at most."""
    with TemporaryDirectory() as name, patch.object(shards, "_LARGEST", 50):
        folder = Path(name)
        stores, expected = [Shards(folder), Shards(folder)], {}
        for number, given in puts:
            stores[number].put(given)
            expected |= given
        reader = Shards(folder)
        assert reader.missing(KEYS) == [key for key in KEYS if key not in expected]
        assert {key: reader.get(key) for key in expected} == expected
        assert reader.verify() == 0

        files = [file for file in sorted(folder.glob("*.shard")) if file.stat().st_size]
        assert sum(file.stat().st_size for file in files) == sum(len(r) for _, put in puts for r in put.values())
        for file in files[:1]:
            content = bytearray(file.read_bytes())
            content[flip % len(content)] ^= 1
            file.write_bytes(content)
        found = {}
        for key in expected:
            with suppress(Damaged):
                found[key] = reader.get(key)
        assert found.items() <= expected.items()
        assert len(found) >= len(expected) - 1
        assert reader.missing(expected) == [key for key in expected if key not in found]


@pytest.mark.parametrize("content", [b"junk", b""])
def test_an_index_that_is_damaged_while_it_is_used(tmp_path: Path, content: bytes) -> None:
    shards = Shards(tmp_path)
    shards.put({bytes([i]): bytes([i]) * 99 for i in range(200)})
    (index,) = tmp_path.glob("*.sqlite")
    index.write_bytes(content)
    with pytest.raises(Damaged, match=index.name):
        shards.get(bytes([7]))
    with pytest.raises(UserError, match="cannot be written"):
        shards.put({b"more": b""})
    assert Shards(tmp_path).missing([bytes([7])]) == [bytes([7])], "the next process begins it anew"


def test_damage_is_also_noticed_where_only_the_time_would_tell(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "s")
    shards.put({b"a": b"1" * 100, b"b": b"2" * 100})
    (shard,) = (tmp_path / "s").glob("*.shard")
    shard.write_bytes(b"1" * 100 + b"3" * 100)
    assert shards.verify() == 1
    assert shards.missing([b"a", b"b", b"c"]) == [b"b", b"c"]
    assert shards.get(b"a") == b"1" * 100
    shards.put({b"b": b"2" * 100})
    assert shards.verify() == 0
    assert shards.get(b"b") == b"2" * 100
    with pytest.raises(KeyError):
        shards.get(b"c")
    shard.write_bytes(b"")
    with pytest.raises(Damaged):
        shards.get(b"a")

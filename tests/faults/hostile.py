"""How files from outside are spoilt. The files themselves stand in `hostile_files` and `hostile_benchmarks`."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from mmpo.chat.judging import read_correctness, read_rating, read_same
from mmpo.data.card import read_card
from mmpo.data.reader import PairDataset, read_pairs
from mmpo.data.shards import PairWriter
from mmpo.eval.object_halbench.judge import read_objects
from mmpo.radiology.judge import read_items
from tests.data.making import make_pair

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name, a valid value, and the reader. `beside` are further files, which stay as they are."""

    name: str
    file: str
    value: Any
    read: Callable[[Path], Any]
    beside: dict[str, Any] | None = None


def encoded(file: str, value: Any) -> bytes:
    """A value as the file that its name asks for."""
    if isinstance(value, (bytes, str)):
        return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    if file.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(value), sink)
        return sink.getvalue()
    if file.endswith((".yaml", ".yml")):
        return str(yaml.safe_dump(value)).encode("utf-8", "surrogatepass")
    if file.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in value).encode()
    return json.dumps(value).encode()


def all_of(items: Iterable[Any]) -> None:
    for _ in items:
        pass


def pairs_folder(folder: Path) -> Path:
    """A folder of pairs whose one shard can be spoilt."""
    with PairWriter(folder, scores=["margin"]) as writer:
        for number in range(3):
            writer.add(make_pair(number))
    (shard,) = (folder / "data").glob("*.parquet")
    return shard


def read_folder(folder: Path) -> None:
    all_of(read_pairs(folder))
    all_of(PairDataset(folder))
    read_card(folder)


REPLIES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "rating": ("Rating: 3", lambda text: [read_rating(text, mode) for mode in ("strict", "tolerant")]),
    "same": ("1", lambda text: [read_same(text, mode) for mode in ("strict", "tolerant")]),
    "correctness": ("correct", lambda text: [read_correctness(text, mode) for mode in ("strict", "tolerant")]),
    "objects": ('["cat", "dog"]', lambda text: [read_objects(text, mode) for mode in ("strict", "tolerant")]),
    "items": ('[{"i": 1, "label": "none"}, {"i": 2, "label": "none"}]', lambda text: read_items(text, 2)),
}

HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "\x1b[2J",
    "\ud800",
    "a" * 5000,
    "../../x",
    "/etc/passwd",
    "<image>" * 50,
    "${model}",
    [],
    [[]],
    [None],
    {},
    {"": None},
    {"a": {"b": []}},
    [1, "a", {}],
    "9" * 400,
    json.loads("[" * 95 + "]" * 95),
]
DEEP = (b"[" * 3000 + b"]" * 3000, b'{"a":' * 3000 + b"1" + b"}" * 3000, b"9" * 500, b"1e999", b'"\\ud800"', b"&a [*a]")


def spoilt(value: Any, dice: random.Random) -> Any:
    """The value with one part of it replaced, dropped or doubled."""
    value = copy.deepcopy(value)
    holders: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        whole = stack.pop()
        keys = list(whole) if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else []
        holders += [(whole, key) for key in keys]
        stack += [whole[key] for key in keys]
    if not holders or dice.random() < 0.05:
        return dice.choice(HOSTILE)
    whole, key = dice.choice(holders)
    action = dice.random()
    if action < 0.15:
        del whole[key]
    elif action < 0.25 and isinstance(whole, list):
        whole.append(whole[key])
    else:
        whole[key] = dice.choice(HOSTILE)
    return value


def damaged(data: bytes, dice: random.Random) -> bytes:
    """The bytes with some of them flipped, cut off, doubled or replaced by something deep."""
    if not data:
        return b"\xff"
    place = dice.randrange(len(data))
    match dice.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :]
        case 2:
            return data[:place] + data[place // 2 :]
        case 3:
            return data[:place] + dice.choice(DEEP) + data[place:]
        case 4:
            return data.decode("utf-8", "replace").encode(
                dice.choice(["utf-16", "utf-8-sig", "utf-32", "cp037"]), "replace"
            )
        case _:
            return data[:place] + bytes(dice.randrange(256) for _ in range(8)) + data[place + 8 :]

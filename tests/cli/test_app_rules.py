"""What an application may not do is found under whatever name it is done."""

from pathlib import Path
from textwrap import dedent, indent

import pytest

from sealift.cli._app_rules import RULES
from sealift.cli._app_source import judge_sources

EXAMPLES = Path(__file__).parents[2] / "examples" / "auction"
PALLET = """\
from typing import Annotated
from sealift.base import AccountId, encode
from sealift.frame import Context, Pallet, StorageMap, StorageValue, call
{above}

class Notes(Pallet):
    name = "notes"
    total: StorageValue[int] = StorageValue("total", int, default=0)
    memo: dict[int, int] = {{}}
    seen: set[int] = set()

    def __init__(self, *, more: int = 0) -> None:
        self.more = more

    def of(self, some):
        return list(some)

    @call(weight=1)
    def act(self, ctx: Context, *, amount: int, id: int = 0) -> None:
{body}
"""


def rules(body: str = "pass", above: str = "", **others: str) -> dict[str, list[int]]:
    """Rules that are broken, and in which lines; of an application of one pallet."""
    text = PALLET.format(above=dedent(above), body=indent(dedent(body), " " * 8))
    files = {"notes/__init__.py": b"", "notes/pallet.py": text.encode()}
    files |= {
        f"notes/{name}.py": dedent(code).encode() for name, code in others.items()
    }
    found: dict[str, list[int]] = {}
    for one in judge_sources(files):
        assert one.rule in RULES
        assert one.what
        assert one.write
        found.setdefault(one.rule, []).append(one.line)
    return found


BODIES = [
    # a rule, what stands above the pallet, what stands in the call
    ("clock", "import time", "time.time()"),
    ("clock", "from time import time as t", "t()"),
    ("clock", "import time as _t\nclock = _t.monotonic", "clock()"),
    ("clock", "import datetime as d", "d.datetime.now()"),
    ("clock", "from datetime import datetime", "datetime.utcnow()"),
    ("clock", "", "import time\ntime.time_ns()"),
    ("clock", "import time", "getattr(time, 'time')()"),
    ("clock", "import dataclasses", "dataclasses.sys.modules['time'].time()"),
    ("float", "", "x = 0.5"),
    ("float", "", "x = 1e18"),
    ("float", "", "x = 2j"),
    ("float", "", "x = amount / 2"),
    ("float", "", "amount /= 2"),
    ("float", "", "x = float(amount)"),
    ("float", "number = float", "x = number(amount)"),
    ("float", "", "x = list(map(float, (1, 2)))"),
    ("float", "from math import sqrt", "sqrt(amount)"),
    ("float", "import math as m", "m.floor(amount)"),
    ("float", "from operator import truediv as over", "over(amount, 2)"),
    ("float", "", "x = amount ** -1"),
    ("float", "", "x = amount.__truediv__(2)"),
    ("float", "from decimal import Decimal", "Decimal(1)"),
    ("float", "", "x = f'{amount:.2f}'"),
    ("float", "", "x = '%.2f' % amount"),
    ("float", "", "x = '{:8.3e}'.format(amount)"),
    ("float", "", "x = pow(2, -1)"),
    ("float", "import struct", "struct.unpack('<d', b'12345678')"),
    ("float", "from struct import pack as p", "p(b'>f', amount)"),
    ("randomness", "import random", "random.random()"),
    ("randomness", "from secrets import token_bytes as b", "b(8)"),
    ("randomness", "from uuid import uuid4", "uuid4()"),
    ("randomness", "import os", "os.urandom(8)"),
    ("randomness", "from os import urandom", "urandom(8)"),
    ("randomness", "from sealift.crypto import system_entropy", "system_entropy(8)"),
    ("randomness", "from sealift.crypto.entropy import system_entropy", "pass"),
    ("set-order", "", "for one in {1, 2}: pass"),
    ("set-order", "", "x = [one for one in set((1, 2))]"),
    ("set-order", "", "x = {one: 1 for one in {1, 2}}"),
    ("set-order", "", "some = {1, 2}\nx = tuple(some | {3})"),
    ("set-order", "NAMES = frozenset({1, 2})", "for one in NAMES: pass"),
    ("set-order", "Names = frozenset[int]\ndef f(x: Names): return list(x)", "pass"),
    ("set-order", "def f(x: 'set[int] | None'): return list(x)", "pass"),
    ("set-order", "def f() -> set[int]: return {1}", "x = list(f())"),
    ("set-order", "def f(): return {1}", "a, b = f()"),
    ("set-order", "", "x = next(iter({1, 2}))"),
    ("set-order", "", "x = {1, 2}.pop()"),
    ("set-order", "", "x = max({1, 2}, key=lambda n: n % 2)"),
    ("set-order", "", "x = ','.join({'a', 'b'})"),
    ("set-order", "", "x = [*{1, 2}]"),
    ("set-order", "", "x = encode(tuple({1, 2}))"),
    ("set-order", "", "x = f'{ {1, 2} }'"),
    ("set-order", "", "x = list(self.seen)"),
    ("set-order", "", "x = list({1: 2}.keys() & {1: 3}.keys())"),
    ("set-order", "from itertools import chain", "x = chain({1}, {2})"),
    ("set-order", "", "def inner():\n    yield from {1, 2}"),
    ("set-order", "", "x = []\nx.extend({1, 2})"),
    ("set-order", "", "x = []\nx += {1, 2}"),
    ("set-order", "", "x = list((some := {1, 2}))"),
    ("set-order", "", "x = sorted({1, 2}, key=lambda n: n % 2)"),
    ("set-order", "", "x = bytes({1, 2})"),
    ("set-order", "", "x = {1, 2}.__iter__()"),
    ("set-order", "def f(x): return list(x)", "f({1, 2})"),
    ("set-order", "def f(*, x): return list(x)", "f(x={1, 2})"),
    ("set-order", "def f(x: 'Iterable[int]'): pass", "some = {1}\nf(some)"),
    ("set-order", "", "self.of({1, 2})"),
    ("hash", "", "x = hash('a')"),
    ("hash", "", "x = sorted((1, 2), key=hash)"),
    ("hash", "", "x = 'a'.__hash__()"),
    ("hash", "number_of = id", "x = number_of(ctx)"),
    ("hash", "from builtins import hash as h", "x = h('a')"),
    ("hash", "", "y = [hash for hash in ()]\nx = hash('a')"),
    ("input-output", "", "open('/etc/passwd')"),
    ("input-output", "", "print(amount)"),
    ("input-output", "import os", "os.environ['HOME']"),
    ("input-output", "from os import environ as e", "e['HOME']"),
    ("input-output", "import socket", "pass"),
    ("input-output", "import subprocess as s", "s.run(['true'])"),
    ("input-output", "from pathlib import Path", "Path('x').read_text()"),
    ("input-output", "import logging", "logging.info('x')"),
    ("input-output", "", "x = (lambda: open)()"),
    ("threads", "import threading", "pass"),
    ("threads", "from concurrent.futures import ThreadPoolExecutor", "pass"),
    ("threads", "import asyncio", "pass"),
    ("threads", "async def f(): pass", "pass"),
    ("global-state", "COUNT = 0", "global COUNT\nCOUNT += 1"),
    ("global-state", "CACHE = {}", "CACHE[amount] = 1"),
    ("global-state", "CACHE = []", "CACHE.append(amount)"),
    ("global-state", "from .other import CACHE", "CACHE.update(a=1)"),
    ("global-state", "from itertools import count\nC = count()", "next(C)"),
    ("global-state", "", "self.last = amount"),
    ("global-state", "", "self.memo[amount] = 1"),
    ("global-state", "", "self.memo.setdefault(amount, 1)"),
    ("global-state", "", "Notes.memo[amount] = 1"),
    ("global-state", "", "Notes.total = amount"),
    ("global-state", "", "type(self).more = amount"),
    ("global-state", "", "del self.memo[amount]"),
    ("global-state", "", "self.more, x = 1, 2"),
    ("global-state", "from functools import lru_cache", "pass"),
    ("global-state", "import functools\n@functools.cache\ndef f(): pass", "pass"),
    ("global-state", "def f(x, seen=[]): pass", "pass"),
    ("global-state", "def f(*, seen=dict()): pass", "pass"),
    ("catch-all", "", "try:\n    pass\nexcept Exception:\n    pass"),
    ("catch-all", "", "try:\n    pass\nfinally:\n    return"),
    ("global-state", "def f():\n    n = 0\n    def g():\n        nonlocal n", "pass"),
    ("global-state", "class B:\n    @classmethod\n    def f(cls): cls.x = 1", "pass"),
    ("global-state", "from . import other", "other.CACHE = 1"),
    ("catch-all", "", "try:\n    pass\nexcept:\n    pass"),
    ("catch-all", "", "try:\n    pass\nexcept (ValueError, MemoryError):\n    pass"),
    ("catch-all", "Any = BaseException", "try:\n    pass\nexcept Any:\n    pass"),
    ("reflection", "", "eval('1')"),
    ("reflection", "", "__import__('time').time()"),
    ("reflection", "", "__builtins__['open']"),
    ("reflection", "", "getattr(ctx, 'a' + 'b')"),
    ("reflection", "", "setattr(self, 'x', 1)"),
    ("reflection", "", "self.act.__globals__['x']"),
    ("reflection", "", "().__class__.__base__.__subclasses__()"),
    ("reflection", "", "type('X', (), {})"),
    ("reflection", "import enum", "enum.bltns.open('x')"),
    ("import", "import dataclasses", "dataclasses.copy.copy(1)"),
    ("reflection", "import importlib", "importlib.import_module('time')"),
    ("reflection", "from .other import *", "pass"),
    ("reflection", "from typing import *", "pass"),
    ("import", "import numpy.random", "pass"),
    ("import", "import yaml", "pass"),
    ("import", "import json", "json.loads('1.5')"),
    ("import", "from sealift.enclave import main", "pass"),
    ("import", "import sealift.worker", "pass"),
    ("import", "from sealift.frame._runtime import inspect", "pass"),
    ("import", "import sealift.frame as f", "f._runtime.Runtime"),
    ("import", "from cryptography import x509", "pass"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "above", "body"), BODIES, ids=[f"{b[0]}-{n}" for n, b in enumerate(BODIES)]
)
def test_a_bad_application_is_refused_by_name(rule: str, above: str, body: str) -> None:
    if rule == "import" and "numpy" in above:
        rule = "float"
    if "sys.modules" in body:
        rule = "input-output"
    assert rule in rules(body, above, other="CACHE = {}\n")


GOOD = [
    # what looks alike and is right
    ("", "for one in sorted({3, 1}): self.total.put(ctx, one)"),
    ("", "x = len({1, 2}) + sum({1, 2}) + max({1, 2})"),
    ("", "x = 1 in {1, 2}"),
    ("def f(x: set[int]): return 1 in x", "f({1, 2})"),
    ("from typing import Container\ndef f(x: Container[int]): return 1 in x", "f({1})"),
    ("import struct", "struct.unpack('<IQ', b'def')"),
    ("", "try:\n    pass\nfinally:\n    x = 1"),
    ("", "x = pow(2, 3)"),
    ("", "x = {one + 1 for one in {1, 2}}"),
    ("", "x = sorted(one + 1 for one in {1, 2})"),
    ("", "x = any(one > 1 for one in {1, 2})"),
    ("", "x = {*{1, 2}, 3}"),
    ("", "x = {1: 2}\nfor one in x.keys(): pass"),
    ("", "x = id + 1"),
    ("hash = 3", "x = hash"),
    ("from math import isqrt, gcd", "x = isqrt(amount) // gcd(4, 6)"),
    ("import math", "x = math.comb(4, 2)"),
    ("from .other import time", "x = time(ctx)"),
    ("RULES = {1: 2}", "x = RULES[1]"),
    ("", "x = {}\nx[1] = 2\nx.update(a=3)\nx.pop(1)"),
    ("", "self.total.put(ctx, amount)"),
    ("", "x = f'{amount:>8}' + f'{amount:x}' + '%d%%' % amount"),
    ("", "x = '{} {:d}'.format(amount, amount)"),
    ("", "try:\n    pass\nexcept ValueError:\n    pass"),
    ("", "try:\n    pass\nexcept Exception:\n    x = 1\n    raise"),
    ("from collections.abc import Iterable", "x: Iterable[int] = ()"),
    ("from dataclasses import dataclass, field", "pass"),
    ("from sealift.crypto import sha256", "x = sha256(encode(amount))"),
    ("import functools", "x = functools.reduce(max, (1, 2))"),
    ("", "x = getattr(ctx, 'block').time"),
    ("class Book:\n    def put(self): self.x = 1", "b = Book()\nb.x = 2"),
]


@pytest.mark.parametrize(("above", "body"), GOOD, ids=range(len(GOOD)))
def test_a_good_application_is_left_alone(above: str, body: str) -> None:
    found = rules(body, above, other="def time(ctx):\n    return ctx.block.time\n")
    assert found == {}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_examples_are_left_alone(version: str) -> None:
    root = EXAMPLES / version / "app"
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*.py")
    }
    assert files
    assert judge_sources(files) == []


def test_a_name_is_followed_through_our_own_modules() -> None:
    found = rules(
        "now()\nfor one in NAMES: pass\nfor two in other.names(): pass",
        "from .other import now, NAMES\nfrom . import other",
        other="import time\nnow = time.time\nNAMES = {1, 2}\n"
        "def names() -> set[int]:\n    return {1}\n",
    )
    # in the module that has the clock, and in the one that uses it
    assert sorted(found["clock"]) == [1, 2, 21]
    assert found["set-order"] == [22, 23]


def test_a_pallet_below_a_pallet_of_ours_is_one() -> None:
    above = "from .other import Base\nclass Mine(Base):\n    def f(self): self.x = 1\n"
    other = "from sealift.frame import Pallet\nclass Base(Pallet):\n    pass\n"
    assert rules("pass", above, other=other) == {"global-state": [6]}


def test_the_line_to_write_is_the_readers_own() -> None:
    files = {"notes/a.py": b"def f(a, b):\n    c = {a, b}\n    return list(c), a / b\n"}
    found = {one.rule: (one.place, one.write) for one in judge_sources(files)}
    assert found == {
        "set-order": ("app/notes/a.py:3", "sorted(c)"),
        "float": ("app/notes/a.py:3", "a // b"),
    }
    clock = judge_sources({"notes/a.py": b"import time\n"})
    assert [one.write.partition(" ")[0] for one in clock] == ["ctx.block.time"]


def test_a_file_that_is_not_python_is_named_with_its_line() -> None:
    found = judge_sources({"a/b.py": b"x = 1\ndef f(:\n", "a/c.py": b"\xff\n"})
    assert [(one.rule, one.place) for one in found] == [
        ("syntax", "app/a/b.py:2"),
        ("syntax", "app/a/c.py:1"),
    ]


def test_what_was_compiled_is_no_source() -> None:
    found = judge_sources({"notes/fast.so": b"\x7fELF", "notes/data.txt": b"\xff"})
    assert [(one.rule, one.place) for one in found] == [
        ("import", "app/notes/fast.so:1")
    ]


def test_what_is_nested_deep_ends() -> None:
    """A name that stands for itself, and a source as deep as Python lets it be."""
    ring = b"from .b import x\ny = x\n", b"from .a import y\nx = y\n"
    files = {
        "n/a.py": ring[0],
        "n/b.py": ring[1],
        "n/c.py": b"a = b\nb = a\nfor i in a: pass",
    }
    assert judge_sources(files) == []
    deep = b"x = " + b"(" * 150 + b"0.5" + b")" * 150
    assert [one.rule for one in judge_sources({"n/a.py": deep})] == ["float"]
    for size in (90, 200, 350, 500, 5000):
        long = b"x = " + b"+".join([b"1"] * size)
        found = {one.rule for one in judge_sources({"n/a.py": long})}
        assert found == (set() if size < 100 else found & {"syntax"})
    assert found == {"syntax"}

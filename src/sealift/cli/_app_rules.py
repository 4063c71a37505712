"""What an application may not do, and what it writes instead: one table.

An application runs on many machines, which must reach the same root. What may
differ between two of them, or between a run and its replay, is refused by name.
No comment lifts a rule: each has a line to write that says the same and is right.
"""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Final

#: Every rule on sources: what is refused, and the line to write.
RULES: Final[Mapping[str, tuple[str, str]]] = {
    "clock": (
        "reads a clock, and no two machines read the same",
        "ctx.block.time  # verified, whole seconds; the block is ctx.block.height",
    ),
    "float": (
        "is a floating-point number; their results differ between machines",
        "whole * 15 // 100  # whole numbers, and // for a division",
    ),
    "randomness": (
        "is random, and another machine draws another number",
        "seed: Bytes32  # an argument of the call: callers bring what is random",
    ),
    "set-order": (
        "depends on the order of a set, which differs from process to process",
        "sorted(…)  # or keep the things in a tuple or a dict",
    ),
    "hash": (
        "is another number in every process",
        "sha256(encode(value))  # from sealift.crypto and sealift.base",
    ),
    "input-output": (
        "reaches for the world outside of the enclave",
        "self.item.get(ctx, key)  # state, arguments of calls and ctx.block, no more",
    ),
    "threads": (
        "runs beside the block, in an order that nobody can repeat",
        "one thing after the other; on_finalize(self, ctx) runs in every block",
    ),
    "global-state": (
        "keeps something outside of the state: lost at a restart, unknown to others",
        "self.item.put(ctx, value)  # item = StorageValue(…), a storage item",
    ),
    "catch-all": (
        "would make a lack of memory or stack an outcome, and machines differ in both",
        "except PalletError:  # name the error that you expect",
    ),
    "reflection": (
        "reaches things by names that nobody can check",
        "write the name itself, with a dot",
    ),
    "import": (
        "is not among what an enclave gives an application",
        "sealift.base, .crypto, .frame, .protocol, .stf, msgspec, or a module in app/",
    ),
    "syntax": ("is not Python that can be read", "what Python reads, nested less"),
}

#: Modules that an application may import; what is below them, too, by its own name.
ALLOWED: Final = frozenset({
    "__future__", "abc", "base64", "binascii", "bisect", "collections",
    "collections.abc", "dataclasses", "enum", "functools", "hashlib", "heapq",
    "hmac", "itertools", "math", "operator", "re", "string", "struct", "textwrap",
    "types", "typing",
    "msgspec", "msgspec.msgpack", "msgspec.structs", "typing_extensions",
    "sealift", "sealift.base", "sealift.crypto", "sealift.frame",
    "sealift.protocol", "sealift.stf",
})  # fmt: skip

#: Why a module is not allowed, where it is more than "import".
MODULES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("calendar", "datetime", "sched", "time", "zoneinfo"), "clock"),
    **dict.fromkeys(
        ("cmath", "colorsys", "decimal", "fractions", "numbers", "numpy", "statistics"),
        "float",
    ),
    **dict.fromkeys(("random", "secrets", "uuid"), "randomness"),
    **dict.fromkeys(
        (
            "aiohttp", "ctypes", "dbm", "email", "fcntl", "ftplib", "getpass",
            "glob", "http", "imaplib", "io", "locale", "logging", "mmap", "os",
            "pathlib", "pickle", "platform", "posix", "pwd", "requests", "resource",
            "select", "shelve", "shutil", "smtplib", "socket", "socketserver",
            "sqlite3", "ssl", "stat", "subprocess", "sys", "syslog", "tempfile",
            "urllib", "warnings", "wsgiref", "xmlrpc",
        ),
        "input-output",
    ),
    **dict.fromkeys(
        (
            "_thread", "anyio", "asyncio", "concurrent", "contextvars",
            "multiprocessing", "queue", "sched", "selectors", "signal", "threading",
            "trio",
        ),
        "threads",
    ),
    **dict.fromkeys(
        ("ast", "builtins", "code", "copyreg", "gc", "imp", "importlib", "inspect",
         "marshal", "pkgutil", "runpy", "traceback", "weakref"),
        "reflection",
    ),
}  # fmt: skip

#: Single names, by their whole path; a prefix counts for all that is below it.
NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("builtins.complex", "builtins.float"), "float"),
    **dict.fromkeys(("builtins.hash", "builtins.id"), "hash"),
    **dict.fromkeys(
        ("builtins.breakpoint", "builtins.input", "builtins.open", "builtins.print",
         "builtins.help", "builtins.exit", "builtins.quit"),
        "input-output",
    ),
    **dict.fromkeys(
        ("builtins.__import__", "builtins.compile", "builtins.delattr", "builtins.dir",
         "builtins.eval", "builtins.exec", "builtins.globals", "builtins.locals",
         "builtins.setattr", "builtins.vars", "builtins.__builtins__",
         "builtins.__loader__", "builtins.__spec__", "builtins.__file__",
         "operator.attrgetter", "operator.methodcaller", "typing.get_type_hints",
         "types.FunctionType", "types.CodeType", "types.ModuleType"),
        "reflection",
    ),
    **dict.fromkeys(
        ("functools.cache", "functools.cached_property", "functools.lru_cache"),
        "global-state",
    ),
    **dict.fromkeys(("operator.truediv", "operator.itruediv"), "float"),
    **dict.fromkeys(
        ("os.urandom", "os.getrandom", "sealift.crypto.system_entropy",
         "sealift.crypto.entropy", "sealift.crypto.rsa_generate",
         "sealift.crypto.hpke_generate"),
        "randomness",
    ),
    **dict.fromkeys(("os.times", "os.clock_gettime"), "clock"),
    **dict.fromkeys(("os.fork", "os.posix_spawn"), "threads"),
}  # fmt: skip

#: What `math` has for whole numbers; everything else in it is of floats.
WHOLE_MATH: Final = frozenset({"comb", "factorial", "gcd", "isqrt", "lcm", "perm"})

#: Attributes that no application needs, by name, whatever they are read from.
ATTRIBUTES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("__builtins__", "__closure__", "__code__", "__dict__", "__getattribute__",
         "__globals__", "__import__", "__loader__", "__self__", "__setattr__",
         "__spec__", "__subclasses__", "f_globals", "f_locals", "gi_frame",
         "tb_frame"),
        "reflection",
    ),
    "__hash__": "hash",
    "__float__": "float",
    "__truediv__": "float",
    "__rtruediv__": "float",
}  # fmt: skip

#: Errors whose catching makes an outcome of what differs between machines.
TOO_WIDE: Final = frozenset({
    "builtins.BaseException", "builtins.Exception", "builtins.MemoryError",
    "builtins.RecursionError", "builtins.SystemError", "builtins.RuntimeError",
})  # fmt: skip


def rule_of_module(module: str) -> str | None:
    """The rule that refuses a module of others; ``None`` if it may be imported."""
    if module in ALLOWED:
        return None
    if module in NAMES:
        return NAMES[module]
    return MODULES.get(module.partition(".")[0], "import")


def rule_of_name(path: str) -> str | None:
    """The rule that refuses what stands under a path; ``None`` if none does.

    Args:
        path: A module of others, or a name in one: ``builtins.hash``,
            ``time.time``, ``collections.abc.Iterable``.
    """
    parts = path.split(".")
    for length in range(len(parts), 1, -1):
        found = NAMES.get(".".join(parts[:length]))
        if found is not None:
            return found
    if parts[0] == "builtins":
        return None
    module = _module_in(parts)
    if module is None:
        return MODULES.get(parts[0], "import")
    rest = parts[len(module.split(".")) :]
    if module == "math" and rest:
        return None if rest[0] in WHOLE_MATH else "float"
    if not rest:
        return None
    return _rule_below(module, rest[0])


def _module_in(parts: list[str]) -> str | None:
    """The longest allowed module at the beginning of a path."""
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ALLOWED:
            return ".".join(parts[:length])
    return None


def _rule_below(module: str, name: str) -> str | None:
    """The rule on a name in an allowed module: what it imports is not its own."""
    if module == "sealift" or (module.startswith("sealift.") and name[0] == "_"):
        return "import"
    if not module.startswith("sealift."):
        found = getattr(importlib.import_module(module), name, None)
        return rule_of_module(found.__name__) if isinstance(found, ModuleType) else None
    named = name.strip("_")
    if named in sys.stdlib_module_names and named not in ALLOWED:
        return MODULES.get(named, "import")
    return None

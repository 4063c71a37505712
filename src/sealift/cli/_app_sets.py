"""Which expressions are sets, and where their order would be seen."""

import ast
from typing import Final

from ._app_scopes import Scope, Sources, attribute_of, find_scope

_DEEPEST: Final = 12
_KINDS: Final = frozenset({
    "builtins.set", "builtins.frozenset", "typing.Set", "typing.FrozenSet",
    "typing.AbstractSet", "typing.MutableSet", "collections.abc.Set",
    "collections.abc.MutableSet", "collections.abc.KeysView",
    "collections.abc.ItemsView",
})  # fmt: skip
_WRAPPERS: Final = frozenset({
    "typing.Annotated", "typing.ClassVar", "typing.Final", "typing.Optional",
    "typing.Union",
})  # fmt: skip
_SET_METHODS: Final = frozenset({
    "copy", "difference", "intersection", "symmetric_difference", "union",
})  # fmt: skip
_SET_OPERATORS: Final = (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
#: Whoever consumes a set so does not see its order.
BLIND: Final = frozenset({
    "builtins.all", "builtins.any", "builtins.bool", "builtins.frozenset",
    "builtins.isinstance", "builtins.len", "builtins.set", "builtins.sum",
    "builtins.type", "math.gcd", "math.lcm",
})  # fmt: skip
#: Blind as long as no ``key`` lets two things be equal.
_BLIND_WITHOUT_KEY: Final = frozenset({
    "builtins.max", "builtins.min", "builtins.sorted",
})  # fmt: skip
#: Whoever is given a set and makes something in its order.
_SEEING: Final = frozenset({
    "builtins.bytearray", "builtins.bytes", "builtins.dict",
    "builtins.dict.fromkeys", "builtins.enumerate", "builtins.filter",
    "builtins.iter", "builtins.list", "builtins.map", "builtins.max", "builtins.min",
    "builtins.next", "builtins.repr", "builtins.reversed", "builtins.str",
    "builtins.tuple", "builtins.zip", "builtins.ascii", "builtins.format",
    "collections.Counter", "collections.OrderedDict", "collections.deque",
    "functools.reduce", "sealift.base.encode", "msgspec.msgpack.encode",
})  # fmt: skip
_SEEING_METHODS: Final = frozenset({"extend", "join", "fromkeys", "format"})


class SetOrder:
    """Judges expressions of an application's modules.

    Args:
        sources: All of them: a set may come from another module.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        #: What attributes of any name are set to or annotated with, anywhere.
        self._attributes: dict[str, list[tuple[ast.expr, Scope, bool]]] = {}
        for module in sources.modules.values():
            for scope in module.scopes.values():
                self._learn(scope)

    def is_set(self, node: ast.expr, scope: Scope, depth: int = 0) -> bool:
        """Whether an expression may be a set, as far as reading tells."""
        if depth > _DEEPEST:
            return False
        deeper = depth + 1
        match node:
            case ast.Set() | ast.SetComp():
                found = True
            case ast.BinOp(op=op) if isinstance(op, _SET_OPERATORS):
                sides = (node.left, node.right)
                found = any(
                    self.is_set(one, scope, deeper) or _is_view(one) for one in sides
                )
            case ast.IfExp(body=yes, orelse=no):
                found = any(self.is_set(one, scope, deeper) for one in (yes, no))
            case ast.BoolOp(values=values):
                found = any(self.is_set(one, scope, deeper) for one in values)
            case ast.NamedExpr(value=value) | ast.Starred(value=value):
                found = self.is_set(value, scope, deeper)
            case ast.Call():
                found = self._call_is_set(node, scope, deeper)
            case ast.Name(id=name):
                found = self._name_is_set(name, scope, deeper)
            case ast.Attribute():
                found = self._attribute_is_set(node, scope, deeper)
            case _:
                found = False
        return found

    def is_seen(self, call: ast.Call, scope: Scope) -> ast.expr | None:
        """The set whose order a call would see; ``None`` if it sees none."""
        sets = [one for one in call.args if self.is_set(one, scope)]
        base, method = attribute_of(call.func)
        if method == "pop" and base is not None and not call.args:
            return base if self.is_set(base, scope) else None
        if method == "__iter__" and base is not None and self.is_set(base, scope):
            return base
        if not sets:
            return self._passed_on(call, scope) if call.keywords else None
        paths = self._sources.paths(call.func, scope)
        if paths & BLIND:
            return None
        if paths & _BLIND_WITHOUT_KEY:
            return sets[0] if any(word.arg == "key" for word in call.keywords) else None
        seeing = paths & _SEEING or any(path.startswith("itertools.") for path in paths)
        if seeing or method in _SEEING_METHODS:
            return sets[0]
        return self._passed_on(call, scope)

    def _passed_on(self, call: ast.Call, scope: Scope) -> ast.expr | None:
        """A set given to a function of ours that does not say that it takes one."""
        for function, where in self._functions(call.func, scope):
            if not isinstance(function, ast.FunctionDef):
                continue
            given = function.args
            takes = [*given.posonlyargs, *given.args]
            if isinstance(call.func, ast.Attribute) and isinstance(
                where.node, ast.ClassDef
            ):
                takes = takes[1:]
            named = {one.arg: one for one in (*takes, *given.kwonlyargs)}
            pairs = list(zip(call.args, takes, strict=False))
            pairs += [
                (word.value, named[word.arg])
                for word in call.keywords
                if word.arg in named
            ]
            for value, taken in pairs:
                if self.is_set(value, scope) and not self._says_so(taken, where):
                    return value
        return None

    def _says_so(self, argument: ast.arg, scope: Scope) -> bool:
        kind = argument.annotation
        return kind is not None and (
            self._kind_is_set(kind, scope, 0)
            or any(
                isinstance(part, ast.Name) and part.id == "Container"
                for part in ast.walk(kind)
            )
        )

    def takes_blindly(self, call: ast.Call, scope: Scope) -> bool:
        """Whether a call consumes what it is given in whatever order."""
        paths = self._sources.paths(call.func, scope)
        if paths & _BLIND_WITHOUT_KEY:
            return not any(word.arg == "key" for word in call.keywords)
        return bool(paths & BLIND)

    def _learn(self, scope: Scope) -> None:
        if isinstance(scope.node, ast.ClassDef):
            for name, kinds in scope.types.items():
                self._note(name, [(kind, scope, True) for kind in kinds])
            for name, values in scope.values.items():
                self._note(name, [(value, scope, False) for value in values])
            return
        if isinstance(scope.node, ast.FunctionDef):
            for node in ast.walk(scope.node):
                if isinstance(node, ast.Assign):
                    for target in node.targets:
                        if isinstance(target, ast.Attribute):
                            self._note(target.attr, [(node.value, scope, False)])
                elif isinstance(node, ast.AnnAssign) and isinstance(
                    node.target, ast.Attribute
                ):
                    self._note(node.target.attr, [(node.annotation, scope, True)])

    def _note(self, name: str, found: list[tuple[ast.expr, Scope, bool]]) -> None:
        self._attributes.setdefault(name, []).extend(found)

    def _name_is_set(self, name: str, scope: Scope, depth: int) -> bool:
        owner = find_scope(name, scope)
        if owner is None:
            return False
        if any(self._kind_is_set(one, owner, depth) for one in owner.types[name]):
            return True
        if any(self.is_set(one, owner, depth) for one in owner.values[name]):
            return True
        for path in owner.imports.get(name, ()):
            head, _, last = path.rpartition(".")
            module = self._sources.modules.get(head)
            if module is not None and self._name_is_set(last, module.scope, depth + 1):
                return True
        return False

    def _attribute_is_set(self, node: ast.Attribute, scope: Scope, depth: int) -> bool:
        for path in self._sources.paths(node, scope):
            head, _, last = path.rpartition(".")
            module = self._sources.modules.get(head)
            if module is not None and self._name_is_set(last, module.scope, depth):
                return True
        return any(
            self._kind_is_set(one, where, depth)
            if is_kind
            else self.is_set(one, where, depth)
            for one, where, is_kind in self._attributes.get(node.attr, ())
        )

    def _call_is_set(self, node: ast.Call, scope: Scope, depth: int) -> bool:
        paths = self._sources.paths(node.func, scope)
        if paths & {"builtins.set", "builtins.frozenset"}:
            return True
        base, method = attribute_of(node.func)
        if base is not None and method in _SET_METHODS:
            return self.is_set(base, scope, depth)
        return any(
            self._returns_set(function, where, depth)
            for function, where in self._functions(node.func, scope)
        )

    def _functions(self, node: ast.expr, scope: Scope) -> list[tuple[ast.AST, Scope]]:
        """Functions of the application that a call may mean."""
        if isinstance(node, ast.Name):
            owner = find_scope(node.id, scope)
            if owner is not None and node.id in owner.functions:
                return [(one, owner) for one in owner.functions[node.id]]
        _, method = attribute_of(node)
        found: list[tuple[ast.AST, Scope]] = []
        for module in self._sources.modules.values():
            for path in self._sources.paths(node, scope):
                if path.startswith(f"{module.name}."):
                    name = path.removeprefix(f"{module.name}.")
                    where = module.scope
                    found += [(one, where) for one in where.functions.get(name, ())]
            if method:
                for where in module.scopes.values():
                    if isinstance(where.node, ast.ClassDef):
                        named = where.functions.get(method, ())
                        found += [(one, where) for one in named]
        return found

    def _returns_set(self, function: ast.AST, scope: Scope, depth: int) -> bool:
        if not isinstance(function, ast.FunctionDef) or depth > _DEEPEST:
            return False
        if function.returns is not None:
            return self._kind_is_set(function.returns, scope, depth)
        inner = next(
            (
                module.scopes[function]
                for module in self._sources.modules.values()
                if function in module.scopes
            ),
            scope,
        )
        return any(
            isinstance(node, ast.Return)
            and node.value is not None
            and self.is_set(node.value, inner, depth + 1)
            for node in ast.walk(function)
        )

    def _kind_is_set(self, kind: ast.expr, scope: Scope, depth: int) -> bool:
        """Whether an annotation says that it is a set."""
        if depth > _DEEPEST:
            return False
        deeper = depth + 1
        match kind:
            case ast.Constant(value=str() as text):
                inner = _parsed(text)
                found = inner is not None and self._kind_is_set(inner, scope, deeper)
            case ast.Subscript(value=base, slice=inside):
                first = inside.elts[0] if isinstance(inside, ast.Tuple) else inside
                chosen = first if self._names_wrapper(base, scope) else base
                found = self._kind_is_set(chosen, scope, deeper)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                sides = (left, right)
                found = any(self._kind_is_set(one, scope, deeper) for one in sides)
            case ast.Name() | ast.Attribute():
                direct = bool(self._sources.paths(kind, scope) & _KINDS)
                found = direct or self._alias_is_set(kind, scope, deeper)
            case _:
                found = False
        return found

    def _alias_is_set(
        self, kind: ast.Name | ast.Attribute, scope: Scope, depth: int
    ) -> bool:
        """``Names = frozenset[str]``, here or in another module."""
        if isinstance(kind, ast.Name):
            owner = find_scope(kind.id, scope)
            if owner is not None and any(
                self._kind_is_set(one, owner, depth) for one in owner.values[kind.id]
            ):
                return True
        for path in self._sources.paths(kind, scope):
            head, _, last = path.rpartition(".")
            module = self._sources.modules.get(head)
            if module is not None and module.scope is not find_scope(last, scope):
                values = module.scope.values.get(last, ())
                if any(self._kind_is_set(v, module.scope, depth) for v in values):
                    return True
        return False

    def _names_wrapper(self, base: ast.expr, scope: Scope) -> bool:
        return bool(self._sources.paths(base, scope) & _WRAPPERS)


def _parsed(text: str) -> ast.expr | None:
    """An annotation that was written as text."""
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _is_view(node: ast.expr) -> bool:
    """``mapping.keys()`` and ``mapping.items()``: sets as soon as they are combined."""
    _, method = attribute_of(node.func) if isinstance(node, ast.Call) else (None, "")
    return method in {"items", "keys"}

"""Whether an application's sources are deterministic, judged by reading them.

Guarantees that nothing of the application is run. It finds what authors write by
mistake, by whatever name; it is no defence against an author who wants to be
missed, and need not be: other instances would reach other roots, which L1 sees.
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Final

from ._app_finding import Finding
from ._app_rules import (
    ATTRIBUTES,
    RULES,
    TOO_WIDE,
    rule_of_module,
    rule_of_name,
)
from ._app_scopes import (
    Module,
    Scope,
    Sources,
    attribute_of,
    find_scope,
    import_base,
)
from ._app_sets import SetOrder

_PALLET: Final = "sealift.frame.Pallet"
_ITEMS: Final = frozenset({
    "sealift.frame.MigratingMap", "sealift.frame.StorageMap",
    "sealift.frame.StorageValue",
})  # fmt: skip
_CHANGING: Final = frozenset({
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend",
    "extendleft", "insert", "intersection_update", "pop", "popitem", "popleft",
    "remove", "reverse", "setdefault", "sort", "symmetric_difference_update",
    "update", "rotate", "subtract", "__setitem__", "__delitem__", "__iadd__",
})  # fmt: skip
_MUTABLE: Final = (
    ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp,
)  # fmt: skip
_COMPILED: Final = frozenset({"dll", "dylib", "pyc", "pyd", "pyo", "so"})
#: Classes above classes, and no more.
_DEEPEST: Final = 8
_FLOAT_FORMATS: Final = frozenset("eEfFgG%")


def judge_sources(files: Mapping[str, bytes]) -> list[Finding]:
    """What an application's modules do that they may not, sorted by place.

    Args:
        files: Its sources by path within ``app/``.
    """
    sources = Sources()
    found = []
    for path, content in sorted(files.items()):
        if path.rpartition(".")[2] in _COMPILED:
            what = f"`{path}`, which nobody can read,"
            found.append(_finding("import", f"app/{path}", 1, what))
        if not path.endswith(".py"):
            continue
        try:
            sources.add(path, content)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None) or 1
            said = getattr(error, "msg", None) or str(error)
            text = (getattr(error, "text", None) or "").strip()
            what = f"`{text}` ({said})" if text else said
            found.append(_finding("syntax", f"app/{path}", line, what))
    order = SetOrder(sources)
    for module in sources.modules.values():
        judge = _Judge(sources, module, order)
        try:
            judge.visit(module.tree)
        except RecursionError:
            what = "an expression in it is nested too deep to be judged, and"
            found.append(_finding("syntax", f"app/{module.path}", 1, what))
        found += judge.found
    return sorted(set(found))


def _finding(rule: str, path: str, line: int, what: str, write: str = "") -> Finding:
    why, hint = RULES[rule]
    return Finding(
        path=path, line=line, rule=rule, what=f"{what} {why}", write=write or hint
    )


class _Judge(ast.NodeVisitor):
    """Reads one module."""

    def __init__(self, sources: Sources, module: Module, order: SetOrder) -> None:
        self.found: list[Finding] = []
        self._sources = sources
        self._module = module
        self._order = order
        self._scope = module.scope
        self._blind: set[ast.AST] = set()
        self._items = _storage_items(sources)

    def visit(self, node: ast.AST) -> None:
        """In the scope of what it stands in."""
        around = self._scope
        self._scope = self._module.scopes.get(node, around)
        super().visit(node)
        self._scope = around

    def _refuse(
        self, rule: str, node: ast.AST, what: str = "", write: str = ""
    ) -> None:
        line = getattr(node, "lineno", 1)
        said = what or f"`{_shown(node)}`"
        path = f"app/{self._module.path}"
        self.found.append(_finding(rule, path, line, said, write))

    # --- what is imported ---

    def visit_Import(self, node: ast.Import) -> None:
        """Modules of others are on the list, or are refused."""
        for alias in node.names:
            if not self._sources.owns(alias.name):
                self._judge_import(node, alias.name, rule_of_module(alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Also modules that are named behind `from`."""
        base = import_base(node, self._module.package)
        if self._sources.owns(base):
            if any(alias.name == "*" for alias in node.names):
                self._refuse("reflection", node)
            return
        rule = rule_of_module(base)
        if rule is not None and base not in {"os", "operator", "functools"}:
            self._judge_import(node, base, rule)
            return
        for alias in node.names:
            path = f"{base}.{alias.name}"
            if alias.name == "*":
                self._refuse("reflection", node)
            elif rule_of_module(path) is not None:
                self._judge_import(node, path, rule_of_name(path))

    def _judge_import(self, node: ast.AST, path: str, rule: str | None) -> None:
        if rule is not None:
            self._refuse(rule, node, f"`{path}`, imported,")

    # --- names ---

    def visit_Name(self, node: ast.Name) -> None:
        """A name that stands for something refused."""
        if isinstance(node.ctx, ast.Load):
            self._judge_paths(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A path of names, or an attribute that nobody needs."""
        if self._judge_paths(node):
            return
        rule = ATTRIBUTES.get(node.attr)
        if rule is not None and not self._is_own_base(node):
            self._refuse(rule, node)
        self.visit(node.value)

    def _judge_paths(self, node: ast.expr) -> bool:
        for path in sorted(self._sources.paths(node, self._scope)):
            rule = None if self._sources.owns(path) else rule_of_name(path)
            if rule is not None:
                known = path.removeprefix("builtins.")
                shown = _shown(node)
                also = "" if shown == known else f", which is {known},"
                self._refuse(rule, node, f"`{shown}`{also}")
                return True
        return False

    def _is_own_base(self, node: ast.Attribute) -> bool:
        """``super().__init__`` and the like reach nothing else."""
        return isinstance(node.value, ast.Call) and node.attr == "__init__"

    # --- numbers ---

    def visit_Constant(self, node: ast.Constant) -> None:
        """Whole numbers only."""
        if isinstance(node.value, float | complex):
            self._refuse("float", node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """``/`` makes a float even of whole numbers."""
        if isinstance(node.op, ast.Div):
            line = f"{_shown(node.left)} // {_shown(node.right)}"
            self._refuse("float", node, write=line)
        if isinstance(node.op, ast.Pow) and _is_negative(node.right):
            self._refuse("float", node)
        if isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            if isinstance(node.left.value, str) and _formats_floats(node.left.value):
                self._refuse("float", node)
            if isinstance(node.left.value, str) and self._order.is_set(
                node.right, self._scope
            ):
                self._refuse_order(node, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """``/=`` too; and changes of what outlives the call."""
        if isinstance(node.op, ast.Div):
            line = f"{_shown(node.target)} //= {_shown(node.value)}"
            self._refuse("float", node, write=line)
        if self._order.is_set(node.value, self._scope) and isinstance(node.op, ast.Add):
            self._refuse_order(node, node.value)
        self._judge_target(node.target)
        self.generic_visit(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        """``{x:.2f}`` makes a float, ``{a_set}`` shows its order."""
        spec = node.format_spec
        parts = spec.values if isinstance(spec, ast.JoinedStr) else []
        last = parts[-1] if parts else None
        if isinstance(last, ast.Constant) and str(last.value)[-1:] in _FLOAT_FORMATS:
            self._refuse("float", node)
        if self._order.is_set(node.value, self._scope):
            self._refuse_order(node, node.value)
        self.generic_visit(node)

    # --- the order of sets ---

    def visit_For(self, node: ast.For) -> None:
        """Goes through things in their order."""
        self._judge_order(node, node.iter)
        self._judge_target(node.target)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """``a, b = a_set``; and changes of what outlives the call."""
        for target in node.targets:
            if isinstance(target, ast.Tuple | ast.List):
                self._judge_order(node, node.value)
            self._judge_target(target)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """As an assignment, if it is one."""
        if node.value is not None:
            self._judge_target(node.target)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        """As an assignment."""
        for target in node.targets:
            self._judge_target(target)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        """``*a_set`` spreads it in its order."""
        if isinstance(node.ctx, ast.Load) and node not in self._blind:
            self._judge_order(node, node.value)
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        """A set of what another one has is blind to its order."""
        self._blind |= {one for one in node.elts if isinstance(one, ast.Starred)}
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        """Goes through things in their order."""
        self._judge_order(node, node.value)
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        """Makes a set of a set: blind."""
        self._judge_scopes(node)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        """Goes through things in their order."""
        self._comprehension(node, node.generators)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        """A dict keeps the order in which it was filled."""
        self._comprehension(node, node.generators)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """Goes through things in their order, unless its consumer is blind."""
        self._comprehension(node, node.generators)

    def _comprehension(self, node: ast.expr, loops: list[ast.comprehension]) -> None:
        if node not in self._blind:
            for loop in loops:
                self._judge_order(node, loop.iter)
        self._judge_scopes(node)
        self.generic_visit(node)

    def _judge_scopes(self, node: ast.expr) -> None:
        if any(
            isinstance(one, ast.comprehension) and one.is_async
            for one in ast.walk(node)
        ):
            self._refuse("threads", node)

    def _judge_order(self, node: ast.AST, iterated: ast.expr) -> None:
        if self._order.is_set(iterated, self._scope):
            self._refuse_order(node, iterated)

    def _refuse_order(self, node: ast.AST, iterated: ast.expr) -> None:
        shown = _shown(iterated)
        line = f"sorted({shown})"
        self._refuse("set-order", node, f"what is made of `{shown}`", line)

    # --- calls ---

    def visit_Call(self, node: ast.Call) -> None:
        """What is called, with what."""
        if self._order.takes_blindly(node, self._scope):
            self._blind |= {
                one
                for one in node.args
                if isinstance(one, ast.GeneratorExp | ast.ListComp)
            }
        seen = self._order.is_seen(node, self._scope)
        if seen is not None:
            self._refuse_order(node, seen)
        self._judge_reflection(node)
        self._judge_change(node)
        base, method = attribute_of(node.func)
        if (
            method == "format"
            and isinstance(base, ast.Constant)
            and _formats_floats(str(base.value), after=":")
        ):
            self._refuse("float", node)
        self.generic_visit(node)

    def _judge_reflection(self, node: ast.Call) -> None:
        paths = self._sources.paths(node.func, self._scope)
        if "builtins.getattr" in paths:
            base, name = attribute_of(node)
            if base is None:
                self._refuse("reflection", node)
            elif name in ATTRIBUTES:
                self._refuse(ATTRIBUTES[name], node)
            else:
                self._judge_paths(node)
        if "builtins.type" in paths and len(node.args) > 1:
            self._refuse("reflection", node)
        self._judge_floats(node, paths)

    def _judge_floats(self, node: ast.Call, paths: set[str]) -> None:
        """``pow(2, -1)``, and the formats of ``struct`` that are floats."""
        packs = any(path.startswith("struct.") for path in paths)
        for one in node.args[:1] if packs else ():
            text = one.value if isinstance(one, ast.Constant) else ""
            shown = text.decode("latin-1") if isinstance(text, bytes) else str(text)
            if set(shown) & set("dfe"):
                self._refuse("float", node)
        if "builtins.pow" in paths and any(_is_negative(one) for one in node.args[1:2]):
            self._refuse("float", node)

    # --- what outlives a call ---

    def visit_Global(self, node: ast.Global) -> None:
        """A name of the module that a call changes."""
        self._refuse("global-state", node)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        """A name that may outlive the call in which a function was made."""
        self._refuse("global-state", node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Defaults are made once and kept."""
        self._judge_defaults(node.args)
        self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """As a function."""
        self._judge_defaults(node.args)
        self.generic_visit(node)

    def _judge_defaults(self, arguments: ast.arguments) -> None:
        for default in (*arguments.defaults, *arguments.kw_defaults):
            made = default is not None and (
                isinstance(default, _MUTABLE) or self._makes_mutable(default)
            )
            if default is not None and made:
                what = f"the default `{_shown(default)}`, made once,"
                self._refuse("global-state", default, what, "= ()  # or None")

    def _makes_mutable(self, node: ast.expr) -> bool:
        made = {"builtins.list", "builtins.dict", "builtins.set", "builtins.bytearray",
                "collections.defaultdict", "collections.deque", "collections.Counter",
                "itertools.count"}  # fmt: skip
        return isinstance(node, ast.Call) and bool(
            self._sources.paths(node.func, self._scope) & made
        )

    def _judge_target(self, target: ast.expr) -> None:
        """An assignment to something that is there after the call."""
        if isinstance(target, ast.Tuple | ast.List):
            for one in target.elts:
                self._judge_target(one)
        elif isinstance(target, ast.Starred):
            self._judge_target(target.value)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            self._judge_kept(target, target)

    def _judge_change(self, node: ast.Call) -> None:
        """A method that changes something that is there after the call."""
        base, method = attribute_of(node.func)
        if base is not None and method in _CHANGING:
            self._judge_kept(base, node)
        paths = self._sources.paths(node.func, self._scope)
        if "builtins.next" in paths and node.args:
            self._judge_kept(node.args[0], node)

    def _judge_kept(self, target: ast.expr, node: ast.AST) -> None:
        if not self._in_function():
            return
        root, through = target, ""
        while isinstance(root, ast.Attribute | ast.Subscript):
            through = root.attr if isinstance(root, ast.Attribute) else through
            root = root.value
        if isinstance(root, ast.Call):
            if "builtins.type" in self._sources.paths(root.func, self._scope):
                self._refuse("global-state", node)
            return
        if not isinstance(root, ast.Name):
            return
        owner = find_scope(root.id, self._scope)
        kept = owner is not None and not owner.is_function
        own = bool(through) and through not in self._items
        if kept or (own and self._is_self(root.id)):
            self._refuse("global-state", node)

    def _in_function(self) -> bool:
        scope: Scope | None = self._scope
        while scope is not None:
            if scope.is_function:
                return True
            scope = scope.parent
        return False

    def _is_self(self, name: str) -> bool:
        """Whether a name is a pallet itself, in a method other than ``__init__``."""
        function = self._scope
        while function.parent and not isinstance(function.parent.node, ast.ClassDef):
            function = function.parent
        owner = function.parent
        node = function.node
        if owner is None or not isinstance(node, ast.FunctionDef):
            return False
        first = [*node.args.posonlyargs, *node.args.args][:1]
        if not first or first[0].arg != name or node.name == "__init__":
            return False
        if any(_shown(one) == "classmethod" for one in node.decorator_list):
            return True
        kind = owner.node
        return isinstance(kind, ast.ClassDef) and self._is_pallet(
            kind, owner.parent or self._module.scope
        )

    def _is_pallet(self, node: ast.ClassDef, scope: Scope, depth: int = 0) -> bool:
        for base in node.bases:
            paths = self._sources.paths(base, scope)
            if _PALLET in paths:
                return True
            for one, scope_ in self._classes(paths):
                if depth < _DEEPEST and self._is_pallet(one, scope_, depth + 1):
                    return True
        return False

    def _classes(self, paths: set[str]) -> Iterator[tuple[ast.ClassDef, Scope]]:
        """Classes of the application that stand under a path."""
        for path in paths:
            head, _, name = path.rpartition(".")
            module = self._sources.modules.get(head)
            if module is not None:
                for one in module.scope.functions.get(name, ()):
                    if isinstance(one, ast.ClassDef):
                        yield one, module.scope

    # --- the rest ---

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """What is caught is named, and does not depend on the machine."""
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        for kind in kinds:
            wide = kind is None or TOO_WIDE & self._sources.paths(kind, self._scope)
            if wide and not again:
                name = "except:" if kind is None else f"except {_shown(kind)}:"
                self._refuse("catch-all", node, f"`{name}`")
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        """``return`` in ``finally`` swallows every error there is."""
        for one in node.finalbody:
            for inner in ast.walk(one):
                if isinstance(inner, ast.Return):
                    self._refuse("catch-all", inner, "`return` in `finally`")
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Nothing waits in a block."""
        self._refuse("threads", node, f"`async def {node.name}`")
        self.generic_visit(node)


def _storage_items(sources: Sources) -> set[str]:
    """Attributes that are storage: what changes them changes the state."""
    return {
        name
        for module in sources.modules.values()
        for scope in module.scopes.values()
        for name, values in scope.values.items()
        for value in values
        if isinstance(value, ast.Call) and _ITEMS & sources.paths(value.func, scope)
    }


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004 - a line


def _is_negative(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _formats_floats(text: str, after: str = "%") -> bool:
    """Whether a format string shows a number as a float."""
    pieces = text.split(after)[1:]
    for piece in pieces:
        directive = piece.partition("}")[0] if after == ":" else piece
        kind = directive.lstrip("#0123456789.+- ")[:1]
        if kind and kind in "eEfFgG":
            return True
    return False

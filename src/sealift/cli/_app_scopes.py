"""Whom the names in an application's sources stand for, by reading them alone.

Imports, renamings (``clock = time.time``) and names of other modules of the
application are followed. Nothing is run.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_DEEPEST: Final = 20


@dataclass(slots=True)
class Scope:
    """The names that a module, class or function binds itself.

    Attributes:
        node: What it is the scope of.
        parent: The scope around it.
        imports: Name to the path that it was imported from.
        values: Name to every expression that it was set to.
        types: Name to every annotation of it.
        bound: All names it binds, however.
        shared: Names that it declares global or nonlocal.
    """

    node: ast.AST
    parent: "Scope | None"
    imports: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    values: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    types: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    functions: dict[str, list[ast.AST]] = field(
        default_factory=lambda: defaultdict(list)
    )
    bound: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)

    @property
    def is_function(self) -> bool:
        """Whether its names live only as long as a call."""
        return not isinstance(self.node, ast.Module | ast.ClassDef)


@dataclass(slots=True, kw_only=True)
class Module:
    """A module of the application, read.

    Attributes:
        name: As it is imported.
        path: Relative to the application's folder.
        tree: Its source.
        package: The package that its relative imports start from.
        scope: Its own names.
        scopes: Scope of every node that has one.
    """

    name: str
    path: str
    tree: ast.Module
    package: str
    scope: Scope
    scopes: dict[ast.AST, Scope]


@dataclass(slots=True)
class Sources:
    """All modules of an application, by name."""

    modules: dict[str, Module] = field(default_factory=dict)
    _names: dict[ast.AST, str] = field(default_factory=dict)

    def add(self, path: str, source: bytes) -> Module:
        """Read a module.

        Raises:
            SyntaxError, ValueError: It is not Python.
        """
        tree = ast.parse(source, filename=path)
        parts = path.removesuffix(".py").split("/")
        package = ".".join(parts[:-1])
        name = package if parts[-1] == "__init__" else ".".join(parts)
        scope = Scope(tree, None)
        module = Module(
            name=name,
            path=path,
            tree=tree,
            package=package,
            scope=scope,
            scopes={tree: scope},
        )
        _Binder(module).fill(tree, scope)
        self.modules[name] = module
        self._names[tree] = name
        return module

    def owns(self, path: str) -> bool:
        """Whether a dotted path begins with a package of the application."""
        top = path.partition(".")[0]
        return any(name.partition(".")[0] == top for name in self.modules)

    def paths(self, node: ast.expr, scope: Scope, depth: int = 0) -> set[str]:
        """The paths that an expression may stand for: ``time.time``; none if unknown.

        Builtins stand under ``builtins``.
        """
        if depth > _DEEPEST:
            return set()
        if isinstance(node, ast.Name):
            return self._of_name(node.id, scope, depth)
        base, attribute = attribute_of(node)
        if base is None:
            return set()
        found = set()
        for path in self.paths(base, scope, depth + 1):
            found |= self._of_path(f"{path}.{attribute}", depth + 1)
        return found

    def _of_name(self, name: str, scope: Scope, depth: int) -> set[str]:
        owner = find_scope(name, scope)
        if owner is None:
            return {f"builtins.{name}"}
        found = set()
        for path in owner.imports.get(name, ()):
            found |= self._of_path(path, depth + 1)
        for value in owner.values.get(name, ()):
            if not (isinstance(value, ast.Name) and value.id == name):
                found |= self.paths(value, owner, depth + 1)
        if not found and owner.node in self._names:
            found = {f"{self._names[owner.node]}.{name}"}
        return found

    def _of_path(self, path: str, depth: int) -> set[str]:
        """A path, and what it stands for if it is a name of our own."""
        if depth > _DEEPEST or not self.owns(path):
            return {path}
        head, _, name = path.rpartition(".")
        module = self.modules.get(head)
        if path in self.modules or module is None or name not in module.scope.bound:
            return {path}
        return self._of_name(name, module.scope, depth + 1) or {path}


def find_scope(name: str, scope: Scope) -> Scope | None:
    """The scope whose name it is, as Python finds it; ``None``: a builtin's."""
    here: Scope | None = scope
    first = True
    while here is not None:
        if name in here.shared:
            first = False
        elif name in here.bound and (first or not isinstance(here.node, ast.ClassDef)):
            return here
        first, here = False, here.parent
    return None


def attribute_of(node: ast.expr) -> tuple[ast.expr | None, str]:
    """What an attribute is read from and its name; also by ``getattr``."""
    if isinstance(node, ast.Attribute):
        return node.value, node.attr
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and len(node.args) >= 2  # noqa: PLR2004 - of what, and which
        and isinstance(node.args[1], ast.Constant)
        and isinstance(node.args[1].value, str)
    ):
        return node.args[0], node.args[1].value
    return None, ""


class _Binder(ast.NodeVisitor):
    """Finds what every scope of a module binds."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._scope = module.scope

    def fill(self, tree: ast.AST, scope: Scope) -> None:
        """Bind what stands in a node's body."""
        self._scope = scope
        for child in ast.iter_child_nodes(tree):
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A function has a scope of its own."""
        self._named(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """As a function."""
        self._named(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class has a scope of its own, which its methods do not see."""
        self._scope.bound.add(node.name)
        self._scope.functions[node.name].append(node)
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        self._inside(node, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A function without a name."""
        self._inside(node, [node.body], node.args)

    def visit_Import(self, node: ast.Import) -> None:
        """Binds the first part of a path, or its other name."""
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self._scope.bound.add(name)
            self._scope.imports[name].add(alias.name if alias.asname else name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Binds names of a module."""
        base = import_base(node, self._module.package)
        for alias in node.names:
            name = alias.asname or alias.name
            self._scope.bound.add(name)
            self._scope.imports[name].add(f"{base}.{alias.name}")

    def visit_Global(self, node: ast.Global) -> None:
        """Names of the module."""
        self._scope.shared |= set(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        """Names of the function around."""
        self._scope.shared |= set(node.names)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Notes what names are set to."""
        for target in node.targets:
            for name, value in pairs(target, node.value):
                self._scope.values[name].append(value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Notes types, too."""
        if isinstance(node.target, ast.Name):
            self._scope.types[node.target.id].append(node.annotation)
            if node.value is not None:
                self._scope.values[node.target.id].append(node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """Sets a name in the middle of an expression, outside of comprehensions."""
        owner = self._scope
        while isinstance(owner.node, Comprehension) and owner.parent is not None:
            owner = owner.parent
        owner.bound.add(node.target.id)
        owner.values[node.target.id].append(node.value)
        self.visit(node.value)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        """Its names are its own."""
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        """Its names are its own."""
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        """Its names are its own."""
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """Its names are its own."""
        self._comprehension(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Whatever is stored to is bound."""
        if isinstance(node.ctx, ast.Store | ast.Del):
            self._scope.bound.add(node.id)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Binds the error."""
        if node.name:
            self._scope.bound.add(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """Binds what matched."""
        if node.name:
            self._scope.bound.add(node.name)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """Binds the rest of a sequence."""
        if node.name:
            self._scope.bound.add(node.name)

    def _named(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.bound.add(node.name)
        self._scope.functions[node.name].append(node)
        outside: list[ast.AST] = [*node.decorator_list, node.args]
        if node.returns is not None:
            outside.append(node.returns)
        for part in outside:
            self.visit(part)
        self._inside(node, node.body, node.args)

    def _comprehension(self, node: Comprehension) -> None:
        around = self._scope
        self._scope = Scope(node, around)
        self._module.scopes[node] = self._scope
        self.generic_visit(node)
        self._scope = around

    def _inside(
        self,
        node: ast.AST,
        body: list[ast.stmt] | list[ast.expr],
        arguments: ast.arguments | None = None,
    ) -> None:
        around = self._scope
        self._scope = Scope(node, around)
        self._module.scopes[node] = self._scope
        for argument in _arguments(arguments):
            self._scope.bound.add(argument.arg)
            if argument.annotation is not None:
                self._scope.types[argument.arg].append(argument.annotation)
        for part in body:
            self.visit(part)
        self._scope = around


def import_base(node: ast.ImportFrom, package: str) -> str:
    """The module that names are imported from, relative dots resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Names and what an assignment sets them to, through tuples of one length."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif (
        isinstance(target, ast.Tuple | ast.List)
        and isinstance(value, ast.Tuple | ast.List)
        and len(target.elts) == len(value.elts)
    ):
        for one, other in zip(target.elts, value.elts, strict=True):
            yield from pairs(one, other)


def _arguments(arguments: ast.arguments | None) -> list[ast.arg]:
    if arguments is None:
        return []
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*found, *(one for one in (arguments.vararg, arguments.kwarg) if one)]

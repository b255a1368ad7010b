"""What a file must hold for some functions of a reference to run: definitions, imports, names.

Definitions come from reference.py and from whatever module of attnlab it imports them of. A name
that two of them share, or that a local variable would hide, gets its module's name in front.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from attnlab.contract import InputError
from attnlab.course.source import Import, Source, Use, bound_anywhere, module_file, read, uses

BUILTIN = {Import("attnlab.contract", "InputError"): "ValueError"}  # what needs no definition

Key = tuple[str, str]  # module, name


@dataclass
class Pieces:
    """Definitions that a file needs, with the names they get in it."""

    reference: Source
    sources: list[Source] = field(default_factory=list)  # imported ones before their importers
    kept: dict[str, list[ast.stmt]] = field(default_factory=dict)  # by module
    targets: dict[int, list[tuple[Use, Key]]] = field(default_factory=dict)  # by statement
    imports: set[tuple[str, Import]] = field(default_factory=set)  # (name, of what)
    keys: dict[Key, None] = field(default_factory=dict)
    final: dict[Key, str] = field(default_factory=dict)

    def collect(self, source: Source, name: str) -> None:
        """Take in a definition and, before it, all that it uses."""
        if (source.name, name) in self.keys:
            return
        self.keys[source.name, name] = None
        node = source.definitions[name]
        if id(node) in self.targets:
            return
        self.targets[id(node)] = []
        for use in self.used(source, node):
            self._resolve(source, node, use)
        if source not in self.sources:
            self.sources.append(source)
        self.kept.setdefault(source.name, []).append(node)

    def used(self, source: Source, node: ast.stmt) -> list[Use]:
        """Global names in a definition; decorators of paths and branches for tensors are left out."""
        gone = {id(n) for each in dropped(source, node, self.reference) for n in ast.walk(each)}
        return [use for use in uses(node) if id(use.node) not in gone]

    def _resolve(self, source: Source, node: ast.stmt, use: Use) -> None:
        found = self._find(source, use.name)
        if found is None:
            return
        if isinstance(found, tuple):
            self._take(node, Use(use.name, use.node), found)
        elif module_file(found.module) is None:
            self.imports.add((use.name, found))
        elif use.attribute is not None and not found.attribute:  # plan.f
            attribute = self._find(read(found.module), use.attribute.attr)
            if not isinstance(attribute, tuple):
                raise InputError(f"{source.name}: cannot inline {ast.unparse(use.attribute)}")
            self._take(node, use, attribute)
        else:
            raise InputError(f"{source.name}: cannot inline the module {use.name} as a value")

    def _take(self, node: ast.stmt, use: Use, found: tuple[Source, str]) -> None:
        source, name = found
        builtin = BUILTIN.get(Import(source.name, name))
        self.targets[id(node)].append((use, (source.name, name)))
        if builtin:
            self.final[source.name, name] = builtin
        else:
            self.collect(source, name)

    def _find(self, source: Source, name: str) -> tuple[Source, str] | Import | None:
        """(module, name) of the definition behind a global name, or the import of something else;
        None for builtins."""
        if name in source.definitions:
            return source, name
        origin = source.imports.get(name)
        if origin is None or module_file(origin.module) is None:
            return origin
        if not origin.attribute:
            return origin
        submodule = f"{origin.module}.{origin.attribute}"
        inner = read(origin.module)
        if origin.attribute not in inner.definitions and module_file(submodule):
            return Import(submodule)
        return self._find(inner, origin.attribute)

    def name(self) -> None:
        """Choose names: the own one where it is free, else with the module's before it."""
        taken = {alias for alias, _ in self.imports}
        if len(taken) < len(self.imports):
            raise InputError(f"{self.reference.name}: two imports share a name")
        ordered = sorted(self.keys, key=lambda key: key[0] != self.reference.name)
        for key in ordered:
            hidden = {
                local
                for nodes in self.kept.values()
                for node in nodes
                if any(other == key for _, other in self.targets[id(node)])
                for local in bound_anywhere(node)
                if node is not self._node(key)
            }
            module, name = key
            choices = [name, f"{module.rsplit('.', 1)[-1]}_{name}", f"{name}_", f"{name}_given"]
            self.final[key] = next(c for c in choices if c not in taken | hidden)
            taken.add(self.final[key])

    def _node(self, key: Key) -> ast.stmt:
        source = next(s for s in self.sources if s.name == key[0])
        return source.definitions[key[1]]


def dropped(source: Source, node: ast.stmt, reference: Source) -> list[ast.AST]:
    """Parts of a definition that a NumPy file has no use for: the decorator of a path, and
    `if is_tensor(x): …` in shared layers."""
    found: list[ast.AST] = [
        d for d in getattr(node, "decorator_list", ()) if ast.unparse(d) == "EXHIBIT.path"
    ]
    if source is not reference:
        found += [
            n
            for n in ast.walk(node)
            if isinstance(n, ast.If)
            and not n.orelse
            and ast.unparse(n.test).startswith("is_tensor(")
        ]
    return found

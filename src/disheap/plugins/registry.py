"""Plugins: from the entry points of the group `disheap` to a class for each (kind, name).

Owns discovery and what can go wrong in it. It walks the entry points itself, because pluggy's own loader stops at the
first broken plugin and skips a duplicate in silence. Here each is loaded in its own try, and hooks are called one
implementation at a time. So it is known which distribution every class and every failure came from. A broken plugin
hurts only whoever asks for it. A class that lacks a part of its contract is refused (`contract_check`). Hooks of
one kind are called when that kind is first asked for: a client that wants `tcp` imports no storage.

Refuses to know any plugin by name: the shipped ones are found as a stranger's are. There is no global registry; who
needs one loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import msgspec
import pluggy

from disheap.errors import ConfigError, PluginError
from disheap.interfaces import KINDS, Provenance
from disheap.plugins import hookspecs
from disheap.plugins.chain import ChainedCodec
from disheap.plugins.contract_check import find_fault
from disheap.plugins.settings import Setting, convert, describe

if TYPE_CHECKING:
    from disheap.interfaces import (
        Codec,
        CodecContext,
        MachineContext,
        StateMachine,
        Storage,
        StorageContext,
        Transport,
        TransportContext,
    )  # fmt: skip

__all__ = ["Listed", "Observer", "Registry", "describe_plugin"]

Tables = Mapping[str, Mapping[str, Any]]
"""The plugin tables of one kind: {"file": {"segment_bytes": 1}}."""


class Listed(NamedTuple):
    """One row of `disheap plugins`. A broken one has an `error`, and "" for what could not be found out."""

    kind: str
    name: str
    provenance: Provenance
    plugin: type[Any] | None
    error: str


class Observer(NamedTuple):
    """One implementation of an observer hook."""

    hook: str
    call: Callable[..., Any]
    argument_names: tuple[str, ...]  # what it takes, among what the hook tells
    provenance: Provenance


class _Hooks(NamedTuple):
    """A module of hooks that could be loaded."""

    module: object
    provenance: Provenance


class Registry:
    """What is installed, by kind and name. `Registry.load()` is the way to have one."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._hooks: list[_Hooks] = []
        self._unloadable: list[Listed] = []
        self._called: dict[str, list[Listed]] = {}

    @classmethod
    def load(cls, distributions: Iterable[metadata.Distribution] | None = None) -> Registry:
        """Load the hooks of every distribution installed, or of those given. Never raises for a plugin's sake."""
        registry = cls()
        for entry_point, provenance in _entry_points(distributions):
            registry._load_hooks(entry_point, provenance)
        return registry

    @overload
    def get(self, kind: Literal["transport"], name: str) -> type[Transport]: ...
    @overload
    def get(self, kind: Literal["storage"], name: str) -> type[Storage]: ...
    @overload
    def get(self, kind: Literal["codec"], name: str) -> type[Codec]: ...
    @overload
    def get(self, kind: Literal["machine"], name: str) -> type[StateMachine]: ...
    @overload
    def get(self, kind: str, name: str) -> type[Any]: ...
    def get(self, kind: str, name: str) -> type[Any]:
        """The class. Raises `PluginError` when it is unknown, broken, or registered twice."""
        named = [row for row in self._rows(kind) if row.name == name]
        if len(named) > 1:
            raise PluginError(_duplicate(kind, name, named))
        if not named:
            raise PluginError(self._unknown(kind, name))
        row = named[0]
        if row.plugin is None:
            raise PluginError(row.error)
        return row.plugin

    def settings(self, kind: str, name: str, table: Mapping[str, Any], origin: str) -> Any:
        """The plugin's `Settings` from its table. `origin` is the file it stood in. Raises `ConfigError`."""
        settings: type[msgspec.Struct] = self.get(kind, name).Settings
        return convert(settings, table, f"{kind}.{name}", origin)

    @overload
    def build(
        self, kind: Literal["transport"], name: str, tables: Tables, context: TransportContext, origin: str = ...
    ) -> Transport: ...
    @overload
    def build(
        self, kind: Literal["storage"], name: str, tables: Tables, context: StorageContext, origin: str = ...
    ) -> Storage: ...
    @overload
    def build(
        self, kind: Literal["codec"], name: str, tables: Tables, context: CodecContext, origin: str = ...
    ) -> Codec: ...
    @overload
    def build(
        self, kind: Literal["machine"], name: str, tables: Tables, context: MachineContext, origin: str = ...
    ) -> StateMachine: ...
    @overload
    def build(self, kind: str, name: str, tables: Tables, context: Any, origin: str = ...) -> Any: ...
    def build(self, kind: str, name: str, tables: Tables, context: Any, origin: str = "the configuration") -> Any:
        """An instance, with the settings of its own table among `tables`. Raises `ConfigError`."""
        plugin = self.get(kind, name)
        settings = self.settings(kind, name, tables.get(name, {}), origin)
        try:
            return plugin(settings, context)
        except ConfigError as error:  # it knows its settings, and not where they stood
            if type(error) is not ConfigError:
                raise
            raise ConfigError(f"{origin}: [{kind}.{name}] {error}") from error

    def codec(self, spec: str, tables: Tables, context: CodecContext, origin: str = "the configuration") -> Codec:
        """One codec, or a chain of them spelled `zstd+aesgcm`, each with its own table."""
        names = spec.split("+")
        parts: list[Codec] = [self.build("codec", name, tables, context, origin) for name in names]
        if len(parts) == 1:
            return parts[0]
        return cast("Codec", ChainedCodec(spec, parts))  # it has no Settings: its parts were given theirs

    def names(self, kind: str) -> tuple[str, ...]:
        """The names that `get` would answer, sorted."""
        usable = [row.name for row in self._rows(kind) if row.plugin is not None]
        return tuple(sorted(name for name in dict.fromkeys(usable) if usable.count(name) == 1))

    def listing(self) -> tuple[Listed, ...]:
        """Everything installed, the broken with their errors and duplicates twice, in order of kind and name."""
        rows = [row for kind in KINDS for row in self._rows(kind)]
        return (*sorted(rows, key=lambda row: (KINDS.index(row.kind), row.name)), *self._unloadable)

    def observers(self) -> tuple[Observer, ...]:
        """Every implementation of an observer hook, in order of distribution and entry point."""
        return tuple(
            Observer(name, found.function, tuple(found.argnames), hooks.provenance)
            for hooks in {id(hooks.module): hooks for hooks in self._hooks}.values()
            for name in hookspecs.OBSERVERS
            for found in getattr(self._manager.hook, name).get_hookimpls()
            if found.plugin is hooks.module
        )

    # --- discovery ---

    def _load_hooks(self, entry_point: metadata.EntryPoint, provenance: Provenance) -> None:
        try:
            module = entry_point.load()
            if all(module is not known.module for known in self._hooks):
                self._register(module, provenance)
        except Exception as error:
            self._unloadable.append(Listed("", "", provenance, None, _broken(provenance, "cannot be loaded", error)))
            return
        self._hooks.append(_Hooks(module, provenance))

    def _register(self, module: object, provenance: Provenance) -> None:
        self._manager.register(module, name=f"{provenance.distribution}:{provenance.entry_point}")
        try:
            self._manager.check_pending()  # after each, so that an unknown hook is this plugin's fault and no other's
        except Exception:
            self._manager.unregister(module)
            raise

    def _rows(self, kind: str) -> list[Listed]:
        if kind not in KINDS:
            raise PluginError(f"there are no plugins of kind {kind!r}; the kinds are {', '.join(KINDS)}")
        if kind not in self._called:
            self._called[kind] = [row for hooks in self._hooks for row in self._ask(kind, hooks)]
        return self._called[kind]

    def _ask(self, kind: str, hooks: _Hooks) -> Iterator[Listed]:
        caller = getattr(self._manager.hook, f"disheap_register_{kind}")
        for implementation in caller.get_hookimpls():
            if implementation.plugin is hooks.module:
                yield from _answers(kind, implementation.function, hooks.provenance)

    def _unknown(self, kind: str, name: str) -> str:
        known = ", ".join(self.names(kind)) or "none"
        said = (
            f"there is no {kind} {name!r}. Installed: {known}. Choose one of these, or install the distribution that "
            "brings it (pip install ...); `disheap plugins` lists them with their origin."
        )
        suspects = [row.error for row in (*self._unloadable, *self._rows(kind)) if row.plugin is None]
        return "\n".join([said, *(f"It may be in a plugin that is broken: {error}" for error in suspects)])


def describe_plugin(plugin: type[Any]) -> tuple[Setting, ...]:
    """The rows of `disheap plugins NAME`: setting, type, default, bounds, description."""
    return describe(plugin.Settings)


def _entry_points(
    distributions: Iterable[metadata.Distribution] | None,
) -> Iterator[tuple[metadata.EntryPoint, Provenance]]:
    """In order of distribution and entry point, so that a listing does not depend on the order of a directory."""
    if distributions is None:
        found = list(metadata.entry_points(group=hookspecs.PROJECT))  # a distribution on the path twice counts once
    else:
        found = [ep for dist in distributions for ep in dist.entry_points if ep.group == hookspecs.PROJECT]
    pairs = [(entry_point, _provenance(entry_point)) for entry_point in found]
    return iter(sorted(pairs, key=lambda pair: (pair[1].distribution, pair[1].entry_point)))


def _provenance(entry_point: metadata.EntryPoint) -> Provenance:
    distribution = entry_point.dist
    if distribution is None:
        return Provenance("an unknown distribution", "?", entry_point.name)
    return Provenance(distribution.name, distribution.version, entry_point.name)


def _answers(kind: str, hook: Callable[[], Any], provenance: Provenance) -> Iterator[Listed]:
    try:
        answer = hook()
        classes = [answer] if isinstance(answer, type) else list(answer)
    except Exception as error:
        said = f"cannot say which {kind} it brings"
        yield Listed(kind, "", provenance, None, _broken(provenance, said, error))
        return
    for plugin in classes:
        name = getattr(plugin, "name", "")
        fault = find_fault(kind, plugin)
        error_text = _unfit(provenance, kind, fault) if fault else ""
        yield Listed(kind, name if isinstance(name, str) else "", provenance, None if fault else plugin, error_text)


def _broken(provenance: Provenance, what: str, error: Exception) -> str:
    reason = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return (
        f"plugin {provenance.entry_point!r} of {provenance.distribution} {provenance.version} {what}: {reason}. "
        f"Reinstall {provenance.distribution} (an editable install too: its entry points are written at install time), "
        "or uninstall it."
    )


def _unfit(provenance: Provenance, kind: str, fault: str) -> str:
    return (
        f"plugin {provenance.entry_point!r} of {provenance.distribution} {provenance.version} brings a {kind} that is "
        f'refused, because it does not fit its contract: {fault}. See "Write a plugin" in the documentation; '
        f"if {provenance.distribution} is somebody else's, install a version of it that fits, or uninstall it."
    )


def _duplicate(kind: str, name: str, rows: list[Listed]) -> str:
    if len({row.provenance for row in rows}) == 1:
        origin = rows[0].provenance
        return (
            f"{kind} {name!r} is there {len(rows)} times: plugin {origin.entry_point!r} of {origin.distribution} "
            f"{origin.version} registers it more than once. Let its hooks return each class once, or uninstall "
            f"{origin.distribution}."
        )
    origins = " and ".join(
        f"{row.provenance.distribution} {row.provenance.version} (entry point {row.provenance.entry_point!r})"
        for row in rows
    )
    return f"{kind} {name!r} is there {len(rows)} times: from {origins}. Uninstall all but one; none is preferred."

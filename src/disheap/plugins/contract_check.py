"""Whether a plugin class can fit its contract, as far as the class tells without an instance.

Owns the comparison of a class with a Protocol of `interfaces`. It finds methods that are missing, calls that a method
cannot take, and methods that are async and must not be. It finds attributes that are missing or of a wrong type.
Compares optional powers, too: a class with half of one would silently lack it. Does not run the plugin: what a method
does is for the conformance suites. The registry refuses a class that does not fit. Otherwise a method that is missing
would raise at every tick of a node that already serves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from disheap.interfaces import (
    API,
    AllowedWhenFull,
    Binding,
    BlockingConnect,
    Codec,
    CommandSizing,
    CrossChecking,
    Discarding,
    FixedConstants,
    Forwarding,
    GroupKnowing,
    Hashing,
    IdentityStore,
    Inspectable,
    LoopAppending,
    Measuring,
    MemoryEstimating,
    OnFilesystem,
    PeerStore,
    Preallocating,
    Relaying,
    Reloading,
    Repairable,
    Sampling,
    SamplingQueries,
    Screening,
    Scrubbable,
    Service,
    SessionReporting,
    StateMachine,
    Storage,
    Transport,
    WorkCounting,
)

CONTRACTS: dict[str, type[Any]] = {
    "transport": Transport,
    "storage": Storage,
    "codec": Codec,
    "machine": StateMachine,
    "service": Service,
}

POWERS: dict[str, tuple[type[Any], ...]] = {
    "transport": (Reloading, BlockingConnect),
    "storage": (
        Repairable,
        Scrubbable,
        Inspectable,
        PeerStore,
        IdentityStore,
        OnFilesystem,
        MemoryEstimating,
        LoopAppending,
        Preallocating,
    ),
    "codec": (),
    "machine": (
        CommandSizing,
        FixedConstants,
        Screening,
        Relaying,
        SessionReporting,
        AllowedWhenFull,
        Forwarding,
        GroupKnowing,
        CrossChecking,
        Hashing,
        Discarding,
        WorkCounting,
        MemoryEstimating,
        Measuring,
        Sampling,
        SamplingQueries,
    ),
    "service": (Binding, Reloading),
}
"""The optional powers of each kind. A class with all methods of one has it."""

_BY_KEYWORD = frozenset({"alone", "replaces_log"})
"""Parameters that the runtime passes by keyword. All others are passed by position, and may have another name."""


def find_fault(kind: str, plugin: Any) -> str:
    """What keeps `plugin` from being a plugin of that kind, and what to do about it, or ""."""
    if not isinstance(plugin, type):
        return f"{plugin!r} is not a class; return the class itself, and no instance of it"
    label = f"{plugin.__module__}.{plugin.__qualname__}"
    faults = [*_attribute_faults(kind, plugin), *_method_faults(plugin, CONTRACTS[kind])]
    if kind == "storage" and getattr(plugin, "durable", None) is True:
        faults += [f"{fault} (every durable storage needs it)" for fault in _method_faults(plugin, PeerStore)]
    for power in POWERS[kind]:
        faults += [fault for fault in _power_faults(plugin, power) if not any(fault in known for known in faults)]
    return f"{label} {'; '.join(faults)}" if faults else ""


# --- attributes ------------------------------------------------------------------------------------------------------


def _attribute_faults(kind: str, plugin: type[Any]) -> Iterator[str]:
    name, api, settings = (getattr(plugin, attribute, None) for attribute in ("name", "api", "Settings"))
    if not isinstance(name, str) or not name or "+" in name or "." in name:
        yield f"has no usable `name`: {name!r}; it needs a word without '+' and '.'"
    if api is None:
        yield f"has no `api`; write `api = {API}` into the class"
    elif api != API:
        yield f"says api = {api!r}, and this disheap speaks {API}; install the versions that belong together"
    if not (isinstance(settings, type) and issubclass(settings, msgspec.Struct)):
        yield "has no `Settings`; it needs a msgspec.Struct, an empty one if there is nothing to set"
    if kind == "machine":
        yield from _version_faults(getattr(plugin, "versions", None))
    flag = {"storage": "durable", "transport": "secure"}.get(kind)
    if flag and not isinstance(inspect.getattr_static(plugin, flag, None), bool):
        yield f"has no `{flag}`; write `{flag} = True` or `{flag} = False` into the class"


def _version_faults(versions: Any) -> Iterator[str]:
    match versions:
        case (int(lowest), int(highest)) if 1 <= lowest <= highest:
            return
    yield f"has no usable `versions`: {versions!r}; it needs the lowest and the highest version, such as (1, 1)"


# --- methods ---------------------------------------------------------------------------------------------------------


def _power_faults(plugin: type[Any], power: type[Any]) -> Iterator[str]:
    """The faults of a class that has at least one of the power's methods."""
    there = [name for name, _ in _methods(power) if getattr(plugin, name, None) is not None]
    if there:
        whole = f"; without it there is no {power.__name__}, and {', '.join(there)} would never be called"
        for fault in _method_faults(plugin, power):
            yield f"{fault}{whole if fault.startswith('lacks') else ''}"


def _method_faults(plugin: type[Any], contract: type[Any]) -> Iterator[str]:
    where = f"disheap.interfaces.{contract.__name__}"
    for name, wanted in _methods(contract):
        found = getattr(plugin, name, None)
        call = _shown(name, wanted)
        if not callable(found) or (name == "__init__" and found is object.__init__):
            yield f"lacks the method {call} of {where}; write it"
        elif not _takes(plugin, name, wanted):
            yield f"has a method {name} that cannot be called as {call}, which is how {where} calls it; change it"
        elif _is_async(found) and not _is_async(wanted):
            yield f"has a method {name} that is async, and {where} calls it without await; write `def {name}`"


def _methods(contract: type[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, member in list(vars(contract).items()):  # Python adds to it, and other threads compare as well
        value = member.__func__ if isinstance(member, classmethod) else member
        is_own = inspect.isfunction(value) and value.__module__ == contract.__module__  # not what Protocol adds
        if is_own and (name == "__init__" or not name.startswith("_")):
            yield name, value


def _is_async(method: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def _parameters(wanted: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(wanted).parameters)[1:]  # without self


def _shown(name: str, wanted: Callable[..., Any]) -> str:
    return f"{name}({', '.join(_parameters(wanted))})"


def _takes(plugin: type[Any], name: str, wanted: Callable[..., Any]) -> bool:
    """Whether it can be called as the runtime does. True for what does not say what it takes, as functions in C."""
    try:
        signature = inspect.signature(getattr(plugin, name))
    except ValueError:
        return True
    bound = isinstance(inspect.getattr_static(plugin, name), (classmethod, staticmethod))
    parameters = _parameters(wanted)
    positional = [None for parameter in parameters if parameter not in _BY_KEYWORD]
    keywords = {parameter: None for parameter in parameters if parameter in _BY_KEYWORD}
    try:
        signature.bind(*([] if bound else [None]), *positional, **keywords)
    except TypeError:
        return False
    return True

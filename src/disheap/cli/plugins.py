"""`plugins`: what is installed, where it came from, and what can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from disheap.cli.terminal.failures import one_line
from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json, emit_table

if TYPE_CHECKING:
    from disheap.plugins.registry import Listed, Registry


@click.command()
@click.argument("name", required=False)
@shared_options
@pass_invocation
def plugins(invocation: Invocation, /, name: str | None) -> None:
    """List the plugins, or show the settings of one: NAME or KIND.NAME.

    A broken plugin is listed with its reason.

    Example: disheap plugins storage.file
    """
    from disheap.plugins.registry import Registry

    registry = Registry.load()
    if name is None:
        _list(invocation, registry)
    else:
        _show(invocation, [row for row in _named(registry, name) if row.plugin is not None])


def _list(invocation: Invocation, registry: Registry) -> None:
    rows = registry.listing()
    if invocation.json:
        emit_json({"plugins": [_described(row) for row in rows]})
        return
    emit_table(
        ["kind", "name", "distribution", "version", "entry point"],
        [
            (row.kind, row.name, row.provenance.distribution, row.provenance.version, row.provenance.entry_point)
            for row in rows
            if not row.error
        ],
    )
    for row in rows:
        if row.error:
            click.echo(f"\nbroken: {one_line(row.error)}")


def _named(registry: Registry, name: str) -> list[Listed]:
    """All plugins of that name, of whatever kind. Raises `PluginError` for none, for a broken one and for doubles."""
    from disheap.errors import PluginError
    from disheap.interfaces import KINDS

    kind, _, bare = name.rpartition(".")
    rows = [row for row in registry.listing() if row.name == bare and kind in ("", row.kind)]
    wanted = list(dict.fromkeys(row.kind for row in rows)) or ([kind] if kind else [])
    if not wanted:
        known = ", ".join(f"{kind}.{each}" for kind in KINDS for each in registry.names(kind))
        raise PluginError(
            f"there is no plugin {name!r}; installed are {known}; `disheap plugins` shows broken ones too"
        )
    for each in wanted:
        registry.get(each, bare)
    return rows


def _show(invocation: Invocation, rows: list[Listed]) -> None:
    if invocation.json:
        emit_json({"plugins": [_described(row) | {"settings": _settings(row)} for row in rows]})
        return
    for number, row in enumerate(rows):
        origin = row.provenance
        click.echo(("\n" if number else "") + f"{row.kind} {row.name}, from {origin.distribution} {origin.version}\n")
        settings = _settings(row)
        if settings:
            click.echo(f"Settings, in [{row.kind}.{row.name}]:\n")
            emit_table(list(settings[0]), [list(setting.values()) for setting in settings])
        else:
            click.echo("It has no settings.")


def _settings(row: Listed) -> list[dict[str, str]]:
    from disheap.plugins.registry import describe_plugin

    assert row.plugin is not None, "broken ones have been refused"
    return [
        {
            "name": setting.name,
            "type": setting.type,
            "default": setting.default or "(required)",
            "bounds": setting.bounds,
            "description": setting.description,
        }
        for setting in describe_plugin(row.plugin)
    ]


def _described(row: Listed) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "name": row.name,
        "distribution": row.provenance.distribution,
        "version": row.provenance.version,
        "entry_point": row.provenance.entry_point,
        "error": row.error or None,
    }

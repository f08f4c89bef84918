"""Options that every command has, and the types of values that people write.

`--json`, `--verbose` and `--url` may stand before the command or after it, and between `topic` and its verb: `disheap
--json status` and `disheap status --json` are one. What was given is kept in one `Invocation`. `main` makes it before
anything is parsed, so an error in the parsing itself is told as JSON, too, if JSON was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "disheap://localhost:8400"
URL_VARIABLE = "DISHEAP_URL"

DURATION_MAX_MS = (1 << 47) - 1
"""As in `protocol.broker`, which is not imported for a `--help`; a test compares the two."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)


@dataclass
class Invocation:
    """What holds for the whole command line. `url` is None if no option said one: not every command is content with
    what the environment says."""

    url: str | None = None
    environment_url: str | None = None
    json: bool = False
    verbose: bool = False

    @property
    def broker_url(self) -> str:
        """The URL of the cluster: the option's, else the environment's, else the default."""
        return self.url or self.environment_url or DEFAULT_URL


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def shared_options(command: F) -> F:
    """`--json` and `--verbose`."""
    command = click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=_storing("json"), help="Print JSON."
    )(command)
    return click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, is_eager=True, callback=_storing("verbose"), help=_VERBOSE
    )(command)


def client_options(command: F) -> F:
    """The shared ones and `--url`."""
    return url_option(f"The cluster, disheap://HOST,HOST; else {URL_VARIABLE}, else {DEFAULT_URL}.")(command)


def url_option(text: str) -> Callable[[F], F]:
    """`--url` with another explanation, and the shared ones."""

    def decorate(command: F) -> F:
        store = _storing("url")
        option = click.option("--url", metavar="URL", expose_value=False, is_eager=True, callback=store, help=text)
        return shared_options(option(command))

    return decorate


_VERBOSE = "Log more, and show the traceback of an error."


def _storing(field: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def store(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value:
            setattr(context.ensure_object(Invocation), field, value)
        return value

    return store


def duration(text: str | int) -> int:
    """Milliseconds, or a number with its unit: 500, 250ms, 10s, 5m, 2h, 1d. Use it as `type=duration`."""
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration; write milliseconds, or 250ms, 10s, 5m, 2h, 1d.")
    milliseconds = round(float(match[1]) * _UNITS_MS[match[2] or "ms"])
    if milliseconds > DURATION_MAX_MS:
        raise click.BadParameter(f"{text!r} is over the limit of {DURATION_MAX_MS} ms.")
    return milliseconds


def header(words: str) -> tuple[str, str]:
    """A header, NAME=VALUE: the name ends at the first equals sign. Use it as `type=header`."""
    name, equals, value = text(words).partition("=")
    if not equals:
        raise click.BadParameter(f"{words!r} is no header; write NAME=VALUE.")
    return name, value


def text(words: str) -> str:
    """A name. What is not UTF-8 on the command line comes in as lone surrogates, which no name may have."""
    try:
        words.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{words!a} is not UTF-8 text.") from None
    return words

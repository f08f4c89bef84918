"""Makes `disheap://` and `disheaps://` known to kombu; that is all.

kombu has no entry-point group for transports, but it loads the group `kombu.serializers` whenever a producer or a
consumer is imported. This module is in that group for its side effect: two aliases. kombu wraps the load in no try, so
nothing here may raise, and nothing here may be slow. The transport itself is imported when a URL asks for it.

What the group is for comes along as a serializer named `disheap`, which refuses with a clear text.
"""

from __future__ import annotations

from typing import Any, NoReturn

ALIASES = {
    "disheap": "disheap_kombu.transport:Transport",
    "disheaps": "disheap_kombu.transport:TlsTransport",
}


def register() -> bool:
    """Add the aliases; may be called again. False where kombu cannot be imported."""
    try:
        from kombu.transport import TRANSPORT_ALIASES

        for scheme, target in ALIASES.items():
            TRANSPORT_ALIASES.setdefault(scheme, target)
    except Exception:  # an old or broken kombu: its own error is the better one, and it comes when it is used
        return False
    return True


def _refuse(*_: Any, **__: Any) -> NoReturn:
    from kombu.exceptions import SerializerNotInstalled

    raise SerializerNotInstalled(
        "'disheap' is a transport, not a serializer: set broker_url = 'disheap://...' and leave task_serializer alone"
    )


entry = (_refuse, _refuse, "application/x-disheap-no-serializer", "binary")

register()

"""What `disheap_http` brings: the service `http`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_http.service import HttpService


@hookimpl
def disheap_register_service() -> type[HttpService]:
    """The service `http`. Loaded when somebody asks for a service."""
    from disheap_http.service import HttpService

    return HttpService

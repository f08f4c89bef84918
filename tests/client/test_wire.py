"""The blocking driver's socket."""

from __future__ import annotations

from disheap.client.io.wire import Wire


class GreenTls:
    """As eventlet makes it: whether it waits is for `setblocking` to say, and `settimeout` says only how long."""

    def __init__(self) -> None:
        self.waits = True
        self.timeout: float | None = None
        self.calls = 0

    def setblocking(self, flag: bool) -> None:
        self.waits, self.timeout = flag, None if flag else 0.0
        self.calls += 1

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds
        self.calls += 1

    def recv(self, size: int) -> bytes:
        assert not self.waits or self.timeout, "it would wait for ever"
        raise TimeoutError if self.waits else BlockingIOError

    def send(self, data: bytes | memoryview) -> int:
        assert self.waits and self.timeout
        return len(data)

    def fileno(self) -> int:
        return 1

    def close(self) -> None: ...


def test_a_green_tls_socket_waits_when_it_is_told_to_and_only_then() -> None:
    green = GreenTls()
    wire = Wire(green, "n1")
    for timeout_s in (0.0, 5.0, 2.5, 0.0):
        assert wire.read(timeout_s) is None
        assert (green.waits, green.timeout) == (timeout_s != 0.0, timeout_s)
    wire.write(b"x", 1.0)
    assert (green.waits, green.timeout) == (True, 1.0)


def test_the_timeout_is_set_only_when_it_changes() -> None:
    green = GreenTls()
    wire = Wire(green, "n1")
    wire.read(5.0)
    calls = green.calls
    wire.read(5.0)
    wire.write(b"x", 2.0)
    assert green.calls == calls

"""The pytest plugin: plugin classes as fixtures, so that any combination of plugins runs the same tests.

    pytest --pyargs disheap.testing.conformance --disheap-storage mine --disheap-set storage.mine.url=redis://localhost

`pytest_plugin` loads this module for such a command. A suite of one's own loads it with `-p disheap.testing.fixtures`.

A test asks for a factory; it runs once for each plugin of that kind, or for those that were named by an option:

| fixture             | gives                                                                                |
|---------------------|--------------------------------------------------------------------------------------|
| `transport_factory` | `transport_factory(loop) -> Transport`                                               |
| `storage_factory`   | `storage_factory(directory) -> Storage`, not opened, over each codec as well         |
| `codec_factory`     | `codec_factory() -> Codec`                                                           |
| `machine_factory`   | `machine_factory() -> StateMachine`                                                  |
| `service_factory`   | `service_factory(context) -> Service`                                                |
| `transport_name`, `storage_name`, `codec_name`, `machine_name` | the names, for a test that builds a node whole |
| `disheap_registry`, `disheap_tables` | the registry, and the plugin tables from `--disheap-set`            |

A storage keeps its data under the directory it is given (a storage elsewhere derives a place from it). So the storages
of two factories over one directory are the same storage, opened again. Transport `tls` gets certificates of its own
where none are set; making them needs `cryptography`. A plugin that is installed and broken is a failing test.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from disheap.interfaces import Codec, Service, ServiceContext, StateMachine, Storage, Transport
    from disheap.plugins.registry import Registry

Tables = dict[str, dict[str, dict[str, Any]]]

SEED = 20_250_101
"""The seed of every generator that a factory hands out. A failure is the same the next time."""

_KINDS = ("transport", "storage", "codec", "machine", "service")


class SystemClock(NamedTuple):
    """A `Clock` for storages; conformance does not depend on what time it is."""

    def monotonic(self) -> float:
        """Seconds of the system's monotonic clock."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, by the system's clock."""
        return time.time_ns() // 1_000_000


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options `--disheap-KIND`, `--disheap-set`, `--disheap-listen` and `--disheap-wait`."""
    group = parser.getgroup("disheap", "disheap plugins under test")
    for kind in _KINDS:
        group.addoption(
            f"--disheap-{kind}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"run with this {kind}; may be repeated (default: every one installed)",
        )
    group.addoption(
        "--disheap-set",
        action="append",
        default=[],
        metavar="KIND.NAME.KEY=VALUE",
        help="a plugin's setting, such as storage.redis.url=redis://localhost; may be repeated",
    )
    group.addoption(
        "--disheap-listen",
        default="127.0.0.1:0",
        metavar="ADDRESS",
        help="where the transport under test listens, when its addresses are not host:port",
    )
    group.addoption(
        "--disheap-wait",
        default=20.0,
        type=float,
        metavar="SECONDS",
        help="how long a test of a transport waits for what has to come (20)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test once for each plugin that its fixtures name, and for each event loop that is installed."""
    for kind in _KINDS:
        if f"{kind}_name" in metafunc.fixturenames:
            names = _wanted(metafunc.config, kind)
            metafunc.parametrize(f"{kind}_name", names, scope="session")
    if "loop_name" in metafunc.fixturenames:
        loops = ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]
        metafunc.parametrize("loop_name", loops, scope="session")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The suite of services is no part of a whole run where no service is installed: it would only be skipped. A run
    that names it says what is missing."""
    is_suite = collection_path.name == "test_service.py" and collection_path.parent.name == "conformance"
    is_named = any("test_service" in str(argument) for argument in config.invocation_params.args)
    return True if is_suite and not is_named and not _wanted(config, "service") else None


def _wanted(config: pytest.Config, kind: str) -> list[str]:
    return config.getoption(f"--disheap-{kind}") or _installed(config, kind)


_registry_key = pytest.StashKey["Registry"]()


def _registry(config: pytest.Config) -> Registry:
    """Loaded when first asked for: whoever runs pytest for something else pays nothing."""
    from disheap.plugins.registry import Registry

    if _registry_key not in config.stash:
        config.stash[_registry_key] = Registry.load()
    return config.stash[_registry_key]


def _installed(config: pytest.Config, kind: str) -> list[str]:
    """The names, and for each broken plugin a word under which asking for it says what is wrong."""
    registry = _registry(config)
    broken = [row for row in registry.listing() if row.plugin is None and row.kind in (kind, "")]
    return [*registry.names(kind), *(f"broken:{row.provenance.distribution}" for row in broken)]


@pytest.fixture(scope="session")
def disheap_registry(pytestconfig: pytest.Config) -> Registry:
    """The registry with all installed plugins."""
    return _registry(pytestconfig)


@pytest.fixture(scope="session")
def disheap_tables(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """The plugin tables, as `Registry.build` takes them: kind -> name -> settings."""
    from disheap.plugins.settings import Text

    tables: Tables = {kind: {} for kind in _KINDS}
    for item in pytestconfig.getoption("--disheap-set"):
        path, equals, value = item.partition("=")
        kind, name, key = [*path.split(".", 2), "", "", ""][:3]
        if not (equals and key and kind in tables):
            raise pytest.UsageError(f"--disheap-set {item}: write KIND.NAME.KEY=VALUE, with a KIND of {_KINDS}")
        tables[kind].setdefault(name, {})[key] = Text(value, f"--disheap-set {path}")
    if "certfile" not in tables["transport"].get("tls", {}) and find_spec("cryptography"):
        tables["transport"]["tls"] = _certificates(tmp_path_factory) | tables["transport"].get("tls", {})
    return tables


def _certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from disheap.testing.certificates import Authority

    return dict(Authority(tmp_path_factory.mktemp("certificates")).issue("node"))


@pytest.fixture
def transport_factory(
    disheap_registry: Registry, disheap_tables: Tables, transport_name: str
) -> Callable[[asyncio.AbstractEventLoop], Transport]:
    """Builds the transport under test for a loop: `transport_factory(loop)`."""
    from disheap.interfaces import TransportContext

    if transport_name == "tls" and "certfile" not in disheap_tables["transport"].get("tls", {}):
        pytest.fail(
            "transport tls needs certificates, and making some needs the library cryptography: run `pip "
            "install cryptography`, or give --disheap-set transport.tls.certfile=..., keyfile and cafile",
            pytrace=False,
        )

    def build(loop: asyncio.AbstractEventLoop) -> Transport:
        built: Transport = disheap_registry.build(
            "transport", transport_name, disheap_tables["transport"], TransportContext(loop), "--disheap-set"
        )
        return built

    return build


@pytest.fixture
def listen_address(pytestconfig: pytest.Config) -> str:
    """Where the transport under test is to listen; port 0 lets it choose."""
    return str(pytestconfig.getoption("--disheap-listen"))


@pytest.fixture
def codec_factory(disheap_registry: Registry, disheap_tables: Tables, codec_name: str) -> Callable[..., Codec]:
    """A chain is named as in the settings: `--disheap-codec zstd+mine`. `codec_factory(seed)` draws otherwise."""
    from disheap.interfaces import CodecContext

    def build(seed: int = SEED) -> Codec:
        context = CodecContext(random.Random(seed))
        return disheap_registry.codec(codec_name, disheap_tables["codec"], context, "--disheap-set")

    return build


@pytest.fixture
def storage_factory(
    disheap_registry: Registry,
    disheap_tables: Tables,
    storage_name: str,
    codec_name: str,
    codec_factory: Callable[..., Codec],
) -> Callable[[Path | str], Storage]:
    """Builds the storage under test over a directory, with the codec under test: `storage_factory(directory)`."""
    from disheap.interfaces import StorageContext

    seeds = count(SEED)

    def build(directory: Path | str) -> Storage:
        seed = next(seeds)  # a storage that is opened again draws other keys and nonces than before
        context = StorageContext(str(directory), codec_factory(seed), codec_name, SystemClock(), random.Random(seed))
        built: Storage = disheap_registry.build(
            "storage", storage_name, disheap_tables["storage"], context, "--disheap-set"
        )
        return built

    return build


@pytest.fixture
def machine_factory(
    disheap_registry: Registry, disheap_tables: Tables, machine_name: str
) -> Callable[[], StateMachine]:
    """Builds the machine under test: `machine_factory()`."""
    from disheap.interfaces import MachineContext

    def build() -> StateMachine:
        tables = disheap_tables["machine"]
        built: StateMachine = disheap_registry.build("machine", machine_name, tables, MachineContext(), "--disheap-set")
        return built

    return build


@pytest.fixture
def service_factory(
    disheap_registry: Registry, disheap_tables: Tables, service_name: str
) -> Callable[[ServiceContext], Service]:
    """Returns a function that builds the service under test, with settings from the command line."""

    def build(context: ServiceContext) -> Service:
        built: Service = disheap_registry.build(
            "service", service_name, disheap_tables["service"], context, "--disheap-set"
        )
        return built

    return build


@pytest.fixture
def runner(loop_name: str) -> Iterator[asyncio.Runner]:
    """Runs a test's coroutines, in asyncio's own loop and in uvloop's. Needs no other pytest plugin."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop_name == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner

"""Every parser stands mutated input; what once broke one is a case for ever; and nothing is left behind by bad input.

A case is a file in `cases/<target>/`, named for what it was. `atheris_run.py` writes new ones there when it finds them.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from disheap.protocol import broker, frames
from disheap.protocol.frames import SECRET_BYTES, Fault, Kind, Status
from disheap.runtime.state.session_table import proof_of
from tests.fuzz.doubles import ServedNode
from tests.fuzz.mutate import mutate, mutated
from tests.fuzz.targets import TARGETS
from tests.support.nodes import Cluster
from tests.support.wire import WireClient

CASES = sorted((Path(__file__).parent / "cases").glob("*/*"))
DEEP = b"\x91" * 100_000
"""Arrays in arrays, deeper than any stack."""
SLOWEST_S = 2.0
"""For one small input, on a machine that is busy with other things; they take well below a millisecond."""
ROUNDS = 3
PER_ROUND = 400
GROWTH_OBJECTS = 200


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Each refusal is a line in the log; a million of them are of no use here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_good_input_is_taken(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.parent.name}/{case.name}" for case in CASES])
def test_what_once_broke_a_parser_breaks_it_no_more(case: Path) -> None:
    TARGETS[case.parent.name].run(case.read_bytes())


@pytest.mark.proof
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input_ends_in_the_typed_error_and_in_time(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=mutated(target.seeds))
    def check(data: bytes) -> None:
        begin = time.process_time()
        target.run(data)
        assert time.process_time() - begin < SLOWEST_S

    check()


@pytest.mark.proof
@pytest.mark.parametrize("name", TARGETS)
def test_bad_input_leaves_nothing_behind(name: str) -> None:
    """The inputs are the same in each round: after the first one the number of objects stands still."""
    target, counts = TARGETS[name], []
    inputs = [mutate(Random(number).choice(target.seeds), target.seeds, Random(number)) for number in range(PER_ROUND)]
    for _ in range(ROUNDS):
        for data in inputs:
            target.run(data)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[-2] < GROWTH_OBJECTS, f"objects after each round: {counts}"


# --- the same against a whole node, over a transport ---


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, nodes=1, machine="heap") as cluster:
        yield cluster


async def test_an_attach_nested_deeper_than_the_stack_is_refused(cluster: Cluster) -> None:
    """It was logged, and ended every node that applied it, at every start again."""
    client = await cluster.client()
    other = await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)
    status, body = await other.attach(client.session, client.secret, b"\x94\x90\x90\x90" + DEEP)
    assert (status, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, "invalid-argument")
    assert (await client.call(broker.encode(broker.CreateTopic("t"))))[0] == Status.OK
    assert cluster.nodes["n1"].failure is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x93\x12\x90" + DEEP, "invalid-argument"),  # a Recover with a field too many
        (b"\x93\x0b\xa1t\x97\xa3max\x00\x00\x00\xc2\xc2" + DEEP, "invalid-argument"),  # settings with one
        (b"\x92\x7b" + DEEP, "version-too-old"),  # a tag that no command has
        (b"\x96\x01\xa1\xff\xc4\x01x\x00\x00\x00", "unknown-command"),  # a name that is no text
    ],
)
async def test_an_unreadable_command_is_refused_the_same_however_deep_the_stack(
    cluster: Cluster, body: bytes, code: str
) -> None:
    """Whether a nested field can be read over depends on who reads: replicas would part."""
    client = await cluster.client()
    status, answer = await client.call(body)
    assert status == Status.ERROR
    assert msgspec.msgpack.decode(answer, type=Fault).code == code


def test_what_an_open_says_too_much_does_not_go_into_the_log() -> None:
    node = ServedNode()
    wire = node.connect()
    node.greet(wire)
    options = msgspec.msgpack.encode({"timeout_ms": 5000, "label": "x", "later": [1, 2, 3]})
    wire.receiver.data_received(frames.envelope(Kind.OPEN, 0, 0, 1, 0, options))
    logged = msgspec.msgpack.decode(frames.open_envelope(node.applied.data).body)
    assert logged == [5000, "x", "", wire.remote, proof_of(bytes(SECRET_BYTES))]


async def test_an_admin_request_that_is_no_text_or_too_deep_is_answered(cluster: Cluster) -> None:
    client = await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)
    for body in (b"\x81\xa2op\xa1\xff", b"\x81\xa2op" + DEEP):
        status, answer = await client.query(body, Kind.ADMIN)
        assert (status, msgspec.msgpack.decode(answer, type=Fault).code) == (Status.ERROR, "invalid-argument")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutated(TARGETS["client_connection"].seeds), opened=st.booleans())
async def test_mutated_frames_disturb_no_other_connection(cluster: Cluster, data: bytes, opened: bool) -> None:
    bystander = await cluster.client()
    mutant = await cluster.client() if opened else WireClient()
    if not opened:
        await cluster.transport.connect(cluster.nodes["n1"].client_address, mutant, 5)
    mutant.connection.write(data)
    mutant.close()
    await mutant.lost.wait()
    assert (await bystander.call(broker.encode(broker.CreateTopic("bystander"))))[0] == Status.OK
    bystander.close()
    await bystander.lost.wait()

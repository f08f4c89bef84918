"""What is checked in is what `broker.proto` gives."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from disheap import errors
from disheap_grpc import statuses
from disheap_grpc.server import UNARY
from disheap_grpc.settings import GrpcSettings
from disheap_grpc.v1 import broker_pb2 as pb

HERE = Path(__file__).parents[1]
PAGE = HERE.parents[1] / "docs/reference/grpc.md"


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", HERE / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert [path.name for path in made] == ["broker_pb2.py", "broker_pb2.pyi", "broker_pb2_grpc.py"]
    for path in made:
        assert (tmp_path / path).read_text() == (HERE / path).read_text(), "run contrib/disheap-grpc/generate.py"


def test_every_method_has_a_handler() -> None:
    services = pb.DESCRIPTOR.services_by_name.values()
    assert {method.name for service in services for method in service.methods} == {
        *UNARY, "Consume", "EnqueueStream",
    }  # fmt: skip


def test_every_error_of_a_request_has_a_status() -> None:
    """An error that nobody has thought of would be UNKNOWN."""
    members = {"UnknownMember", "NameTaken", "LastVoter", "QuorumAtRisk", "NotCaughtUp", "MemberAlive", "BackupLost"}
    internal = {"RequestError", "WrongSecret"}
    listed = tuple(kind for kind, _ in statuses.CODES)
    todo = [errors.RequestError]
    missing = set()
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if not issubclass(kind, listed):
            missing.add(kind.__name__)
    assert missing == members | internal


def test_what_may_have_been_done_is_never_unavailable() -> None:
    """Clients repeat what is UNAVAILABLE by themselves."""
    unavailable = {kind for kind, code in statuses.CODES if code.name == "UNAVAILABLE"}
    assert unavailable == {errors.NotLeader, errors.NotSent}


def test_the_page_has_every_status_and_every_setting() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    reasons = {row[1].strip(): set(re.findall(r"`([a-z-]+)`", row[2])) for row in rows if row[1].strip().isupper()}
    for kind, code in statuses.CODES:
        if issubclass(kind, errors.RequestError | errors.ProtocolError) and kind is not errors.CommandRefused:
            assert kind.code in reasons[code.name], (kind, code)
    settings = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row[1])}
    assert set(GrpcSettings.__struct_fields__) <= settings

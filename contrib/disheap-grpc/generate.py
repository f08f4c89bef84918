"""Makes the Python of `disheap_grpc/v1/broker.proto`: `python contrib/disheap-grpc/generate.py`. Needs grpcio-tools.

The result is checked in. `tests/test_grpc_generated.py` makes it again and compares.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
PROTO = "disheap_grpc/v1/broker.proto"


def generate(out: Path) -> None:
    """Writes `broker_pb2.py`, `broker_pb2.pyi` and `broker_pb2_grpc.py` below `out`. Raises `RuntimeError`."""
    includes = [f"-I{HERE}", f"-I{files('grpc_tools') / '_proto'}"]
    outs = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *includes, *outs, PROTO]) != 0:
        raise RuntimeError(f"{PROTO} could not be compiled")


if __name__ == "__main__":
    generate(HERE if len(sys.argv) < 2 else Path(sys.argv[1]))

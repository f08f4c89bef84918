"""Coverage-guided fuzzing: `python -m tests.fuzz.atheris_run [--target NAME] [--runs N] [--seconds S] [--corpus DIR]`.

Each target runs in a process of its own, for libFuzzer ends the process that it ran in. An input that breaks a parser
is kept as `cases/<target>/<hash>`, where the tests find it from then on. Exit code 1 where there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

CASES = Path(__file__).parent / "cases"
PACKAGES = ["disheap", "disheap_heap", "disheap_filelog", "disheap_codecs", "disheap_kombu"]
LONGEST_BYTES = 8192
MEMORY_MB = 1024
TIMEOUT_S = 20
"""For one input. libFuzzer ends the run beyond either."""


def main() -> int:
    options = _options()
    failed = []
    with tempfile.TemporaryDirectory(prefix="disheap-fuzz-") as kept:
        for name in options.target or _names():
            corpus = (options.corpus or Path(kept)) / name
            begin = time.monotonic()
            child = multiprocessing.get_context("spawn").Process(
                target=fuzz, args=(name, corpus, options.runs, options.seconds)
            )
            child.start()
            try:
                child.join()
            finally:
                child.kill()
            seconds = time.monotonic() - begin
            print(f"{name}: {'ended with ' + str(child.exitcode) if child.exitcode else 'passed'}, {seconds:.0f} s")
            if child.exitcode:
                failed.append(name)
    if failed:
        print(f"broken: {', '.join(failed)}; the inputs are in {CASES}")
    return 1 if failed else 0


def fuzz(name: str, corpus: Path, runs: int, seconds: int) -> None:
    """Never returns."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.blake2b(seed, digest_size=8).hexdigest()).write_bytes(seed)

    def run(data: bytes) -> None:
        try:
            target.run(data)
        except BaseException:
            keep(name, data)
            raise

    limits = [f"-runs={runs}", f"-max_len={LONGEST_BYTES}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={TIMEOUT_S}"]
    if seconds:
        limits.append(f"-max_total_time={seconds}")
    stray = f"-artifact_prefix={corpus}-"  # what libFuzzer writes itself: inputs that took too long, or too much memory
    atheris.Setup([f"fuzz {name}", *limits, "-print_final_stats=1", "-verbosity=1", stray, str(corpus)], run)
    atheris.Fuzz()


def keep(name: str, data: bytes) -> None:
    directory = CASES / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / hashlib.blake2b(data, digest_size=8).hexdigest()).write_bytes(data)


def _names() -> list[str]:
    from tests.fuzz.targets import TARGETS

    return list(TARGETS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.atheris_run", description="Coverage-guided fuzzing.")
    parser.add_argument("--target", action="append", help="one parser alone; may be repeated")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target; -1 is without end")
    parser.add_argument("--seconds", type=int, default=0, help="for each target; 0 is without limit")
    parser.add_argument("--corpus", type=Path, default=None, help="kept from run to run; else thrown away")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

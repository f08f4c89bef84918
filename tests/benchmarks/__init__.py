"""Benchmarks with pytest-benchmark: `tox -e benchmarks`. No test of the ordinary runs is in here."""

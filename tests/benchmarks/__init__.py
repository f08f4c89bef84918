"""Benchmarks. `seed` runs with pytest-benchmark (`tox -e benchmarks`), `peers` by itself (`tox -e peers`).

Of the ordinary runs, only the tests of `peers` are in here. Start reading at `peers`.
"""

"""The integration suites of kombu and Celery, run against a cluster of three nodes.

Nothing of kombu's or Celery's is in this repository. `sdist.py` takes their tests from the package registry, in the
version that is installed. `kombu_suite.py` and `celery_suite.py` are the commands. The pytest plugin `listed.py`
compares each outcome with the list in `celery_listed.toml`. Start reading at `suite.py`.
"""

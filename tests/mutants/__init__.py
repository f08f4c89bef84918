"""The mutation gate: every bug of the catalogue is put back, one at a time, and something has to notice.

    python -m tests.mutants --list                what there is, one a line
    python -m tests.mutants --run [NAME ...]      tests and simulator against these, or all; the table says what noticed
    python -m tests.mutants --run --fast          the half that unit tests catch within seconds

`catalogue` holds the bugs, each a small change of the product's source text. `planting` makes the change in memory
while the module is imported. `child` runs tests or seeds in a process of its own. `harness` judges, and `report` tells.
"""

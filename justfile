# The checks by short names, for `just`: `just fast`, `just all`.

fast:      # tests of a change: those that failed before, then all that are quick
    pytest --failed-first
slow:      # the long tests
    pytest -m slow
lint:
    ruff check && ruff format --check && mypy
docs:      # the documentation as a site, made anew at every change
    mkdocs serve
all:       # what must pass before a merge, in a fresh environment
    .ci/run

# Short names of the checks for `just`: `just fast`, `just all`.

fast:      # fast tests, previously failed ones first
    pytest --failed-first
slow:      # slow tests
    pytest -m slow
lint:
    ruff check && ruff format --check && mypy
docs:      # the documentation site, rebuilt after every change
    mkdocs serve
all:       # all checks in a new environment; required before a merge
    .ci/run

"""The tests; a package so that ``python -m tests.fuzz`` finds ours where something else is installed under that name."""

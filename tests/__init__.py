"""The tests; a package so that ``python -m tests.mutation`` finds ours where something else is installed under that name."""

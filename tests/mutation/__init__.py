"""Faults put into the library one at a time, each of which some test must see: ``python -m tests.mutation --help``."""

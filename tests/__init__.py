"""The tests; a package, so that its conftest and that of a folder below have names of their own."""

"""Calls over the whole public API, drawn at random and judged by the oracle: ``python -m tests.fuzz --help``.

Each call either gives what :mod:`scbn.reference` gives in float64 or raises our documented ``ValueError``; all else is a
finding. A call is drawn from its seed and number alone, so that any finding can be called again.
"""

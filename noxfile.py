"""The project's commands as nox sessions: ``nox -l`` lists them, CONTRIBUTING.md describes them."""

from __future__ import annotations

import nox

# An installation of torch per session would take gigabytes, so all run in the active environment.
# ``nox -fb venv`` gives each a fresh one.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "docs", "smoke"]


def install(session: nox.Session, *what: str) -> None:
    """Into the session's own environment; the active one is left as it is."""
    if session.venv_backend != "none":
        session.install(*what)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; what follows -- goes to pytest in the place of -n 2."""
    install(session, "-e", ".[dev]")
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "2"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Lint and format, changing nothing."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, as pyright sees them."""
    install(session, "-e", ".[dev]")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in site/; a warning is an error."""
    install(session, "-e", ".[dev]")
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def smoke(session: nox.Session) -> None:
    """Build the release and try it in a clean environment; a folder named after -- keeps the files."""
    install(session, "-e", ".[dev]")
    session.run("python", ".ci/smoke.py", *session.posargs)


@nox.session(venv_backend="none")
def matrix(session: nox.Session) -> None:
    """The library's tests under several releases of torch; name others after --."""
    session.run("bash", ".ci/matrix", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Mutation testing of the library; see -- --help."""
    install(session, "-e", ".[dev,mutation]")
    session.run("python", ".ci/mutate.py", *session.posargs)

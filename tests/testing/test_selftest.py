"""``python -m scbn.testing``: its table says what is right, and finds what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scbn import ops
from scbn.ops.cpu import word
from scbn.testing import __main__ as command
from scbn.testing import selftest


@pytest.fixture(autouse=True)
def _without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "interpreted", lambda: False)  # whose kernels other tests run, slowly


def test_a_sound_machine_passes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--device", "cpu", "--no-times", "--out", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    assert "36 of 36 passed" in out and max(map(len, out.splitlines())) <= 100
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["machine"]["torch"] == torch.__version__
    tried = {(row["backend"], row["cue"], row["dtype"], row["layout"]) for row in report["rows"]}
    assert len(tried) == len(report["rows"]) == 36
    ran = {row["ran"] for row in report["rows"] if row["backend"] == "cpu" and row["layout"] == "contiguous"}
    assert ran == {"cpu"}
    assert all(0 <= row["backward"] <= row["allowed"] for row in report["rows"])


def test_float64_is_exact() -> None:
    for row in selftest.rows(torch.device("cpu"), timed=False):
        if row.dtype == "float64":
            assert max(row.forward, row.backward) < 1e-12
        elif row.dtype == "float32":
            assert 1e-9 < max(row.forward, row.backward) < 2e-5  # of single precision indeed


@pytest.mark.parametrize(("name", "where", "part"), [("forward", None, "forward"), ("backward", 2, "backward")])
def test_a_wrong_kernel_fails(
    name: str, where: int | None, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = getattr(word, name)

    def off(*arguments):
        found = real(*arguments)
        if where is None:
            return found + 0.01
        return tuple(value * (1.01 if i == where else 1) for i, value in enumerate(found))

    monkeypatch.setattr(word, name, off)
    assert command.main(["--device", "cpu", "--no-times"]) == 1
    out = capsys.readouterr().out
    assert "please report this table" in out
    rows = list(selftest.rows(torch.device("cpu"), timed=False))
    wrong = {(row.backend, row.cue, row.dtype) for row in rows if not row.passed}
    assert wrong == {("cpu", cue, dtype) for cue in ("word", "both") for dtype in ("float32", "float64")}
    assert all(getattr(row, part) > row.allowed for row in rows if not row.passed)


def test_what_is_raised_stands_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments):
        raise RuntimeError("out of resources\nmany lines")

    monkeypatch.setattr(word, "forward", fail)
    assert command.main(["--device", "cpu", "--no-times"]) == 1
    assert "FAILED: RuntimeError: out of resources\n" in capsys.readouterr().out
    failed = selftest.Row("cpu", "word", "float32", "contiguous", trouble="x")
    assert "NaN" not in json.dumps(failed.as_dict())
    titles, values = (
        selftest.Row.HEAD,
        selftest.Row("cpu", "word", "float32", "contiguous", "cpu", 1, 2, 3, 4.0).line(),
    )
    for title, value in (("forward", "1.0e+00"), ("backward", "2.0e+00"), ("allowed", "3.0e+00"), ("x BN", "4.0")):
        assert titles.index(title) + len(title) == values.index(value) + len(value)
    nan = [torch.tensor([float("nan")])]
    assert selftest._error(nan, [torch.ones(1)]) == float("inf")


def test_times_are_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_TIMED", (1, 4, 4, 4))
    row = next(selftest.rows(torch.device("cpu")))
    assert row.times is not None and row.times > 0
    assert len(row.line()) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "nonsense"], "--device nonsense"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--out", "/no/such/folder/x.json"], "--out /no/such/folder/x.json: No such file or directory"),
        (["--out", "."], "name a file that is not there yet"),
        (["--device", "meta"], "--device meta"),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert message in capsys.readouterr().err

"""What a retrofit reports."""

from __future__ import annotations

from helpers.models import Small, text_of

import scbn


def test_the_report_as_printed() -> None:
    report = scbn.retrofit(Small(), {"first": "word"}, text=text_of, word_dim=5)
    assert str(report).splitlines() == [
        "Small: 1 of 2 norms replaced, 42 new parameters",
        "  name   class        channels  cue",
        "  first  BatchNorm2d         3  word",
        "  later  BatchNorm2d         3  -",
    ]
    groups = report.parameter_groups(lr=0.1, new_lr=0.2, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"], sum(p.numel() for p in g["params"])) for g in groups] == [
        (0.1, 0.3, 12),
        (0.2, 0.3, 42),
    ]
    assert [g["lr"] for g in report.parameter_groups(lr=0.1)] == [0.1, 0.1]
    assert [norm.name for norm in report.skipped] == ["later"]

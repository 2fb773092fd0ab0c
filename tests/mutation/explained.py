"""Faults that no test can see, or none that the quick tests hold, and why."""

from __future__ import annotations

NOBODY_SEES = "the program computes the same"
ELSEWHERE = "seen by a test that is too slow for every fault: "
EXPLAINED: dict[tuple[str, str, str], str] = {
    (
        "scbn/ops/__init__.py",
        "x.dtype not in (torch.float32, torch.bfloat16, torch.float16)",
        "x.dtype in (torch.float32, torch.bfloat16, torch.float16)",
    ): f"{ELSEWHERE}tests/test_triton.py",
    (
        "scbn/ops/__init__.py",
        "torch.cuda.get_device_properties(x.device).major >= 8",
        "torch.cuda.get_device_properties(x.device).major > 8",
    ): "only a GPU of sm_80 would tell",
    ("scbn/retrofit_report.py", "3", "4"): f"{NOBODY_SEES}: the width of a last column that is not padded",
    ("scbn/ops/__init__.py", "'cpu'", "'cpuX'"): f"{ELSEWHERE}tests/test_triton.py",
    (
        "scbn/binding.py",
        "depth - 1",
        "depth + 1",
    ): f"{NOBODY_SEES}: what a method belongs to is a module, and no further",
    ("scbn/ops/tiles.py", "1", "2"): f"{NOBODY_SEES}: tiles of another size",
    ("scbn/ops/fused_sentence.py", "True", "False"): f"{NOBODY_SEES}: zip(strict=True) over three and three",
    ("scbn/ops/fused_sentence.py", "2", "3"): f"{ELSEWHERE}tests/test_distributed.py",
    ("scbn/ops/fused_word.py", "2", "3"): f"{ELSEWHERE}tests/test_distributed.py",
    ("scbn/ops/tiled_word.py", "True", "False"): f"{NOBODY_SEES}: a sum broadcasts as well without its axis",
    (
        "scbn/ops/__init__.py",
        "torch.version.cuda is not None",
        "torch.version.cuda is None",
    ): "only a GPU would tell",
    ("scbn/ops/__init__.py", "0", "1"): f"{NOBODY_SEES}: a map of one value takes another path",
    ("scbn/ops/__init__.py", "not _TRITON", "not not _TRITON"): f"{ELSEWHERE}tests/test_triton.py",
    ("scbn/ops/composed.py", "True", "False"): f"{ELSEWHERE}the gradgradcheck of tests/test_behaviour.py",
    ("scbn/ops/composed.py", "0.0", "1.0"): f"{NOBODY_SEES}: a momentum without running statistics to move",
    ("scbn/ops/fused_sentence.py", "False", "True"): f"{NOBODY_SEES}: zeros are filled in that nobody reads",
    ("scbn/ops/fused_word.py", "False", "True"): f"{NOBODY_SEES}: zeros are filled in that nobody reads",
    ("scbn/loss.py", "True", "False"): f"{NOBODY_SEES}: zip(strict=True) over lists of one length, checked before",
    (
        "scbn/ops/tiled_sentence.py",
        "slope is not None and offset is not None",
        "slope is not None or offset is not None",
    ): f"{NOBODY_SEES}: both are there, or neither",
}


def why_equal(file: str, before: str, after: str) -> str | None:
    """The explanation of a surviving fault, if there is one."""
    return EXPLAINED.get((file, before, after))

"""Faults that no test can see, and why."""

from __future__ import annotations

SAME = "the program computes the same: "
ONE_LENGTH = f"{SAME}zip(strict=True) over what has one length"
ZEROS = f"{SAME}zeros are filled in that nobody reads; it costs a GPU three launches"
# File, what its statement holds, before, after.
EXPLAINED: dict[tuple[str, str, str, str], str] = {
    (
        "scbn/retrofitting/report.py",
        "range(3)",
        "3",
        "4",
    ): f"{SAME}the width of a last column that is not padded",
    (
        "scbn/retrofitting/replace.py",
        "STOOD_FOR = ",
        "'_scbn_stood_for'",
        "'_scbn_stood_forX'",
    ): f"{SAME}a name of our own",
    (
        "scbn/ops/dispatch.py",
        "x.numel() > 0",
        "0",
        "1",
    ): f"{SAME}a map of one value takes another path",
    (
        "scbn/ops/dispatch.py",
        "get_device_properties",
        "torch.cuda.get_device_properties(x.device).major >= 8",
        "torch.cuda.get_device_properties(x.device).major > 8",
    ): "only a GPU of sm_80 would tell",
    (
        "scbn/ops/dispatch.py",
        "torch.version.cuda",
        "torch.version.cuda is not None",
        "torch.version.cuda is None",
    ): "only a GPU would tell",
    (
        "scbn/retrofitting/binding.py",
        "__self__",
        "depth - 1",
        "depth + 1",
    ): f"{SAME}what a method belongs to is a module, and no further",
    ("scbn/ops/cpu/tiles.py", "VALUES", "1", "2"): f"{SAME}tiles of another size",
    ("scbn/ops/cpu/word.py", "keepdim", "True", "False"): f"{SAME}a sum broadcasts as well without its axis",
    ("scbn/ops/sentence.py", "zip", "True", "False"): ONE_LENGTH,
    ("scbn/ops/word.py", "zip", "True", "False"): ONE_LENGTH,
    ("scbn/loss.py", "zip", "True", "False"): ONE_LENGTH,
    ("scbn/generator/tree.py", "zip", "True", "False"): ONE_LENGTH,
    ("scbn/ops/sentence.py", "set_materialize_grads", "False", "True"): ZEROS,
    ("scbn/ops/word.py", "set_materialize_grads", "False", "True"): ZEROS,
    (
        "scbn/ops/sentence.py",
        "set_materialize_grads",
        "ctx.set_materialize_grads(False)",
        "None",
    ): ZEROS,
    ("scbn/ops/word.py", "set_materialize_grads", "ctx.set_materialize_grads(False)", "None"): ZEROS,
    ("scbn/ops/word.py", "tensors[-1].dtype", "1", "2"): f"{SAME}scale and shift are of one type",
    (
        "scbn/ops/eager.py",
        "F.batch_norm",
        "0.0",
        "1.0",
    ): f"{SAME}a momentum without running statistics to move",
    (
        "scbn/sentence.py",
        "masked_fill",
        "0",
        "1",
    ): f"{SAME}what an empty caption's sentence is replaced with is not used, its modulation is masked",
    (
        "scbn/ops/cpu/sentence.py",
        "slope",
        "slope is None or offset is None",
        "slope is None and offset is None",
    ): f"{SAME}both are there, or neither",
}


def why_equal(file: str, within: str, before: str, after: str) -> str | None:
    """The explanation of a surviving fault, if there is one."""
    found = (why for (f, w, b, a), why in EXPLAINED.items() if (f, b, a) == (file, before, after) and w in within)
    return next(found, None)

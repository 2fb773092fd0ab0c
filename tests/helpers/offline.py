"""Compile every Triton kernel for GPUs that are not here, and print what each takes; run by test_triton_offline.py.

A process of its own, because the tests interpret Triton's kernels and this one must not.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from scbn.ops.triton import common, sentence_kernels
from scbn.ops.triton import word_kernels as kernels
from scbn.ops.triton.launch import FUSED, product_settings, word_blocks

POINTERS = {"x", "y", "dy", "dx"}
FLOATS = {"eps", "factor", "scale", "share"}
NATURALS = {
    "positions", "channels", "words", "length", "chunks", "parts", "plane",
    "stride_n", "stride_p", "stride_c", "stride_weight",
}  # fmt: skip
# What the launcher marks as a multiple of 16 at the shapes of generators; without it loads are scalar.
SIXTEENS = {"positions", "channels", "length", "stride_n", "stride_p", "stride_c", "stride_weight"}


def usage(
    kernel,
    dtype: str,
    capability: int,
    warps: int,
    contiguous: bool,
    stages: int = 3,
    ones: bool = False,
    odd: bool = False,
    **constants,
) -> dict[str, int]:
    """Registers of a thread, bytes of its stack (what it spills lies there) and shared bytes of a program."""
    signature, fixed, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], fixed[(i,)] = "constexpr", constants[name]
        elif name == ("stride_p" if contiguous else "stride_c") or (ones and name in NATURALS):
            signature[name], fixed[(i,)] = "constexpr", 1
        elif name in NATURALS:
            signature[name] = "i32"
            if name in SIXTEENS and not odd:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif name in FLOATS:
            signature[name] = "fp32"
        else:
            table = {"keys", "gamma", "beta", "dkeys", "dgamma", "dbeta", "scratch"}
            partial = name in {"mean", "squares"} and kernel.__name__.startswith("statistics")
            kind = (
                "fp64" if partial else dtype if name in POINTERS or (name in table and dtype == "bf16") else "fp32"
            )
            signature[name] = "*u8" if name == "padding" else f"*{kind}"
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    built = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages, **FUSED},
    )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", found)}
    return {
        "registers": values["REG"],
        "spilled": values["STACK"] + values["LOCAL"],
        "shared": built.metadata.shared,
    }


def word_kernels(
    channels: int,
    kind: str,
    capability: int,
    words: int = 18,
    contiguous: bool = True,
    ones: bool = False,
    odd: bool = False,
):
    """Name and usage of the word cue's kernels as they would be launched.

    ``ones``: with every size 1, which the launcher makes a constant, whose type then is no tensor's. ``odd``: with sizes
    that 16 does not divide.
    """
    k, dtype = kernels, "bf16" if kind == "bf16" else "fp32"
    slots, (apply, reduce, dx) = word_blocks(words, channels, kind, divmod(capability, 10), odd)
    shared = {"WORDS": slots, "HAS_PADDING": True}
    for kernel, block, more in (
        (k.word_apply, apply, {}),
        (k.word_reduce, reduce, {"NARROW": channels <= reduce.channels}),
        (k.word_dx, dx, {"OF_BATCH": True}),
    ):
        sizes = {"BLOCK_P": block.positions, "BLOCK_C": block.channels, **shared, **product_settings(kind), **more}
        yield kernel.__name__, usage(kernel, dtype, capability, block.warps, contiguous, 1, ones, odd, **sizes)
    yield "word_finish", usage(k.word_finish, dtype, capability, 4, contiguous, 3, ones, odd, BLOCK_C=32, **shared)


def other_kernels(dtype: str, capability: int, contiguous: bool, ones: bool = False, odd: bool = False):
    """Name and usage of the kernels without words, at their largest tile."""
    s, block = sentence_kernels, {"BLOCK_P": 512 if contiguous else 64, "BLOCK_C": 8 if contiguous else 64}
    stats = {"BLOCK_P": 1024 if contiguous else 64, "BLOCK_C": 4 if contiguous else 64}
    for kernel, more in (
        (common.statistics_partial, stats),
        (common.statistics_merge, {"BLOCK_S": 64, "BLOCK_C": 16}),
        (s.sentence_apply, block),
        (s.sentence_reduce, block),
        (s.sentence_finish, {"BLOCK_S": 16, "BLOCK_C": 64}),
        (s.sentence_dx, {**block, "OF_BATCH": True}),
    ):
        yield kernel.__name__, usage(kernel, dtype, capability, 4, contiguous, 3, ones, odd, **more)


def main() -> None:
    """A line of JSON for every kernel; arguments ``capability kind layout words C...``; 16 divides C, or no size."""
    capability, kind, layout, words, *channels = sys.argv[1:]
    contiguous = layout == "contiguous"
    for c in map(int, channels):
        for name, found in word_kernels(c, kind, int(capability), int(words), contiguous, odd=c % 16 != 0):
            print(json.dumps({"kernel": name, "channels": c, **found}), flush=True)
    dtype = "bf16" if kind == "bf16" else "fp32"
    # Types do not differ between GPUs: sizes of 1 are tried for one of them.
    for ones in (False, True) if capability == "90" else (False,):
        single = word_kernels(1, kind, int(capability), 1, contiguous, True) if ones else ()
        for name, found in (*other_kernels(dtype, int(capability), contiguous, ones), *single):
            print(json.dumps({"kernel": name, "channels": int(ones), **found}), flush=True)
    if any(c % 16 for c in map(int, channels)):
        for name, found in other_kernels(dtype, int(capability), contiguous, odd=True):
            print(json.dumps({"kernel": name, "channels": 2, **found}), flush=True)


if __name__ == "__main__":
    main()

"""scbn.testing: our norms keep the contract, broken norms are found out, strategies give what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.broken_norms import BROKEN, CountsTwice, Sound, UsesPadding
from helpers.cases import SENTENCE_DIM, WORD_DIM
from hypothesis import find, given, settings
from torch import nn

from scbn import SentenceSCBN, TextFeatures, WordSCBN, ops, testing
from scbn.testing import strategies

ROOT = Path(__file__).resolve().parents[2]
BOTH = {"word_dim": WORD_DIM, "sentence_dim": SENTENCE_DIM}
NORMS = {
    "sentence": (lambda channels: SentenceSCBN(channels, SENTENCE_DIM), {"sentence_dim": SENTENCE_DIM}),
    "word": (lambda channels: WordSCBN(channels, WORD_DIM), {"word_dim": WORD_DIM}),
    "both": (Sound, BOTH),
}
SLOW = ("compiles", "exports")


@pytest.mark.parametrize("check", testing.CHECKS, ids=str)
@pytest.mark.parametrize("cue", NORMS)
def test_our_norms_keep_the_contract(cue: str, check: testing.Check) -> None:
    make, dims = NORMS[cue]
    check(make, **dims)


@pytest.mark.parametrize("cue", NORMS)
def test_our_norms_keep_it_on_the_cpu_backend(cue: str) -> None:
    make, dims = NORMS[cue]
    with ops.use_backend("cpu"):
        testing.check_conditional_norm(make, **dims, skip=SLOW)


@pytest.mark.parametrize(("rule", "norm"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_norm_is_found_out(rule: str, norm: type[nn.Module]) -> None:
    (check,) = (check for check in testing.CHECKS if check.name == rule)
    with pytest.raises(testing.BrokenContract, match=f"^{norm.__name__} breaks the rule '{rule}': ") as caught:
        check(norm, **BOTH)
    assert check.rule in str(caught.value)
    assert caught.value.rules == (rule,)


def test_every_rule_has_a_norm_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == {check.name for check in testing.CHECKS}


def test_all_broken_rules_are_told_at_once() -> None:
    class Two(UsesPadding, CountsTwice):
        pass

    with pytest.raises(testing.BrokenContract, match="rules are broken") as caught:
        testing.check_conditional_norm(Two, **BOTH, skip=(*SLOW, "copies"))
    assert {"padding", "running_statistics"} <= set(caught.value.rules)
    for rule in caught.value.rules:
        assert f"Two breaks the rule '{rule}'" in str(caught.value)
    assert "copies" not in caught.value.rules
    testing.check_conditional_norm(Two, **BOTH, skip=(*SLOW, "copies", *caught.value.rules))


def test_checks_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    testing.CHECKS[0](Sound, **BOTH)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: testing.check_conditional_norm(Sound), "pass word_dim.*sentence_dim"),
        (lambda: testing.check_conditional_norm(Sound, **BOTH, skip=("pading",)), "the rules are .*'padding'"),
        (lambda: testing.check_conditional_norm(Sound, **BOTH, skip="padding"), "skip must hold names"),
        (lambda: testing.check_conditional_norm(Sound(6), **BOTH), "every check needs a new norm: pass lambda"),
    ],
)
def test_what_cannot_be_checked_says_so(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@given(strategies.conditional_inputs(channels=3, **BOTH, poison=True))
def test_strategies_feed_a_norm(inputs: tuple[torch.Tensor, TextFeatures]) -> None:
    x, text = inputs
    if x.numel() == x.shape[1]:
        return
    y = Sound(3)(x, text)
    assert y.shape == x.shape
    assert y.isfinite().all()


@given(strategies.text_features(2, word_dim=3, empty_captions=False))
def test_captions_that_must_hold_a_word_do(text: TextFeatures) -> None:
    assert text.sentence is None
    assert text.words.shape[::2] == (2, 3)
    assert text.padding_mask is None or not text.padding_mask.all(1).any()


@pytest.mark.parametrize(
    "wanted",
    [
        lambda x, text: x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous(),
        lambda x, text: 0 in x.stride(),
        lambda x, text: x.mT.is_contiguous() and not x.is_contiguous(),
        lambda x, text: x.stride(-1) == 2,
        lambda x, text: x.storage_offset() > 0,
        lambda x, text: x.movedim(0, -1).is_contiguous() and not x.is_contiguous(),
        lambda x, text: 0 in text.words.stride(),
        lambda x, text: text.words.mT.is_contiguous() and not text.words.is_contiguous(),
        lambda x, text: text.padding_mask is None,
        lambda x, text: text.padding_mask is not None and text.padding_mask.all(1).any(),
        lambda x, text: text.words.isnan().any() and text.sentence.isnan().any(),
        lambda x, text: (
            text.padding_mask is not None and (text.padding_mask & ~text.padding_mask.cummin(1)[0]).any()
        ),
    ],
)
def test_strategies_reach(wanted) -> None:
    inputs = strategies.conditional_inputs(channels=4, **BOTH, poison=True)
    x, text = find(inputs, lambda drawn: bool(wanted(*drawn)), settings=settings(max_examples=500, database=None))
    assert len(text.words) == len(x)


@given(strategies.shapes(spatial_axes=(0, 3), batch=(0, 2)))
def test_shapes_have_the_axes_asked_for(shape: tuple[int, ...]) -> None:
    assert 2 <= len(shape) <= 5
    assert 0 <= shape[0] <= 2


@pytest.mark.parametrize("wanted", [torch.isnan, torch.isinf, lambda x: x == 0, lambda x: x.abs() > 1e20])
def test_maps_may_hold_poison(wanted) -> None:
    maps = strategies.feature_maps((2, 2, 3, 3), poison=True)
    find(maps, lambda x: bool(wanted(x).any()), settings=settings(max_examples=1000, database=None))


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_shapes_may_have_empty_axes(axis: int) -> None:
    drawn = strategies.shapes(empty_axes=True)
    found = find(drawn, lambda shape: shape[axis] == 0, settings=settings(max_examples=1000, database=None))
    assert found[1] == 1


@pytest.mark.parametrize("kind", strategies.MISTAKES)
def test_a_mistake_is_what_it_says(kind: str) -> None:
    right = torch.ones(2, 3)

    @given(strategies.mistakes(right, kinds=[kind], ranks=(4,), axes=(1,)))
    def look(wrong: object) -> None:
        if not isinstance(wrong, torch.Tensor):
            assert kind == ("missing" if wrong is None else "type")
            return
        assert (wrong.dim() not in (2, 4)) == (kind == "rank")
        assert (wrong.shape in ((2, 2), (2, 4))) == (kind == "size")
        assert (wrong.dtype != right.dtype) == (kind == "dtype")
        assert wrong.is_meta == (kind == "device")
        assert wrong.is_sparse == (kind == "sparse")

    look()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: strategies.feature_maps(layouts=["diagonal"]), r"layouts must be of .*got \['diagonal'\]"),
        (lambda: strategies.text_features(2, layouts=["diagonal"]), r"layouts must be of .*got \['diagonal'\]"),
        (lambda: strategies.mistakes(torch.ones(1), kinds=["colour"]), r"kinds must be of .*got \['colour'\]"),
    ],
)
def test_names_that_there_are_not_are_refused(wrong, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(wrong(), lambda drawn: True)


def test_checks_run_without_hypothesis_and_strategies_say_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import scbn; assert 'scbn.testing' not in sys.modules\n"
        "import scbn.testing as t\n"
        "t.CHECKS[0](lambda c: scbn.SentenceSCBN(c, 5), sentence_dim=5)\n"
        "try: t.strategies\n"
        "except ImportError as e: print(e)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "needs hypothesis: pip install hypothesis" in told.stdout, told.stderr


def test_the_page_lists_every_rule() -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert listed == [check.name for check in testing.CHECKS]

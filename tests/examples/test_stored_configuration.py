"""The configuration that a checkpoint stores, changed by hand or from another version: each wrong option is named."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from examples.sdgan.config import Config, EncoderOptions, from_json


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": "32"}, "the stored option size must be int, got '32'"),
        ({"size": 32.0}, r"the stored option size must be int, got 32\.0"),
        ({"steps": True}, "the stored option steps must be int, got True"),
        ({"steps": -1}, "--steps must be at least 1"),
        ({"size": 48}, "--size must be a power of two"),
        ({"seed": None}, "the stored option seed must be int, got None"),
        ({"resume": 1}, "the stored option resume must be bool, got 1"),
        ({"data": "imagenet"}, "the stored option data must be Literal.* got 'imagenet'"),
        ({"data": ["toy"]}, "the stored option data must be Literal"),
        ({"root": 3}, "the stored option root must be Path, got 3"),
        ({"out": None}, "the stored option out must be Path, got None"),
        ({"kl_weight": math.nan}, "the stored option kl_weight must be float, got nan"),
        ({"kl_weight": True}, "the stored option kl_weight must be float, got True"),
        ({"kl_weight": "1"}, "the stored option kl_weight must be float, got '1'"),
        ({"encoder": None}, "the stored encoder must be a JSON object, got None"),
        ({"encoder": {"dimm": 3}}, r"unknown options \['dimm'\] in the stored configuration of EncoderOptions"),
        ({"encoder": {"dim": "8"}}, "the stored option encoder.dim must be int, got '8'"),
        (
            {"generator": {"channels": 8}},
            r"the stored option generator.channels must be tuple\[int, \.\.\.\], got 8",
        ),
        ({"generator": {"channels": [8, 8.5]}}, r"the stored option generator.channels must be int, got 8\.5"),
        ({"generator": {"channels": []}}, "--generator.channels needs a number for each stage"),
        ({"generator": {"betas": [0.5]}}, r"the stored option generator.betas must be tuple\[float, float\]"),
        (
            {"generator": {"betas": [0.5, 0.9, 1]}},
            r"the stored option generator.betas must be tuple\[float, float\]",
        ),
        ({"generator": {"betas": "ab"}}, r"the stored option generator.betas must be tuple\[float, float\]"),
        ({"colour": "red"}, r"unknown options \['colour'\] in the stored configuration of Config"),
    ],
)
def test_options_of_the_wrong_type_are_named(change: dict[str, Any], reason: str) -> None:
    values = {**json.loads(Config().to_json()), **change}
    with pytest.raises(ValueError, match=reason):
        from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[" * 1_000_000, "1" * 10_000, "null", '"size"', "[1]", "NaN"])
def test_configurations_that_are_none_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the stored configuration (is not JSON|must be a JSON object)"):
        from_json(text)


def test_what_the_command_line_takes_comes_back() -> None:
    config = Config(root=Path("birds"), kl_weight=1, encoder=EncoderOptions(text_clip=math.inf))
    assert from_json(config.to_json()) == config
    assert from_json("{}") == Config()
    assert os.fspath(config.root or "") == "birds"

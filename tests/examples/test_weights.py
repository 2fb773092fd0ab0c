"""Files of weights as others save them: found in every wrapping, named where there are none, and checked when loaded."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.miniature import shrink
from safetensors.torch import save_file
from test_attngan import TINY, small
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import get_model

from examples.attngan import retrofit
from examples.attngan.hosts import HostError, build_host, load_weights
from examples.sdgan.metrics import fid
from examples.sdgan.models.checkpoint import is_finite, reason_of
from examples.sdgan.models.encoders import InceptionImageEncoder
from examples.sdgan.models.weights import WeightsError, read_weights, state_dict_for

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
State = dict[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def averaged(state: State) -> Any:
    model = small()
    model.load_state_dict(state)
    return AveragedModel(model).state_dict()


def old(state: State) -> Any:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def inner(state: State) -> Any:
    """Submodules compiled one by one."""
    return {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "torch.compile": prefixed("_orig_mod."),
    "torch.compile of DDP": prefixed("_orig_mod.module."),
    "DDP of torch.compile": prefixed("module._orig_mod."),
    "submodules compiled": inner,
    "an averaged model": averaged,
    "an averaged model, compiled, in a dict": lambda s: {"g_ema": prefixed("_orig_mod.")(averaged(s)), "step": 3},
    "g_ema": lambda s: {"g_ema": s},
    "beside others": lambda s: {"d": {"weight": torch.ones(3)}, "g_ema": s, "optim": {"state": {0: {"a": torch.ones(2)}}}},
    "Lightning": lambda s: {"state_dict": {**prefixed("generator.")(s), "discriminator.w": torch.ones(2)}, "epoch": 1},
    "dicts in dicts": lambda s: {"models": {"G": {"weights": s}}},
    "before PyTorch 0.4.1": old,
    "an adapter's": prefixed("host."),
    "FSDP": prefixed("_fsdp_wrapped_module."),
    "activation checkpointing": lambda s: {n.replace(".", "._checkpoint_wrapped_module.", 1): v for n, v in s.items()},
    "in a tuple": lambda s: ({"epoch": 3}, s),
    "in a list in a dict": lambda s: {"models": [{"d": torch.ones(2)}, s]},
    "beside one of other shapes": lambda s: {"netG": {n: torch.ones(3) for n in s}, "later": s},
    "float64": lambda s: {n: v.double() for n, v in s.items()},
    "with numbers beside": lambda s: {**s, "epoch": 3},
}  # fmt: skip


@pytest.mark.parametrize("how", LAYOUTS)
def test_every_wrapping_is_taken_off(how: str, tmp_path: Path) -> None:
    source, target = small(), small()
    torch.save(LAYOUTS[how](source.state_dict()), tmp_path / "g.pth")
    load_weights(target, tmp_path / "g.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_safetensors_are_read(tmp_path: Path) -> None:
    source, target = small(), small()
    save_file(
        {name: value.contiguous() for name, value in source.state_dict().items()}, tmp_path / "g.safetensors"
    )
    load_weights(target, tmp_path / "g.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_module_whose_own_names_look_like_wrappings() -> None:
    host = nn.ModuleDict({"module": nn.Linear(2, 2), "net": nn.Linear(2, 2)})
    for state in (host.state_dict(), prefixed("module.")(host.state_dict())):
        assert state_dict_for(host.state_dict(), state).state.keys() == host.state_dict().keys()


def test_of_several_that_fit_the_one_taken_is_told(tmp_path: Path) -> None:
    first, second, host = small(), small(), small()
    torch.save({"g": first.state_dict(), "g_ema": second.state_dict()}, tmp_path / "g.pth")
    assert load_weights(host, tmp_path / "g.pth") == "g_ema"
    assert torch.equal(next(host.parameters()), next(second.parameters()))


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda s: {"weird": {"a.b": torch.ones(1), "c": torch.ones(1)}}, r"found in 'weird' 'a.b', 'c'; expected such"),
        (lambda s: {"epoch": 3, "note": "x"}, r"neither a state dict nor .* but a dict of 'epoch', 'note'"),
        (lambda s: {}, "but a dict of nothing"),
        (lambda s: dict([*s.items()][:-3]), r"fit this generator: it has \d names missing, such as 'h_net2.*--train"),
        (lambda s: {**s, "h_net3.w": torch.ones(1)}, r"does not fit this generator: it has 1 unknown ones, .*'h_net3"),
        (lambda s: {**s, "ca_net.fc.bias": torch.ones(3)}, r"has 1 of other shapes, such as 'ca_net.fc.bias' is \(3,\), must"),
        (lambda s: {n: v.to(torch.int8) for n, v in s.items()}, r"'.*' holds torch.int8, must be floating-point"),
        (lambda s: {n: v.double() + 1e300 for n, v in s.items()}, r"'.*' has numbers that are infinite in torch.float32"),
        (lambda s: [1, 2], r"neither a state dict nor .* but a list"),
        (lambda s: {"g_ema": {**s, "x": s["ca_net.fc.bias"]}}, r"its entry 'g_ema' has 1 unknown ones, such as 'x'"),
    ],
)  # fmt: skip
def test_what_was_found_is_named(wrap: Callable[[State], Any], told: str, tmp_path: Path) -> None:
    torch.save(wrap(small().state_dict()), tmp_path / "g.pth")
    with pytest.raises(HostError, match=told):
        load_weights(small(), tmp_path / "g.pth")


@pytest.fixture
def _few_birds(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr, train=64, test=32, measured=2)


def spoil(state: State, how: str) -> State:
    name = "h_net1.upsample1.2.running_var" if how == "a variance below zero" else "img_net2.img.0.weight"
    value = {"NaN": math.nan, "infinite": -math.inf, "a variance below zero": -1.0}[how]
    state[name].view(-1)[0 if how != "a variance below zero" else slice(None)] = value
    return state


@pytest.mark.parametrize("how", ["NaN", "infinite", "a variance below zero"])
@pytest.mark.parametrize("layout", ["with numbers beside", "an averaged model"])
@pytest.mark.usefixtures("_few_birds")
def test_a_broken_generator_is_found_before_anything_is_trained(
    how: str, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(self, *arguments) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("examples.attngan.run.train_encoders", trained)
    arguments = [*TINY, "--out", str(tmp_path / "out")]
    options, config = retrofit.parse(arguments)
    host = build_host(config, options.repo)
    state = spoil(host.state_dict(), how)
    content = {f"module.{name}": v for name, v in state.items()} if "average" in layout else {**state, "epoch": 3}
    torch.save(content, tmp_path / "g.pth")
    assert retrofit.main([*arguments, "--checkpoint", str(tmp_path / "g.pth")]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "finite" in told
    assert "g.pth" in told
    assert "--resume" not in told


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_small_types_are_looked_into_too(dtype: torch.dtype) -> None:
    assert is_finite(torch.ones(3).to(dtype))
    assert not is_finite(torch.tensor([1.0, math.nan]).to(dtype))


def test_inceptions_weights_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = get_model("inception_v3", weights=None, init_weights=False).state_dict()
    torch.save({"state_dict": prefixed("module.")(state)}, tmp_path / "image.pth")
    loaded = InceptionImageEncoder(8, str(tmp_path / "image.pth")).inception.state_dict()
    assert torch.equal(loaded["Conv2d_1a_3x3.conv.weight"], state["Conv2d_1a_3x3.conv.weight"])
    state["Mixed_7c.branch_pool.bn.running_var"][:] = -1
    torch.save(state, tmp_path / "image.pth")
    with pytest.raises(
        ValueError, match=r"image.pth: its weights are finite, but the features of an image are not"
    ):
        InceptionImageEncoder(8, str(tmp_path / "image.pth"))
    torch.save({**state, "fc.bias": state["fc.bias"].double() + 1e300}, tmp_path / "image.pth")
    with pytest.raises(ValueError, match=r"'fc.bias' has numbers that are infinite in torch.float32"):
        InceptionImageEncoder(8, str(tmp_path / "image.pth"))
    state["Mixed_7c.branch_pool.conv.weight"][0] = math.nan
    torch.save(state, tmp_path / "image.pth")
    with pytest.raises(ValueError, match=r"'Mixed_7c.branch_pool.conv.weight' is not finite .*take the file anew"):
        InceptionImageEncoder(8, str(tmp_path / "image.pth"))

    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, tmp_path / "fid.pth")
        state = FeatureExtractorInceptionV3("x", ["2048"], str(tmp_path / "fid.pth")).state_dict()
    torch.save(prefixed("_orig_mod.")(state), tmp_path / "fid.pth")
    fid.inception(str(tmp_path / "fid.pth"))
    state["Mixed_7c.branch_pool.bn.running_var"][:] = -1
    torch.save(state, tmp_path / "fid.pth")
    with pytest.raises(ValueError, match=r"fid.pth: its weights are finite, but the features of an image are not"):
        fid.inception(str(tmp_path / "fid.pth"))
    state["fc.bias"][0] = math.inf
    torch.save(state, tmp_path / "fid.pth")
    with pytest.raises(ValueError, match=r"fid.pth: no readable weights \(weights.fc.bias is not finite .*anew\)"):
        fid.inception(str(tmp_path / "fid.pth"))


def test_a_file_that_is_broken_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0" * 8 + b"{nothing")
    with pytest.raises(WeightsError, match="broken, or more than weights"):
        read_weights(tmp_path / "x")


@pytest.mark.parametrize(
    "error",
    [
        pickle.UnpicklingError(
            "Weights only load failed. Re-running with `weights_only` set to `False` will likely work"
        ),
        RuntimeError(
            "Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``. In 2.6, we"
        ),
        RuntimeError(
            "Cannot use ``weights_only=True`` with files saved in the legacy .tar format. In PyTorch 2.6"
        ),
        ValueError("Weights only load failed; set weights_only=False"),
    ],
)
def test_torch_s_advice_to_run_code_is_not_passed_on(error: Exception) -> None:
    assert "weights" not in reason_of(error).lower()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "g.pt"))  # pyright: ignore
    with pytest.raises(WeightsError, match=r"it is a TorchScript archive, which holds code; save .* state_dict"):
        read_weights(tmp_path / "g.pt")

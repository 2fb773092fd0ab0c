"""The child bn: how it is made, adopted, shared and loaded."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from helpers.models import Checkpointed
from torch import nn

import scbn
from scbn import TextFeatures
from scbn.norm import _sync_group, batch_norm_state


@pytest.mark.parametrize(("size", "shared"), [(1, False), (2, True)])
def test_statistics_are_shared_by_two_processes_at_least(size: int, shared: bool, monkeypatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group: size)
    bn = nn.SyncBatchNorm(3, process_group="the group")
    assert _sync_group(bn) == ("the group" if shared else None)
    assert _sync_group(nn.BatchNorm2d(3)) is None
    x = torch.randn(2, 3, 4, 4)
    assert batch_norm_state(bn, x).group == ("the group" if shared else None)
    assert batch_norm_state(bn.eval(), x).group is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_layers_are_made_in_every_floating_dtype(dtype: torch.dtype) -> None:
    for layer in (
        scbn.WordSCBN(3, 4, sentence_dim=5, dtype=dtype),
        scbn.VisualSemanticEmbedding(3, 4, dtype=dtype),
    ):
        assert {p.dtype for p in layer.parameters()} == {dtype}


def test_a_checkpoint_from_before_pytorch_counted_batches_still_loads() -> None:
    old = {name: value + 1 for name, value in Checkpointed().state_dict().items() if "num_batches" not in name}
    plain, model = Checkpointed(), Checkpointed()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, sentence: TextFeatures(sentence), sentence_dim=4)
    for target in (plain, model):
        target.load_state_dict(dict(old))
    assert torch.equal(model.norm.bn.running_var, plain.norm.running_var)
    assert torch.equal(model.norm.bn.weight, old["norm.weight"])


def test_a_checkpoint_without_a_layer_lacks_all_of_it() -> None:
    model = Checkpointed()
    scbn.retrofit(model, {"norm": "sentence"}, text=lambda x, sentence: TextFeatures(sentence), sentence_dim=4)
    # Without a version, PyTorch takes a norm for one from before batches were counted.
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    assert len(names) == 8
    assert model.load_state_dict({}, strict=False).missing_keys == names


@pytest.mark.parametrize("name", ["num_features", "eps", "momentum", "affine", "track_running_stats"])
def test_what_the_batch_norm_settles_is_not_given_again(name: str) -> None:
    with pytest.raises(ValueError, match=rf"\['{name}'\] come from the batch norm"):
        scbn.SentenceSCBN.from_batch_norm(nn.BatchNorm2d(3), 4, **{name: 3})

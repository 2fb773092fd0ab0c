"""The retrofit: nothing changes at step 0, the text reaches every layer, and nothing of a call stays behind."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from helpers.hosts import (
    CODE,
    HOSTS,
    NOISE,
    SENTENCE,
    WORDS,
    Host,
    arguments,
    attngan,
    awake,
    different,
    equal,
    four,
    images,
    loss,
    seeded,
    wake,
)
from helpers.replicas import replica
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint as torch_checkpoint

import scbn
from scbn.retrofitting.attngan import AttnGANText
from scbn.retrofitting.binding import HOLDER, TextHolder

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_nothing_changes_at_step_0(host: Host, training: bool) -> None:
    model = host.make().double().train(training)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    plain, args = copy.deepcopy(model), [a.double() if a.is_floating_point() else a for a in host.call()]
    report = host.convert(model)
    assert len(report.replaced) == host.replaced
    for _ in range(2):
        want = seeded(plain, *args, **host.keywords)
        got = seeded(model, *args, **host.keywords)
        equal(got, want, rtol=1e-9, atol=1e-10)
    loss(got).backward()
    loss(want).backward()
    pretrained = report.pretrained_parameters()
    assert len(pretrained) == len(list(plain.parameters()))
    for ours, theirs in zip(pretrained, plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_text_reaches_every_new_layer_and_gradients_come_back(host: Host) -> None:
    model = host.make()
    report = host.convert(model)
    wake(model)
    args = host.call()
    loss(seeded(model, *args, **host.keywords)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in report.new_parameters())
    model.eval()
    assert getattr(model, HOLDER).text is None
    # The images depend on the text beyond what the host itself makes of it: silence the new layers and compare.
    want = seeded(model, *args, **host.keywords)
    with torch.no_grad():
        for parameter in report.new_parameters():
            parameter.zero_()
    assert different(seeded(model, *args, **host.keywords), want)


def test_the_words_of_a_sample_reach_that_sample() -> None:
    model, call = awake().eval(), arguments()
    before = seeded(model, **call)
    call["word_embs"] = call["word_embs"].clone()
    call["word_embs"][0, :, 0] += 3
    after = seeded(model, **call)
    assert different([before[-1][:1]], [after[-1][:1]])
    equal([before[-1][1:]], [after[-1][1:]])


@pytest.mark.parametrize("how", ["positional", "keyword", "mixed"])
def test_calls_by_position_and_by_name(how: str) -> None:
    model, call = awake().eval(), arguments()
    want = seeded(model, *call.values())
    split = {"positional": 4, "keyword": 0, "mixed": 2}[how]
    positional, named = list(call.values())[:split], dict(list(call.items())[split:])
    equal(seeded(model, *positional, **named), want)


def test_other_batch_sizes_and_caption_lengths_afterwards() -> None:
    model = awake().eval()
    for n, t in ((3, 5), (1, 2), (4, 9), (2, 1)):
        assert all(image.shape[0] == n for image in seeded(model, *four(n, t)))


def test_padding_changes_nothing() -> None:
    model, call = awake().eval(), arguments(1, 4)
    call["mask"] = torch.tensor([[False, False, False, True]])
    before = seeded(model, **call)
    longer = {**call, "word_embs": torch.cat((call["word_embs"], torch.full((1, WORDS, 3), 7.0)), 2)}
    longer["mask"] = torch.cat((call["mask"], torch.ones(1, 3, dtype=torch.bool)), 1)
    equal(seeded(model, **longer), before)


def test_an_empty_caption_poisons_nothing() -> None:
    model = scbn_of_host_without_attention()
    wake(model)
    model.eval()
    z, s, w, _ = four()
    mask = torch.tensor([[False] * 5, [True] * 5, [False] * 5])
    model.ca_net.forward = lambda s: (s[:, :CODE], s[:, :CODE], s[:, :CODE])
    got = images(model(z, s, w, mask))
    loss(got).backward()
    assert all(image.isfinite().all() for image in got)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    for i in range(3):
        equal(
            [image[i : i + 1] for image in got],
            images(model(z[i : i + 1], s[i : i + 1], w[i : i + 1], mask[i : i + 1])),
        )


def scbn_of_host_without_attention() -> nn.Module:
    """AttnGAN's own attention gives NaN for an empty caption; the retrofit must not."""
    host = HOSTS["ControlGAN, MirrorGAN"]
    model = host.make()
    host.convert(model)
    return model


def test_no_text_stays_after_a_call_or_an_exception() -> None:
    model = awake()
    holder = getattr(model, HOLDER)
    model(*four())
    assert holder.text is None
    broken = arguments()
    broken["word_embs"] = broken["word_embs"][:, :-1]
    with pytest.raises(RuntimeError):
        model(**broken)
    assert holder.text is None
    broken = arguments()
    broken["z_code"] = broken["z_code"][:, :-1]
    with pytest.raises(RuntimeError):
        model(**broken)
    assert holder.text is None
    model(*four())


def test_two_forwards_before_one_backward() -> None:
    model = awake()
    first, second = arguments(), arguments()
    both = loss(seeded(model, **first)) + loss(seeded(model, **second))
    other = copy.deepcopy(model)
    both.backward()
    loss(seeded(other, **first)).backward()
    loss(seeded(other, **second)).backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3 * float(b.grad.abs().max()) + 1e-6)


class Checkpointed(nn.Module):
    """A model that checkpoints a stage, with a function of the test's choice."""

    def __init__(self, how) -> None:
        super().__init__()
        self.inner, self.how = attngan(2), how
        self.ca_net = self.inner.ca_net

    def forward(self, z_code, sent_emb, word_embs, mask):
        code, _, _ = self.inner.ca_net(sent_emb)
        h = self.inner.h_net1(z_code, code)
        h, _ = self.how(self.inner.h_net2, h, word_embs, mask)
        return [self.inner.img_net2(h)], [], None, None


def closure(stage, *args):
    return scbn.checkpoint(lambda h: stage(h, *args[1:]), args[0])


def container(stage, *args):
    stages = {"of": [stage]}
    return scbn.checkpoint(lambda h: stages["of"][0](h, *args[1:]), args[0])


@pytest.mark.parametrize("how", [scbn.checkpoint, closure, container], ids=["module", "closure", "container"])
def test_checkpointing_keeps_the_text(how) -> None:
    model = Checkpointed(how)
    scbn.retrofit(
        model, {"inner.h_net2.upsample*": "both"}, text=AttnGANText(1, 2, 3), sentence_dim=SENTENCE, word_dim=WORDS
    )
    wake(model)
    plain = copy.deepcopy(model)
    plain.how = lambda stage, *args: stage(*args)
    first, second = arguments(), arguments()
    results = []
    for m in (model, plain):
        (loss(seeded(m, **first)) + loss(seeded(m, **second))).backward()
        results.append([p.grad for p in m.parameters() if p.grad is not None])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_torchs_own_checkpoint_says_what_to_use() -> None:
    model = Checkpointed(lambda f, *args: torch_checkpoint(f, *args, use_reentrant=False))
    scbn.retrofit(model, {"inner.h_net2.upsample*": "word"}, text=AttnGANText(1, 2, 3), word_dim=WORDS)
    outputs = seeded(model, *four())
    with pytest.raises(RuntimeError, match=r"use scbn\.checkpoint"):
        loss(outputs).backward()
    with pytest.raises(ValueError, match="non-reentrant"):
        scbn.checkpoint(nn.Identity(), torch.ones(1), use_reentrant=True)


def test_a_part_called_alone_says_so() -> None:
    model = awake()
    with pytest.raises(RuntimeError, match="Call the model itself and not a part of it"):
        model.h_net1(torch.randn(2, NOISE), torch.randn(2, CODE))


def test_deepcopy_pickle_and_averaging_keep_the_text_flowing() -> None:
    model, call = awake().eval(), arguments()
    want = seeded(model, **call)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        AveragedModel(model, use_buffers=True).eval(),
    ):
        equal(seeded(other, **call), want)
        holders = {id(m) for m in other.modules() if isinstance(m, TextHolder)}
        assert len(holders) == 1
        assert id(getattr(model, HOLDER)) not in holders


def test_state_dicts_in_every_direction() -> None:
    original, model, call = attngan().eval(), attngan().eval(), arguments()
    before = {k: v.clone() for k, v in original.state_dict().items()}
    scbn.retrofit_attngan(model)
    assert HOLDER not in " ".join(model.state_dict())
    for strict in (True, False):
        told = model.load_state_dict(before, strict=strict)
        assert not told.missing_keys
        assert not told.unexpected_keys
    equal(seeded(model, **call), seeded(original, **call))
    wake(model)
    other = attngan().eval()
    scbn.retrofit_attngan(other)
    other.load_state_dict(model.state_dict())
    equal(seeded(other, **call), seeded(model, **call))
    assert before.keys() == original.state_dict().keys()
    lacking = {k: v for k, v in model.state_dict().items() if "mlp" not in k}
    with pytest.raises(RuntimeError, match=r"Missing key.*mlp"):
        other.load_state_dict(lacking)  # a retrofitted checkpoint has to be whole


def test_saved_and_loaded_weights_only() -> None:
    model, call, file = awake().eval(), arguments(), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = attngan().eval()
    scbn.retrofit_attngan(other)
    other.load_state_dict(torch.load(file, weights_only=True))
    equal(seeded(other, **call), seeded(model, **call))


def test_convert_sync_batchnorm_keeps_the_condition() -> None:
    model, call = awake().eval(), arguments()
    want = seeded(model, **call)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted.h_net2.upsample[2].bn, nn.SyncBatchNorm)
    equal(seeded(converted, **call), want)


def test_double_and_autocast() -> None:
    model, call = awake().eval(), arguments()
    want = seeded(model, **call)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = seeded(model, **call)
    assert all(image.isfinite().all() for image in got)
    model.double()
    exact = {k: v.double() if v.is_floating_point() else v for k, v in call.items()}
    with torch.no_grad():
        assert seeded(model, **exact)[0].dtype == torch.float64
    assert want[0].dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_compiles_to_one_graph(training: bool) -> None:
    torch._dynamo.reset()
    host = HOSTS["StackGAN-v2"]
    model = host.make()
    host.convert(model)
    wake(model).train(training)
    model.ca_net.forward = lambda s: (s[:, :CODE], s[:, :CODE], s[:, :CODE])  # noise would differ under compile
    other = copy.deepcopy(model)
    args = four()[:2]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        got, want = images(compiled(*args)), images(other(*args))
        equal(got, want, rtol=1e-3, atol=1e-4)
        if training:
            loss(got).backward()
            loss(want).backward()
            for a, b in zip(model.parameters(), other.parameters(), strict=True):
                if b.grad is not None:
                    torch.testing.assert_close(
                        a.grad, b.grad, rtol=1e-2, atol=1e-2 * float(b.grad.abs().max()) + 1e-5
                    )
        assert getattr(model, HOLDER).text is None


def test_replicas_in_threads_hear_their_own_text() -> None:
    model = awake().eval()
    model.ca_net.forward = lambda s: (s[:, :CODE], s[:, :CODE], s[:, :CODE])
    calls = [four(2, 4), four(3, 6)]
    want = [images(model(*call)) for call in calls]
    barrier, results = threading.Barrier(2), [None, None]

    def work(i: int) -> None:
        mine = replica(model)
        with torch.no_grad():
            for _ in range(20):
                barrier.wait()
                results[i] = images(mine(*calls[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, expected in zip(results, want, strict=True):
        equal(got, expected)

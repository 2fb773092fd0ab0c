"""FID, KID and Inception Score, by torch-fidelity; and FID in the matching network's features, which need no download."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from examples.sdgan.data.dataset import to_bytes
from examples.sdgan.metrics.consistency import Features
from examples.sdgan.metrics.interval import interval
from examples.sdgan.models.checkpoint import check_weights, reason_of, tensors_within
from examples.sdgan.models.weights import WeightsError, read_weights, state_dict_for

_BATCH, _DRAWS = 32, 50


class _Inception(FeatureExtractorInceptionV3):
    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Of a state dict in any wrapping; torch-fidelity passes on what its file holds."""
        return super().load_state_dict(state_dict_for(self.state_dict(), state_dict).state, *args, **kwargs)


def inception(weights: str) -> nn.Module:
    """The Inception v3 of the original FID, with features ``2048`` and ``logits_unbiased``.

    Args:
        weights: path of torch-fidelity's weights file (``pt_inception-2015-12-05-6726825d.pth``), or ``"download"``.

    Raises:
        ValueError: there is no such file, it is another network's, or it cannot be downloaded.
    """
    path = None if weights == "download" else Path(weights)
    if path is not None:
        try:
            # torch-fidelity would unpickle whatever the file holds; this refuses code.
            for name, value in tensors_within("weights", read_weights(path)):
                check_weights(name, value, "take the file anew")
        except ValueError as error:
            raise ValueError(
                f"--inception {weights}: no readable weights ({error}); pass torch-fidelity's "
                "pt_inception-2015-12-05-6726825d.pth, download, or none to measure without FID, KID and IS"
            ) from error
    try:
        network = _Inception(
            "inception-v3-compat", ["2048", "logits_unbiased"], None if path is None else str(path)
        )
    except (OSError, RuntimeError, TypeError, WeightsError, pickle.UnpicklingError) as error:
        how = "cannot be downloaded" if path is None else "hold another network's weights"
        raise ValueError(
            f"--inception {weights}: Inception's weights {how} ({reason_of(error)}); pass the path of "
            "torch-fidelity's "
            "pt_inception-2015-12-05-6726825d.pth, or none to measure without FID, KID and IS"
        ) from error
    # Finite weights may give no finite features: a variance below zero, weights that overflow.
    pixels = torch.randint(256, (2, 3, 299, 299), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not all(bool(features.isfinite().all()) for features in network(pixels)):
            raise ValueError(
                f"--inception {weights}: its weights are finite, but the features of an image are not (a "
                "variance below "
                "zero, or weights that overflow); take the file anew, or none to measure without FID, KID and IS"
            )
    return network


def inception_metrics(
    network: nn.Module, real: Tensor, fake: Tensor, report: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """FID, KID and IS of images (N, 3, S, S), uint8 or in [-1, 1].

    Returns:
        ``fid`` with ``floor``, the same number between two halves of the real images (few images raise both); ``kid``
        and ``inception_score`` with their standard deviation over subsets and splits.
    """
    device = next(network.parameters()).device

    @torch.no_grad()
    def features(images: Tensor, done: int) -> tuple[Tensor, Tensor]:
        found: list[tuple[Tensor, ...]] = []
        for part in images.split(_BATCH):
            found.append(tuple(value.cpu() for value in network(to_bytes(part).to(device))))
            report(done + sum(len(f[0]) for f in found))
        pooled, logits = zip(*found, strict=True)
        return torch.cat(pooled), torch.cat(logits)

    (pooled_real, _), (pooled, logits) = features(real, 0), features(fake, len(real))
    # Subsets of all there is would be one subset, and their spread nothing.
    size = max(1, min(1000, len(real) // 2, len(fake) // 2))
    kid = kid_features_to_metric(pooled_real, pooled, kid_subset_size=size, verbose=False)
    score = isc_features_to_metric(logits, splits=min(10, len(fake) // 2))
    return {
        "fid": {**_distance(pooled_real, pooled), "floor": _floor(pooled_real), "images": [len(real), len(fake)]},
        "kid": {
            "value": float(kid["kernel_inception_distance_mean"]),
            "std": float(kid["kernel_inception_distance_std"]),
            "subset": size,
        },
        "inception_score": {
            "value": float(score["inception_score_mean"]),
            "std": float(score["inception_score_std"]),
            "images": len(fake),
        },
    }


def matching_distance(features: Features, real: Tensor, fake: Tensor) -> dict[str, Any]:
    """The Frechet distance of FID, in another network's features: for comparisons within one run of encoders only.

    Returns:
        The distance with a 95 % interval (50 bootstrap draws of both sets, shifted to the value, for resampling itself
        adds distance), and ``floor``, the same number between two halves of the real images.
    """
    a, b = features(real).double(), features(fake).double()
    found = _distance(a, b)
    rng = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(_DRAWS):
        i, j = (torch.randint(len(x), (len(x),), generator=rng) for x in (a, b))
        draws.append(_distance(a[i], b[j])["value"])
    drawn = torch.tensor(draws, dtype=torch.float64)
    low, high = interval(drawn - drawn.mean())
    return {
        **found,
        "interval_95": [round(found["value"] + low, 5), round(found["value"] + high, 5)],
        "floor": _floor(a),
        "images": [len(real), len(fake)],
    }


def _distance(a: Tensor, b: Tensor) -> dict[str, float]:
    first, second = fid_features_to_statistics(a), fid_features_to_statistics(b)
    value = fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]
    return {"value": round(float(value), 5)}


def _floor(features: Tensor) -> float:
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    half = len(features) // 2
    return _distance(features[order[:half]], features[order[half:]])["value"]

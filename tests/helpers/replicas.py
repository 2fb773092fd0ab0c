"""Replicas as ``nn.DataParallel`` makes them, where there is no GPU for it to make them on."""

from __future__ import annotations

from torch import nn


def replica(model: nn.Module) -> nn.Module:
    """As :func:`torch.nn.parallel.replicate` does it: parameters are copies, held as plain attributes."""
    modules = list(model.modules())
    copies = {id(m): m._replicate_for_data_parallel() for m in modules}
    for module in modules:
        made = copies[id(module)]
        for name, child in module._modules.items():
            made._modules[name] = None if child is None else copies[id(child)]
        for name, parameter in module._parameters.items():
            if parameter is None:
                made._parameters[name] = None
            else:
                setattr(made, name, parameter.detach().clone().requires_grad_(parameter.requires_grad))
        for name, buffer in module._buffers.items():
            made._buffers[name] = None if buffer is None else buffer.clone()
    return copies[id(model)]

#!/usr/bin/env python3
"""Writes NAME.safetensors for each of the networks below, in PyTorch (networks.py), which tests/unets.rs compares ours with.

    pip install torch safetensors && python tests/golden/unets.py

Every network is small, and its weights are those of `numbers`, which Rust computes too. For two noisy images: `x`, `t`,
`context`, `labels` or `tokens` if it is conditioned on them, `target`, `output`, the mean squared error `loss`, and for each parameter `grads.NAME`:
so many numbers of the gradient as SAMPLES, evenly spread, and then the sum of all, each times its weight in `numbers`. After a
step of plain gradient descent: `after.NAME`, the buffers of batch norms, and `predicted`, the output in evaluation mode.

context_unet.pth is the network after that step, as `torch.save` writes it on a GPU.
"""
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import networks

HERE = Path(__file__).parent
SAMPLES, RATE = 24, 0.01


def numbers(k, shape, mean=0.0, size=1.0):
    """Numbers that look random, and are the same in another language."""
    values = [mean + size * math.sin(0.37 * (i * i) + k) for i in range(math.prod(shape))]
    return torch.tensor(values).reshape(shape)


def set_weights(net):
    with torch.no_grad():
        for k, (name, values) in enumerate(sorted(net.named_parameters())):
            shape = tuple(values.shape)
            mean, size = 0.0, math.prod(shape[1:]) ** -0.5
            if len(shape) == 1:
                mean, size = float(name.endswith("weight")), 0.1
            values.copy_(numbers(k, shape, mean, size))


def sampled(k, gradient):
    flat = gradient.flatten()
    at = [i * len(flat) // SAMPLES for i in range(SAMPLES)] if len(flat) > SAMPLES else range(len(flat))
    return torch.cat([flat[list(at)], (flat.double() * numbers(k, flat.shape).double()).sum().float().reshape(1)])


def write(name, net, side, told):
    set_weights(net)
    shape = (2, net.channels, side, side)
    x, target, t = numbers(1000, shape), numbers(1001, shape), torch.tensor([3, 700])
    tensors = {"x": x, "target": target, "t": t, **told}
    condition = next(iter(told.values()), None)

    output = net(x, t, condition)
    loss = F.mse_loss(output, target)
    loss.backward()
    tensors |= {"output": output, "loss": loss.reshape(1)}
    for k, (parameter, values) in enumerate(sorted(net.named_parameters())):
        tensors[f"grads.{parameter}"] = sampled(k, values.grad)

    torch.optim.SGD(net.parameters(), RATE).step()
    net.eval()
    with torch.no_grad():
        tensors |= {"predicted": net(x, t, condition)}
    tensors |= {f"after.{buffer}": values for buffer, values in net.named_buffers() if "num_batches" not in buffer}
    tensors = {name: values.detach().contiguous() for name, values in tensors.items()}
    save_file(tensors, HERE / f"{name}.safetensors")


def main():
    torch.manual_seed(0)
    labels = {"labels": torch.tensor([2, 3])}  # The last of four classes stands for any.
    context_unet = networks.ContextUnet(8)
    write("context_unet", context_unet, 16, {"context": numbers(1002, (2, 5))})
    write("conditional_unet", networks.ConditionalUNet(8, groups=4, heads=2, classes=3), 32, labels)
    write("unet", networks.UNet(8, groups=4, heads=2, classes=3), 16, labels)
    write("unet_without_attention", networks.UNet(8, groups=4), 16, {})
    tokens = {"tokens": torch.tensor([[4, 0, 2, 1], [3, -1, -1, -1]])}  # -1 is padding.
    write("simple_unet_of_text", networks.TextUNet(8, tokens=6, vocabulary=5), 8, tokens)
    write("attention_unet", networks.AttentionUNet(8, groups=4, heads=2, classes=3), 32, labels)

    # On the CPU too, storages get the mark of a GPU.
    torch.serialization.location_tag = lambda storage: "cuda:0"
    torch.save(context_unet.state_dict(), HERE / "context_unet.pth")


if __name__ == "__main__":
    main()

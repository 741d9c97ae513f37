"""FastFlow's decoder, switched to flowref's block in mid-training: python switch.py [steps [channels [pixels]]]."""

import sys
import time

import torch
from FrEIA.framework import SequenceINN
from torch import nn

from flowref import fast
from flowref.targets import anomalib  # anomalib's own block, without its training stack

steps, channels, pixels = (int(word) for word in (*sys.argv[1:], *("20", "64", "16")[len(sys.argv) - 1 :]))


def subnet(kernel):
    """As in anomalib: two convolutions, as many channels within as come in."""
    return lambda n, m: nn.Sequential(
        nn.Conv2d(n, n, kernel, padding="same"), nn.ReLU(), nn.Conv2d(n, m, kernel, padding="same")
    )


def decoder(block):
    """Eight steps, convolutions of 3×3 and 1×1 in turn. The block is all that differs."""
    net = SequenceINN(channels, pixels, pixels)
    for k in range(8):
        net.append(block, subnet_constructor=subnet(1 if k % 2 else 3), affine_clamping=2.0, permute_soft=False)
    return net


def train(net, features):
    """One step a batch of features; the losses, and seconds a step."""
    optimizer, losses, start = torch.optim.Adam(net.parameters(), lr=1e-3), [], time.perf_counter()
    for x in features:
        z, logdet = net(x)
        loss = (z.square().sum((1, 2, 3)) / 2 - logdet).mean() / z[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (time.perf_counter() - start) / len(losses)


torch.manual_seed(0)
mixing = torch.randn(channels, channels) / channels**0.5
features = [torch.einsum("ij,bjhw->bihw", mixing, torch.randn(8, channels, pixels, pixels)) for _ in range(steps)]
theirs, ours = decoder(anomalib.AllInOneBlock), decoder(fast.AllInOneBlock)
losses, _ = train(theirs, features)
print(f"anomalib's block: {steps} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}")

ours.load_state_dict(theirs.state_dict())  # strict: same names, same shapes
with torch.no_grad():
    (z, logdet), (want, total) = ours(features[0]), theirs(features[0])
off, off_total = (z - want).abs().max(), (logdet - total).abs().max()
print(f"flowref's ({fast.kernels()}): z off by {off:.1e} at most, logdet by {off_total:.1e} of {total.abs().max():.0f}")

(one, slow), (other, quick) = train(theirs, features), train(ours, features)
print(f"{steps} more steps: loss {one[-1]:.6f} and {other[-1]:.6f}, {slow * 1e3:.0f} and {quick * 1e3:.0f} ms a step")
theirs.load_state_dict(ours.state_dict())
print("and back: anomalib's block has loaded the new state")

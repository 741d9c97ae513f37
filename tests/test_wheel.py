"""The wheel, in an empty environment and an empty folder: a block written there is judged, as in a checkout."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAWS = ("--law", "reference", "--law", "inverse", "--law", "logdet.equals-reference", "--profile", "smoke")

# What somebody would write: the whole map in some thirty lines.
BLOCK = """
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, dims_in, dims_c=None, subnet_constructor=None, affine_clamping=2.0, gin_block=False,
                 global_affine_init=1.0, global_affine_type="SOFTPLUS", permute_soft=False,
                 learned_householder_permutation=0, reverse_permutation=False):
        super().__init__()
        C, ones = dims_in[0][0], (1,) * (len(dims_in[0]) - 1)
        self.C, self.P, self.alpha, self.gin = C, C - C // 2, affine_clamping, gin_block
        self.kind, self.back, n = global_affine_type, reverse_permutation, learned_householder_permutation
        self.global_scale = nn.Parameter(torch.zeros(1, C, *ones))
        self.global_offset = nn.Parameter(torch.zeros(1, C, *ones))
        W = torch.eye(C)[torch.randperm(C)]
        self.register_buffer("w_0" if n else "w_perm", W if n else W.reshape(C, C, *ones))
        if n:
            self.vk_householder = nn.Parameter(0.2 * torch.randn(n, C))
        else:
            self.register_buffer("w_perm_inv", W.T.reshape(C, C, *ones).clone())
        self.subnet = subnet_constructor(self.P + sum(d[0] for d in dims_c or ()), 2 * (C // 2))

    def mix(self, x, inverse=False):
        W = self.w_0 if hasattr(self, "w_0") else self.w_perm.reshape(self.C, self.C)
        for v in getattr(self, "vk_householder", ()):
            W = W - 2 * torch.outer(W @ v, v) / (v @ v)
        return torch.einsum("ij,bj...->bi...", W.T if inverse else W, x)

    def forward(self, x, c=(), rev=False, jac=True):
        x, s = x[0], self.global_scale
        sigma = {"EXP": torch.exp, "SIGMOID": lambda s: 10 * torch.sigmoid(s - 2),
                 "SOFTPLUS": lambda s: 0.2 * F.softplus(s / 2)}[self.kind](torch.zeros_like(s) if self.gin else s)
        sigma = torch.ones_like(s) if self.gin else sigma
        z = (self.mix(x, True) - self.global_offset) / sigma if rev else self.mix(x, True) if self.back else x
        p, q = z[:, :self.P], z[:, self.P:]
        k, t = (0.1 * self.subnet(torch.cat([p, *c], 1))).chunk(2, 1)
        l = self.alpha * torch.tanh(k)
        l = l - l.mean(tuple(range(1, l.ndim)), keepdim=True) if self.gin else l
        logdet = l.flatten(1).sum(1) + x[:1, 0].numel() * torch.log(sigma).sum()
        if rev:
            out = torch.cat([p, (q - t) * torch.exp(-l)], 1)
            return (self.mix(out) if self.back else out,), -logdet
        return (self.mix(sigma * torch.cat([p, q * torch.exp(l) + t], 1) + self.global_offset),), logdet
"""
SIGN_ERROR = ("if self.back else out,), -logdet", "if self.back else out,), logdet")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))} | {"NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `flowref` command of the wheel, in an environment of its own."""
    place = tmp_path_factory.mktemp("wheel")
    built = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)], ROOT)
    assert built.returncode == 0, built.stderr
    venv.create(place / "env", with_pip=True)
    (wheel,) = place.glob("*.whl")
    pinned = ["-c", str(ROOT / "constraints.txt")]
    done = run(
        [str(place / "env/bin/python"), "-m", "pip", "install", "-q", "--no-compile", *pinned, str(wheel)], place
    )
    assert done.returncode == 0, done.stderr
    return place / "env/bin/flowref"


def digests(report: Path) -> dict[str, tuple[str, str]]:
    """Test id, without the folder of the properties -> (hash of the cases, status)."""
    records = json.loads(report.read_text())["records"]
    return {r["id"].rpartition("/")[2]: (r["cases_digest"], r["status"]) for r in records}


@pytest.mark.slow
def test_the_wheel_judges_a_block_written_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(BLOCK)
    done = run([str(installed), "check", "block.py:Block", *LAWS, "--report", "wheel", "-n", "2"], tmp_path)
    assert (done.returncode, done.stdout.strip().splitlines()[-1][:5]) == (0, "Held:"), done.stdout

    here = [sys.executable, "-m", "flowref.cli", "check", "block.py:Block", *LAWS, "--report", "here", "-n", "0"]
    again = subprocess.run(
        here, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert again.returncode == 0
    assert digests(tmp_path / "wheel/report.json") == digests(tmp_path / "here/report.json")


@pytest.mark.slow
def test_the_wheel_names_a_planted_sign_error(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(BLOCK.replace(*SIGN_ERROR))
    done = run([str(installed), "check", "block.py:Block", *LAWS, "--no-shrink"], tmp_path)

    assert done.returncode == 1, done.stdout
    assert "BROKEN logdet.equals-reference" in done.stdout
    assert "look at: log-det (" in done.stdout
    (same,) = (line for line in done.stdout.splitlines() if "leads to the same step: " in line)
    assert "inverse.log-dets-cancel" in same
    assert "Broken: 1 finding (log-det), in 5 of " in done.stdout


@pytest.mark.slow
def test_the_wheel_carries_the_goldens(installed: Path, tmp_path: Path) -> None:
    done = run([str(installed), "golden", "verify", "--files", "--sample", "2"], tmp_path)

    assert (done.returncode, done.stdout.split(":")[0][-17:]) == (0, "flowref/golden/v1"), done.stdout + done.stderr
    assert "2 of them computed again: the same bits." in done.stdout

"""The examples run, without torch or flowref, and see a port that is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "golden" / "v1"
# Runs a program as if neither were installed.
ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
sys.modules |= {"torch": None, "flowref": None}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LIMIT = 60  # lines of a program beside the port itself


def numpy_check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, str(folder / "check.py"), str(GOLDEN)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "examples" / name, tmp_path / name))


def test_numpy(tmp_path: Path) -> None:
    done = numpy_check(copied("numpy", tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(" 0 wrong" in line and " 0 skipped" in line for line in done.stdout.splitlines())
    assert any(line.startswith("gin ") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("right", "wrong", "flag"),
    [
        ("q * np.exp(l) + t", "q * np.exp(l) - t", "softplus"),
        ("10 / (1 + np.exp(2 - s))", "(10 + 1e-4) / (1 + np.exp(2 - s))", "sigmoid"),
        ("l = l - l.mean(axis=axes, keepdims=True)", "l = l - l.mean(axis=1, keepdims=True)", "gin"),
        ("H @ v, v) / (v @ v)", "H @ v, v) / (v @ v + 1e-6)", "reflections-1"),
    ],
)
def test_numpy_sees_a_wrong_port(tmp_path: Path, right: str, wrong: str, flag: str) -> None:
    folder = copied("numpy", tmp_path)
    port = folder / "block.py"
    assert port.read_text(encoding="utf-8").count(right) == 1
    port.write_text(port.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")

    done = numpy_check(folder)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith(flag + " "))
    assert " 0 wrong" not in line


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.fail("the C++ example needs a C++ compiler, and there is neither g++ nor clang++: install one")
    return found


def compiled(compiler: str, folder: Path) -> Path:
    program = folder / "check"
    words = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    subprocess.run([compiler, *words, str(folder / "check.cpp"), "-o", str(program)], check=True, timeout=300)
    return program


def test_cpp(tmp_path: Path, compiler: str) -> None:
    folder = copied("cpp", tmp_path)
    done = subprocess.run([compiled(compiler, folder), GOLDEN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" vectors checked, 0 wrong\n")
    assert int(done.stdout.split()[0]) > 100

    port = folder / "block.hpp"
    text = port.read_text(encoding="utf-8")
    assert text.count("rev ? (q - t) * std::exp(-e)") == 1
    port.write_text(text.replace("rev ? (q - t) * std::exp(-e)", "rev ? (q - t) * std::exp(e)"), encoding="utf-8")
    done = subprocess.run([compiled(compiler, folder), GOLDEN], capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_cpp_refuses_a_broken_file(tmp_path: Path, compiler: str) -> None:
    program = compiled(compiler, copied("cpp", tmp_path))
    whole = (GOLDEN / "anomalib.safetensors").read_bytes()
    start = int.from_bytes(whole[:8], "little") + 8
    names = json.loads(whole[8:start])
    first = next(name for name in names if name != "__metadata__")

    def changed(**entry: Any) -> bytes:
        head = json.dumps(names | {first: names[first] | entry}).encode()
        return len(head).to_bytes(8, "little") + head + whole[start:]

    folder = Path(shutil.copytree(GOLDEN, tmp_path / "golden"))
    for said, data in {
        "is too short": b"\x01\x02",
        "longer than the file": (2**60).to_bytes(8, "little") + whole[8:],
        "outside the file": whole[: start + 8],
        "ends too early": (8).to_bytes(8, "little") + b"[" * 8 + whole[start:],
        "nested too deeply": (80).to_bytes(8, "little") + b"[" * 80 + whole[start:],
        "larger than the file": changed(shape=[2**32, 2**32]),
        "disagree": changed(shape=[1, 1, 1, 1]),
        "is no count": changed(shape=[-1]),
        "is not of float64": changed(dtype="F32"),
        "no two offsets": changed(data_offsets=[0]),
    }.items():
        (folder / "anomalib.safetensors").write_bytes(data)
        done = subprocess.run([program, folder], capture_output=True, text=True, check=False, timeout=10)
        assert (done.returncode, done.stdout) == (2, ""), said
        assert said in done.stderr
        assert "anomalib.safetensors" in done.stderr


@pytest.mark.parametrize("name", ["numpy/check.py", "cpp/check.cpp", "decoder/switch.py"])
def test_a_program_is_short(name: str) -> None:
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) <= LIMIT

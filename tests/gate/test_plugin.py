"""The plugin: what it imports, what it refuses, and the same cases and verdict however it is started."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import flowref
from flowref.gate import check as parent
from flowref.gate import plugin
from flowref.gate.options import OPTIONS

pytestmark = pytest.mark.slow
ROOT = Path(flowref.__file__).parents[1]
LAWS = ("--law=coupling.subnet-called-once", "--law=inverse.exact-where-the-arithmetic-is-exact")


def bare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`pytest properties/ WORDS`, as a user would run it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", str(parent.properties()), "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


GIB = 2**30


@pytest.mark.parametrize(
    ("device", "free", "want"),
    [("cpu", 5 * GIB, 16), ("cuda", 5 * GIB, 2), ("auto", 5 * GIB, 2), ("auto", GIB, 1), ("auto", 80 * GIB, 16)],
)
def test_as_many_workers_as_processors_and_on_cuda_as_its_free_memory_carries(
    monkeypatch: pytest.MonkeyPatch, device: str, free: int, want: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (asked.append(index), (free, 80 * GIB))[1])
    monkeypatch.setattr(plugin, "DRIVERS", (os.devnull,))
    config = SimpleNamespace(getoption={OPTIONS["--device"].key: device}.get)

    assert plugin.pytest_xdist_auto_num_workers(cast(pytest.Config, config)) == want
    assert asked == ([] if device == "cpu" else [0])  # the first that CUDA_VISIBLE_DEVICES shows


def test_without_a_driver_the_number_of_workers_needs_no_torch() -> None:
    code = """
        import sys
        from types import SimpleNamespace
        from flowref.gate import plugin

        plugin.DRIVERS = ("no/driver",)
        config = SimpleNamespace(getoption=lambda name: None)
        print(plugin.pytest_xdist_auto_num_workers(config) > 0, "torch" in sys.modules)
        """

    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, cwd=ROOT, check=True)

    assert done.stdout.split() == ["True", "False"]


def test_xdist_may_ask_before_the_settings_are_read(tmp_path: Path) -> None:
    done = bare(tmp_path, "-n", "auto", "--help")

    assert (done.returncode, done.stderr) == (0, "")


def test_loading_it_imports_neither_torch_nor_hypothesis() -> None:
    code = "import sys, flowref.gate.plugin; print([m for m in ('torch', 'hypothesis') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--profile=fast",), "flowref: --profile='fast' is unknown"),
        (("--law=inverse.exact-arithmetic",), "Did you mean inverse.exact-where"),
        (("--known-failures=none.toml",), "no such file"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
        (("--target=nonsense",), "flowref: 'nonsense' names no target"),
        (("--target=nosuch.py:Block",), "flowref: no target nosuch.py:Block: there is no file nosuch.py"),
        (("--target=block.py:Blok",), "flowref: no target block.py:Blok: file block.py has Block."),
        (("--target=block:Blok",), "flowref: no target block:Blok: module block (./block.py) has Block."),
        (("--target=block.py:Block:Blok",), "flowref: 'block.py:Block:Blok' names no target"),
        (("--target=nosuch.inner:Block",), "flowref: no target nosuch.inner:Block: there is no module nosuch"),
    ],
)
def test_what_cannot_be_used_ends_with_4(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "block.py").write_text("class Block:\n    pass\n")

    done = bare(tmp_path, *words)

    assert done.returncode == 4, done.stdout
    assert message in done.stdout + done.stderr
    assert "collected" not in done.stdout


def test_what_an_import_shows_to_be_unusable_ends_with_4_after_one_item_a_worker(tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text("class Block:  # no more Blok\n    pass\n")

    done = bare(tmp_path, "-n2", "--law=shape", "--target=block.py:Blok")

    assert (done.returncode, done.stdout.count("\nFAILED ")) == (4, 2), done.stdout
    assert "Cannot be used: no target block.py:Blok: file block.py has Block." in done.stdout


def test_what_a_file_makes_while_it_is_executed_is_there(tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text("from flowref.fast import AllInOneBlock\nvars()['Bl' + 'ok'] = AllInOneBlock\n")

    done = bare(tmp_path, "--profile=smoke", LAWS[0], "--target=block.py:Blok")

    assert done.returncode == 0, done.stdout


def test_an_unmet_selection_is_no_evidence(tmp_path: Path) -> None:
    done = bare(tmp_path, LAWS[0], "-k", "nothing-of-this-name")

    assert (done.returncode, "no law was selected" in done.stdout) == (5, True), done.stdout


def test_same_cases_same_verdict_however_it_is_started(tmp_path: Path, check: Callable[..., Any]) -> None:
    """By module or by path, in one process or two: the same test ids, the same cases, the same verdict."""
    what = ("--profile", "smoke", *LAWS)
    reports = []
    for workers, folder in (("0", "zero"), ("2", "two")):
        ended = check("", "--report", folder, workers=workers, what=what)
        assert ended.code == 0, ended.out
        reports.append(json.loads((tmp_path / folder / "report.json").read_text()))
    done = bare(tmp_path, "-n0", *what[:1], what[1], *LAWS)

    seen = [{r["id"]: (r["cases_digest"], r["cases"], r["status"]) for r in report["records"]} for report in reports]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 6
    assert done.returncode == 0, done.stdout


def test_properties_hold_one_thin_test_a_family() -> None:
    from flowref.laws import registry

    files = {path.stem.removeprefix("test_"): path.read_text() for path in parent.properties().glob("test_*.py")}

    assert set(files) == set(registry.families())
    for family, text in files.items():
        assert re.search(rf'law_family\("{family}"\)\ndef test_{family}\(', text), family


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="who started whom is read from Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_ends_with_2_and_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    """By Ctrl-C, or as a CI runner does at its time limit."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flowref.cli", "check", "-n", "1", *LAWS]

    child = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(2):  # what is judged, then that it began
        child.stdout.readline()
    started = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)

    assert (child.returncode, out.splitlines()[-1]) == (2, "No verdict: interrupted before every law was judged.")
    assert started and not [pid for pid in started if Path("/proc", pid).exists()]


def test_nightly_ends_when_its_time_is_over_and_says_how_to_repeat_it(
    tmp_path: Path, check: Callable[..., Any]
) -> None:
    ended = check("", "--profile", "nightly:2s", what=LAWS[1:], workers="2")

    assert (ended.code, "--profile nightly@" in ended.out) == (0, True), ended.out


def test_several_targets_share_the_children(tmp_path: Path, check: Callable[..., Any]) -> None:
    ended = check("1", "flowref.fast:AllInOneBlock", "--report", "out")

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (ended.code, [row["target"] for row in report["table"]]) == (0, ["target.py:Block", report["targets"][1]])


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_bare_pytest_ends_with_the_verdicts_code(tmp_path: Path, workers: str) -> None:
    """Other tests may run beside the laws: what fails there is no verdict on the target, and not green either."""
    (tmp_path / "block.py").write_text(
        "from flowref.fast import AllInOneBlock\n\n\nclass Block(AllInOneBlock):\n"
        "    def forward(self, *a, **k):\n        (y,), j = super().forward(*a, **k)\n        return (y + 1,), j\n"
    )
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    assert 0\n")

    broken = bare(tmp_path, workers, LAWS[1], "--profile=smoke", "--target=block.py:Block")
    mixed = bare(tmp_path, workers, LAWS[0], "--profile=smoke", "test_mine.py")

    assert [broken.returncode, mixed.returncode] == [1, 1], broken.stdout
    assert "Held: 1 law" in mixed.stdout
    assert "BROKEN inverse.exact-where" in broken.stdout


def test_a_target_that_swallows_its_timeout_is_killed() -> None:
    code = """
        from flowref.gate import watch
        import time
        watch.OWN_WORK = 0.5
        guard = watch.Watch(0.5)
        with guard.case(), guard.call():
            while True:
                try: time.sleep(100)
                except BaseException: pass
        """

    done = subprocess.run([sys.executable, "-c", dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (done.returncode, "Timeout" in done.stderr) == (1, True), done.stderr

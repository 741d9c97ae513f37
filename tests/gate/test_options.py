"""Options: each refused value is named, with what is allowed and the nearest legal spelling."""

from pathlib import Path
from typing import Any

import pytest

from flowref.gate.options import Settings, Unusable

REFUSED = {
    "--profile": ("smok", "--profile='smok' is unknown: need one of ci, smoke, nightly. Did you mean smoke?"),
    "--profile ": ("nightly:8x", "--profile='nightly:8x' says no duration: need nightly, nightly:90m, nightly:8h or"),
    "--dialect": ("freia", "--dialect='freia' is unknown: need one of anomalib, freia-main, documented. Did you mean"),
    "--device": ("gpu", "--device='gpu' is unknown: need one of auto, cpu, cuda."),
    "--precision": ("float32,flaot64", "--precision='flaot64' is unknown"),
    "--call-timeout": ("soon", "--call-timeout='soon' is no number: need seconds > 0. Use for example 60."),
    "--known-failures": ("nowhere.toml", "--known-failures='nowhere.toml': no such file. Give a TOML file, or one of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    value, message = REFUSED[name]

    with pytest.raises(Unusable) as refused:
        Settings.read({name.strip(): value}.get)

    assert str(refused.value)[: len(message)] == message


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Unusable, match="no folder can be made there: .* Give another place"):
        Settings.read({"--report": str(tmp_path / "file" / "report")}.get)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_timeout_is_positive(seconds: float) -> None:
    with pytest.raises(Unusable, match="is no duration"):
        Settings(call_timeout=seconds)


def test_defaults_are_those_of_the_table() -> None:
    settings = Settings.read(lambda name: None)

    assert (settings.targets, settings.profile, settings.precisions, settings.call_timeout, settings.shrink) == (
        ("flowref.fast:AllInOneBlock",), "ci", ("float32", "float64"), 60.0, True,
    )  # fmt: skip


def test_arguments_give_the_same_settings(tmp_path: Path) -> None:
    given: dict[str, Any] = {"--target": ["a:B", "c.py:D"], "--dialect": "documented", "--profile": "smoke"}
    given |= {"--precision": "bfloat16", "--law": ["inverse", "gin.logdet-is-0"], "--no-shrink": True}
    settings = Settings.read(
        (given | {"--call-timeout": "2.5", "--report": f"{tmp_path}/out", "--known-failures": "freia"}).get
    )

    again: dict[str, Any] = {}
    for name, _, value in (word.partition("=") for word in settings.arguments()):
        again[name] = [*again.get(name, []), value] if name in ("--target", "--law") else value or True

    assert Settings.read(again.get) == settings


def test_nightly_takes_as_long_as_it_is_given() -> None:
    assert (Settings(profile="nightly:90m").budget.seconds, Settings(profile="nightly@7").budget.seed) == (5400.0, 7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precisions": ()}, "--precision names none: need one or more of float32, float64, .* Use for example"),
        ({"targets": ()}, "--target names none: need MODULE:ATTR or path/to/file.py:ATTR, such as"),
    ],
)
def test_none_at_all_says_what_to_give(given: Any, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        Settings(**given)

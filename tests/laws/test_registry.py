"""What the registry promises of every law."""

import flowref
from flowref.laws import registry


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_no_law_is_from_a_version_to_come() -> None:
    now = version(flowref.__version__)

    assert [law.id for law in registry.all() if version(law.text["Since"]) > now[:2]] == []

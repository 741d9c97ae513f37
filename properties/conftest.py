"""Brings the gate: its options and the `gate` fixture. `pytest properties/ --target MODULE:ATTR` judges a target."""

pytest_plugins = ["flowref.gate.plugin"]

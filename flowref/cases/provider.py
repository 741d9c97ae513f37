"""A Hypothesis backend whose draws depend on the seed alone: ``settings(backend="flowref")``.

Hypothesis mixes constants that it finds in imported local modules into 1 in 20 of its draws, so a target's own source
would steer its test, and an import would change the cases. This backend is Hypothesis's own, without them; shrinking
and replaying are Hypothesis's own too. Importing this module registers it.
"""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "flowref"

if not hasattr(HypothesisProvider, "_maybe_draw_constant"):
    raise ImportError(
        f"hypothesis {hypothesis.__version__} draws its constants in a way that flowref does not know, so its cases "
        "would depend on the modules imported beside it. Install the version that flowref's constraints.txt names."
    )


class SeedOnlyProvider(HypothesisProvider):
    """Hypothesis's own provider, never drawing a constant, whether its own or a local module's."""

    def _maybe_draw_constant(self, *args: Any, **kwargs: Any) -> None:
        return None


AVAILABLE_PROVIDERS[BACKEND] = f"{__name__}.{SeedOnlyProvider.__name__}"

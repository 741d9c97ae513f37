"""Prints what docs can't say twice: docs/laws.md from the registry, and two tables in docs/gate.md from the code.

    python docs/generate.py            writes docs/laws.md and the marked parts of docs/gate.md
    python docs/generate.py --check    exits 1 and names the files that differ from what it would write

A marked part stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from flowref import cli
from flowref.cases.regimes import REGIMES
from flowref.gate import verdict
from flowref.gate.options import OPTIONS
from flowref.laws import registry
from flowref.laws.registry import BOTH, Law

DOCS = Path(__file__).parent

LAWS_HEAD = """\
# Laws

This page answers: what is a block held to, law by law; what does each law see, what is it blind to, and on which
cases must it have been held? It is printed by `docs/generate.py` from the laws themselves; `flowref laws ID` prints
one of them.

A law is one sentence about the block that is checked on one case. Numbers after *Specification* are sections of
[block.md](block.md); how bounds are made is told in [bounds.md](bounds.md); what becomes of a law that fails, in
[gate.md](gate.md).

- *Bound*: the largest error that is granted.
- *Sees*, *blind to*: which mistakes break the law, and which it can't show.
- *Must meet*: regimes that the cases must have met in a decided comparison, else the law is unproven.
  [Regimes](#regimes) are explained at the end.
- *Edge*: a law with edges is also held there, in a pass of its own, if the edge's gatekeeper holds.
- *Broken by*: the seeded faults that prove that the law can fail.
"""


def laws_page() -> str:
    """The whole of docs/laws.md."""
    laws = registry.all()
    families = list(dict.fromkeys(law.family for law in laws))
    parts = [LAWS_HEAD, f"There are {len(laws)} laws in {len(families)} families.\n\n" + _contents(laws, families)]
    for family in families:
        said = (inspect.getdoc(import_module(f"flowref.laws.{family}")) or "").partition("\n")[0]
        parts.append(f"## {family}\n\n{said}\n")
        parts += [_law(law) for law in laws if law.family == family]
    parts.append("## Regimes\n\nNamed facts of a case. A known failure (`where`) is confined by them.\n\n" + _regimes())
    return "\n".join(parts)


def _contents(laws: Iterable[Law], families: Iterable[str]) -> str:
    rows = [[f"[{f}](#{f})", ", ".join(law.name for law in laws if law.family == f)] for f in families]
    return _table(("family", "laws"), rows)


def _law(law: Law) -> str:
    lines = [f"### {law.id}", "", f"{law.statement}.", "", "```", law.formula, "```", ""]
    lines += [f"- *{name}*: {law.text[name]}" for name in ("Bound", "Sees", "Blind to")]
    if law.regimes:
        lines.append(f"- *Must meet*: {_codes(law.regimes)}")
    if law.gatekeeper:
        lines.append(f"- *Gatekeeper* of `{law.gatekeeper}`")
    elif law.edges:
        lines.append(f"- *{'Edges, and only there' if law.only_edges else 'Edges'}*: {_codes(law.edges)}")
    lines.append(f"- *Judged*: {_judged(law)}")
    if law.parts:
        lines.append(f"- *On request only*: `flowref check TARGET --law {law.id}`, in {law.parts:,} parts")
    if law.needs:
        lines.append(f"- *Excused* by `not_claimed`: {_codes(sorted(law.needs))}")
    lines.append(f"- *Broken by*: {_codes(law.broken_by)}")
    lines.append(f"- *Specification*: {law.text['Spec']}. *Since*: {law.text['Since']}. *Source*: {_source(law)}")
    return "\n".join([*lines, ""])


def _judged(law: Law) -> str:
    directions = "in each direction" if law.directions == BOTH else "once for both directions"
    if law.directions not in (BOTH, ("both",)):
        directions = " and ".join(law.directions)
    if law.devices != Law.devices:
        directions += f", on {' and '.join(law.devices)} only"
    if law.precisions:
        return f"{directions}, in {' and '.join(law.precisions)} only"
    return f"{directions}, in every precision asked for" + ("" if law.half else " but the half ones")


def _source(law: Law) -> str:
    file = f"flowref/laws/{Path(law.source[0]).name}"
    return f"[{file}](../{file})"


def _regimes() -> str:
    return _table(("regime", "holds for"), [[f"`{r.id}`", r.note] for r in REGIMES.values()])


def options_table() -> str:
    """Options that `flowref check` and pytest share, then those of `flowref check` alone."""
    more = "; repeatable"
    rows = [[f"`{o.name}`", o.values or "off", o.help + more * o.repeatable] for o in OPTIONS.values()]
    for parameter in inspect.signature(cli.check, eval_str=True).parameters.values():
        (given,) = parameter.annotation.__metadata__
        name = getattr(given, "default", None)  # where typer keeps the first name of an annotated option
        if isinstance(name, str) and name.startswith("-") and name not in OPTIONS:
            flag = isinstance(parameter.default, bool)
            rows.append([f"`{name}`", "off" if flag else str(parameter.default), str(given.help)])
    return _table(("option", "values, default first", "what it does"), rows)


def exit_codes() -> str:
    """The exit codes, as the module that decides them says."""
    rows = re.findall(r"^    (\d)   (.+)$", verdict.__doc__ or "", re.M)
    return _table(("code", "meaning"), rows)


PARTS = {"options": options_table, "exit-codes": exit_codes}


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    line = lambda cells: f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"  # noqa: E731
    head = list(head)
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)]) + "\n"


def filled(text: str) -> str:
    """The text with each marked part printed anew. Raises ValueError for a marker without its partner."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
        text, found = pattern.subn(lambda match, make=make: match[1] + make() + match[2], text)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"docs/gate.md has {found} parts {name}: need one, between its two markers")
    return text


def pages() -> dict[Path, str]:
    """Each file that is printed here, as it must be."""
    gate = DOCS / "gate.md"
    return {DOCS / "laws.md": laws_page(), gate: filled(gate.read_text(encoding="utf-8"))}


def main(words: list[str]) -> int:
    """Write, or with --check compare."""
    if words not in ([], ["--check"]):
        print(f"docs/generate.py: {' '.join(words)!r} is unknown: need nothing, or --check.", file=sys.stderr)
        return 4
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if words:
        for path in stale:
            print(f"docs/{path.name} is stale. Run: python docs/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The gate: runs every law on a target over many cases and answers with a verdict and its evidence.

    options    the options that `flowref check` and `pytest properties/` share, declared once
    plan       which items are judged: a law on a target, in one direction, precision and device
    hold       judges one item; `watch` guards the calls of the target, `search` draws and shrinks cases
    known      failures that the user already knows
    canary     is the judge still the judge, after the target was imported?
    evidence   what was seen, one JSON object a line; `ledger` keeps it, `verdict` makes an exit code of it
    plugin     the same for pytest; `check` is the parent of `flowref check`, which never imports the target
    report/    a file a format, each made from evidence alone

Nothing here formats what it finds, and nothing in `report` judges. Importing this package imports no torch.
"""

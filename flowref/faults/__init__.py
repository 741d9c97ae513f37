"""Wrong blocks that the gate must break, and right ones that it must not: edits and rewritings of one plain block.

plain     the block, correct, a formula a line
corpus    FAULTS: one thing wrong each, with the law that names it
variants  VARIANTS: correct blocks written in another way
"""

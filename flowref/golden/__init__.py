"""Goldens: vectors that are right to the last bit, for downstream libraries in any language (docs/golden.md).

format     the files: manifest, schema, bytes          listing   which vectors there are
answers    each number, exactly and then rounded once  allowed   the error that is allowed beside it
generate   a list of vectors -> a folder               reading   a folder, maybe a stranger's -> vectors
verify     a target over vectors, and the files        own       vectors of one's own specs and cases
flags      what a vector is there for                  commands  `flowref golden ...`
"""

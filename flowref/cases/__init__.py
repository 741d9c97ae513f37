"""Cases: what decides a pass, drawn, named, stored.

recipe    Recipe: small numbers -> a legal case          bulk      its large numbers, the same everywhere
case      Case: spec, state, subnet, inputs, its hash    subnets   probes that record what they were given
regimes   named facts of a case                          stream    covering rows, and Hypothesis strategies
store     to a file and back; files: what is checked    provider  Hypothesis without constants of modules
layouts   how inputs lie in memory
"""

from flowref.cases.case import Case
from flowref.cases.files import FileError as CaseFileError
from flowref.cases.layouts import LAYOUTS
from flowref.cases.recipe import Recipe
from flowref.cases.store import load, save
from flowref.cases.subnets import KINDS, Probe, SubnetSpec

__all__ = ["KINDS", "LAYOUTS", "Case", "CaseFileError", "Probe", "Recipe", "SubnetSpec", "load", "save"]

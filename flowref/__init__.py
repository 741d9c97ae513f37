"""flowref: property-based verification and reference suite for the AllInOneBlock of normalizing flows."""

__version__ = "0.2.0"

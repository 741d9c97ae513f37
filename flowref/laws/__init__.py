"""The laws of the block: one module a family, one short function a law (`registry` says what a law carries)."""

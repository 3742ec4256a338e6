"""Getting runs onto clusters; no science."""

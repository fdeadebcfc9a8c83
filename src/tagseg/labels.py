"""The numbers that masks hold: 0 background, class c at c + 1, 255 ignore. All rooms keep to them."""

from __future__ import annotations

IGNORE = 255  # a pixel whose label is not known, or does not count
MAX_CLASSES = 254  # masks are 8 bits

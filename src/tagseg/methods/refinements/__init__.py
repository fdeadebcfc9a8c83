"""Refinements that learn: networks that are taught by the confident parts of the class maps which neighbours belong
together, so that the maps can walk along them. One file a paper; `masks.refine: NAME` finds `NAME.py` here."""

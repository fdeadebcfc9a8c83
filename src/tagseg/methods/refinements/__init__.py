"""Refinements that learn: networks that are taught, by the confident parts of the class maps, which neighbours belong
together, and along which the maps then walk. One file a paper; `masks.refine: NAME` finds `methods/refinements/NAME.py`.
"""

"""The networks of refinements that learn (see `tagseg.masks.refinements`): they are taught by the confident parts of the
class maps which neighbours belong together, so that the maps can walk along them. One file a paper."""

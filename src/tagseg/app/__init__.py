"""The web explorer: ask a classifier why, by clicking. `explorer` answers, `page` shows."""

"""Search for settings by validation, on one machine or a Ray cluster; see docs/tune.md."""

"""Pictures and videos with their objects: one registry of data sets, readers of their formats, training crops."""

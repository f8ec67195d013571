"""Pictures and videos with objects: drawn, read, downloaded, and cut into training crops."""


class DataError(ValueError):
    """A data set that is absent, damaged or inconsistent; the message names the file and what to do."""

"""Pictures and videos with objects: drawn, read, downloaded, and cut into training crops."""

from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """A data set that is absent, damaged or inconsistent; the message names the file and what to do."""


@contextmanager
def blamed(told: str, cure: str, *kinds: type[Exception]) -> Iterator[None]:
    """Within the block, an error of these `kinds` becomes a DataError: what is wrong, the error, and what to do."""
    try:
        yield
    except DataError:
        raise
    except kinds as error:
        kind = f"{type(error).__name__}: " if isinstance(error, LookupError | TypeError | AttributeError) else ""
        raise DataError(f"{told} ({kind}{error}): {cure}") from error

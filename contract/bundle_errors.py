"""What can go wrong with a bundle or the store that it lies in.

BundleError
├── BundleNotFoundError      no such model or version
├── BundleCorruptError       a file is missing, truncated, changed, unreadable, or leads out of the bundle
├── BundleExistsError        the version to publish is there already
└── StoreError               the store or the local cache does not answer, refuses, or cannot be opened
"""


class BundleError(Exception):
    """A bundle cannot be read or written."""


class BundleNotFoundError(BundleError):
    """The store holds no such model or version."""


class BundleCorruptError(BundleError):
    """A bundle's files are not the ones that were published."""


class BundleExistsError(BundleError):
    """The version to publish is in the store already."""


class StoreError(BundleError):
    """The store cannot be used now; what it holds may be whole all the same."""

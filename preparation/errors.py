"""The errors of this room; each message says which file, column or setting, and what would be right.

PreparationError
├── SourceError     a log or catalogue cannot be read, or lacks what is needed
├── SettingError    a setting that cannot be met by these data
├── EncoderError    an encoder is not installed, or cannot be loaded
└── StoredError     a stored preparation is missing, changed, or does not fit
"""


class PreparationError(Exception):
    """Preparing data cannot go on."""


class SourceError(PreparationError):
    """A log or a catalogue cannot be read, or lacks what is needed."""


class SettingError(PreparationError):
    """A setting cannot be met."""


class EncoderError(PreparationError):
    """A text or image encoder is not installed, or its model cannot be loaded."""


class StoredError(PreparationError):
    """A stored preparation is missing, changed, or does not fit what it is applied to."""

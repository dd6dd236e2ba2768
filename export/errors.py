"""What can go wrong between a trained model and its bundle.

ExportError     the model cannot be exported with the items, the form or the validation rows that were given
"""


class ExportError(Exception):
    """A model cannot be exported with what was given; nothing is published."""

"""One family of exceptions: catch `TinyRNNError` for all of them."""


class TinyRNNError(Exception):
    """The root of everything tinyrnn raises on purpose."""


class LoadError(TinyRNNError):
    """A file cannot be read: truncated, corrupt, hostile, or not a model."""


class UnsupportedError(TinyRNNError):
    """A model asks for something tinyrnn does not do; the text lists every such part at once."""


class ShapeError(TinyRNNError, ValueError):
    """An array has the wrong shape, dtype or count; nothing has been changed."""


class StreamError(TinyRNNError):
    """A model cannot stream, or a stream is used in a way it cannot serve."""


class TargetError(TinyRNNError):
    """Code for a machine cannot be made, stored or loaded."""

"""One family of exceptions: catch `TinyRNNError` for all of them."""


class TinyRNNError(Exception):
    """The base of all exceptions that tinyrnn raises on purpose."""


class LoadError(TinyRNNError):
    """A file cannot be read: truncated, corrupt, hostile, or not a model."""


class UnsupportedError(TinyRNNError):
    """A model needs something that tinyrnn does not support; the text lists every such part at once."""


class Refused(Exception):
    """Internal: an operator does not support what a node asks; it becomes an `UnsupportedError` that names the node."""


class ShapeError(TinyRNNError, ValueError):
    """An array has the wrong shape, dtype or count; nothing has been changed."""


class StreamError(TinyRNNError):
    """A model cannot stream, or a stream is used in a way that it does not support."""


class CopyError(TinyRNNError, TypeError):
    """A model or a stream, which belong to one process, is copied or pickled."""


class DecodeError(TinyRNNError, ValueError):
    """A model cannot generate as asked, or its scores are not numbers; the stream is unchanged."""


class TargetError(TinyRNNError):
    """Code for a machine cannot be compiled, stored or loaded."""

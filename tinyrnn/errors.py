"""One family of exceptions: catch `TinyRNNError` for all of them."""


class TinyRNNError(Exception):
    """The root of everything tinyrnn raises on purpose."""


class LoadError(TinyRNNError):
    """A file cannot be read: truncated, corrupt, hostile, or not a model."""


class UnsupportedError(TinyRNNError):
    """A model asks for something tinyrnn does not do; the text lists every such part at once."""


class Refused(Exception):
    """Inside tinyrnn alone: an operator cannot do what a node asks; it becomes an `UnsupportedError` that names the node."""


class ShapeError(TinyRNNError, ValueError):
    """An array has the wrong shape, dtype or count; nothing has been changed."""


class StreamError(TinyRNNError):
    """A model cannot stream, or a stream is used in a way it cannot serve."""


class CopyError(TinyRNNError, TypeError):
    """Something that belongs to one process, a model or a stream, is to be copied or pickled."""


class DecodeError(TinyRNNError, ValueError):
    """A generation that a model cannot serve, or scores that are no numbers; the stream is as it was before."""


class TargetError(TinyRNNError):
    """Code for a machine cannot be made, stored or loaded."""

"""The one base class of every error that this package raises on purpose."""


class DeidError(Exception):
    """Says in one line what was wanted, what came and what to do. It carries no pixels and no embeddings.

    Subclasses are also of the built-in kind that fits (ValueError, RuntimeError), so that both can be caught.
    """

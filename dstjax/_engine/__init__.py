"""One call of ``init`` or ``update``: the machinery behind :func:`dstjax.sparsify`, not for import from outside."""

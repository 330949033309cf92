"""Exact selection of the k best entries of tensors, by counting, without a sort; see :func:`top_k_masks`."""

from dstjax._arrays.search import BITS_PER_PASS, bits_by_platform
from dstjax._arrays.selection import count_true, top_k_mask, top_k_masks

__all__ = ["BITS_PER_PASS", "bits_by_platform", "count_true", "top_k_mask", "top_k_masks"]

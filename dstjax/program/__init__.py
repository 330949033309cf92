"""Reads the program of a model: its FLOPs by leaf."""

from dstjax.program import flops

__all__ = ["flops"]

"""What becomes of a face: one file for each method. A method of your own needs no other file, see `Method`."""

from __future__ import annotations

from .protocol import Context, Method, TargetPolicy, find_method, method_names, register

__all__ = ["Context", "Method", "TargetPolicy", "find_method", "method_names", "register"]

"""Placeholder until the package is merged."""

from __future__ import annotations

from typing import Any

Source = Any


def open(path: str) -> Source:
    raise NotImplementedError


def fingerprint(params: Any) -> str:
    return "0" * 16

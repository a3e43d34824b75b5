"""Third-party models and data live beside the repository; tests that use them are skipped where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def needs(*parts: str) -> pytest.MarkDecorator:
    """Skip unless ../shared holds this."""
    path = SHARED.joinpath(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"../{path.relative_to(SHARED.parent)} is not there")

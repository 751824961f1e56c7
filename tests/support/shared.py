"""What lies beside a clone: `../shared`. Without it the tests that read it are skipped, by name."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared"
SGD = SHARED / "data" / "sgd"
ABCD = SHARED / "data" / "abcd"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="reads ../shared, which is not beside this clone")

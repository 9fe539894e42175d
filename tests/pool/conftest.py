"""What these tests make their pools with stands in `pool_made.py`, beside them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

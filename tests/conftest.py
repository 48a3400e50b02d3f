"""Lets the test modules of each room import that room's helper module by name."""

import sys
from pathlib import Path

for room in Path(__file__).parent.iterdir():
    if room.is_dir():
        sys.path.insert(0, str(room))

"""The pages of results are what the files of results say."""

import subprocess
import sys
from pathlib import Path


def test_pages_are_drawn_from_the_files():
    script = Path(__file__).parents[1] / "benchmarks" / "pages.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}; run python benchmarks/pages.py"

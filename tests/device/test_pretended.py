"""A device that is not there computes as the CPU does, with every tensor where it belongs: pretended_cases.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


CASES = Path(__file__).with_name("pretended_cases.py")


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no backends written in Python",
)
def test_on_a_pretended_device():
    """In a process of its own: torch cannot forget a device again, and other libraries would find it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(command, cwd=CASES.parents[2], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert " passed" in result.stdout and "skipped" not in result.stdout.splitlines()[-1]

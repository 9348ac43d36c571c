"""Code in a new interpreter that does not see the package."""

import os
import subprocess
import sys

import torch


def run_isolated(code, *arguments, folder):
    """Runs code in a new interpreter that sees site-packages but neither this repository nor an installed copy."""
    blocker = folder / "sitecustomize.py"
    blocker.write_text(
        "import importlib.util, sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'modeling_pvc': raise ModuleNotFoundError(name)\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'modeling_pvc' else find_spec(name, *a)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # equal bits need equal splits of the work
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]

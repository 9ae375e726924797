"""What depends on how XLA generates code, with the generator that users have.

All other tests run with an older one, which compiles faster (`conftest.py`).
"""

import os
import subprocess
import sys
from pathlib import Path

CONTRACT = Path(__file__).parent / 'test_contract_groups.py'
ROWS = ['quad', 'skew', 'adamw-amsgrad', 'muon', 'mars-shampoo']


def test_equal_groups_are_one_group():
    tests = [f'{CONTRACT}::test_equal_groups_are_one_group[{row}]' for row in ROWS]
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:xdist', *tests]
    run = subprocess.run(
        command, env=os.environ | {'XLA_FLAGS': ''}, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f'{len(ROWS)} passed' in run.stdout

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from loralab.models.libraries import import_classes
from loralab.models.registry import FAMILIES

import_classes(FAMILIES["sd1"], whole={whole})
from diffusers.utils import is_bitsandbytes_available
imported = "bitsandbytes" in sys.modules
import bitsandbytes.optim
print(is_bitsandbytes_available(), imported)
"""


@pytest.mark.parametrize("whole", [False, True])
def test_diffusers_imports_bitsandbytes_only_for_code_of_the_users_own(whole: bool) -> None:
    pytest.importorskip("bitsandbytes")
    command = [sys.executable, "-c", SCRIPT.format(whole=whole)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(whole), str(whole)]

"""Sample pallets and stores for the tests of frame."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def bank() -> ModuleType:
    """The module of sample pallets beside this file."""
    spec = importlib.util.spec_from_file_location("frame_bank", HERE / "bank.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["frame_bank"] = module
    spec.loader.exec_module(module)
    return module

# MuJoCo's classes live in compiled modules that ship no stubs, so a type checker knows none of their names.
from typing import Any

def __getattr__(name: str) -> Any: ...

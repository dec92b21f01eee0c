"""What type checkers see of ``kernels/`` in an editable install; an installed wheel has the folder itself here."""

from typing import Any

def __getattr__(name: str) -> Any: ...

"""Former place of `bnp_online.client`; the next release removes it."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

warnings.warn("service.client is now bnp_online.client", DeprecationWarning, stacklevel=2)

for _name in ("bulk", "calls", "clients", "errors", "exchange", "remote"):
    sys.modules[f"{__name__}.{_name}"] = import_module(f"bnp_online.client.{_name}")
sys.modules[__name__] = import_module("bnp_online.client")

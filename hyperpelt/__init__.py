"""hyperpelt: multi-task hypernetwork tuning of frozen T5 and BART.

The public surface, and nothing else: `__init__.pyi` lists it. Names are imported at first use, so that `import
hyperpelt` (which every task plugin does) costs no PyTorch; rooms that a command touches before it needs PyTorch do the
same.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
__all__ += ["__version__"]

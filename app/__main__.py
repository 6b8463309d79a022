"""Demo, dashboard and worker at once, as the Procfile says: ``python -m app``

The demo takes PORT (7860 without it), the dashboard the port a hundred above.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from honcho.command import main

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    port = os.environ.get("PORT") or "7860"
    os.environ.setdefault("FFN_DEMO_URL", f"http://127.0.0.1:{port}")
    # The Procfile says "python": this one. Folders such as runs stay those of where it is started.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    main(["start", "--procfile", str(ROOT / "Procfile"), "--port", port])

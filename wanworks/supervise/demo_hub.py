"""The demo's own hub: creates the tiny random-weight models if they are missing, then serves them.

python -m wanworks.supervise.demo_hub ROOT PORT
"""

import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    root, port = Path(sys.argv[1]), sys.argv[2]
    root.mkdir(parents=True, exist_ok=True)
    # Everything else that starts now goes first.
    made = subprocess.run(
        ["nice", "-n", "10", sys.executable, "-m", "workers.generation.demo_models", str(root)], check=False
    )
    if made.returncode != 0:
        sys.exit("the demo models could not be made")
    os.execv(sys.executable, [sys.executable, "-m", "api.hub", "--root", str(root), "--port", port])


if __name__ == "__main__":
    main()

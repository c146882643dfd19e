"""`import latprune` costs at most 20 % over `import torch`: python -m benchmarks.import_time.

All of it, as the first name that is asked for brings it. Fresh interpreters in turns, A B A B, so
that drift and load meet both alike.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from latprune.latency.timing import Comparison, time_interleaved

LIMIT = 1.20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed imports of each")
    rounds = parser.parse_args().rounds
    samples = time_interleaved(
        [lambda: fresh_import("torch"), lambda: fresh_import("latprune.public")],
        warmup_s=0,
        min_rounds=rounds,
        limit_s=0,
    )
    found = Comparison.of(*samples)
    print(f"import torch     {found.dense.median_ms:7.0f} ms (IQR {found.dense.iqr_ms:.0f} ms)")
    print(f"import latprune  {found.small.median_ms:7.0f} ms (IQR {found.small.iqr_ms:.0f} ms)")
    print(
        f"ratio {found.ratio:.3f} (IQR {found.ratio_iqr:.3f}, {rounds} rounds), limit {LIMIT:.2f}"
    )
    return int(found.ratio > LIMIT)


def fresh_import(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


if __name__ == "__main__":
    sys.exit(main())

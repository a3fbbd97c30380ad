"""Put the suite's folder on sys.path, where a tool finds common/, host/ and the steps. Each tool imports it first."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))

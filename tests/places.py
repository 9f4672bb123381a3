"Where things lie: the one place that counts folders upwards."
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent/'shared'  # real photos, weights and logs; a checkout may be without them

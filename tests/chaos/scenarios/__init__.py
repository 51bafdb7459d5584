"""What must end with a stop: scripts with their expected verdict, on servers of their own.

Each one takes something away that no worker can bring back. The worker must stop with exit code 4 and change nothing;
then the documented command continues, and what is left is exact.
"""

from tests.chaos.scenarios.play import play
from tests.chaos.scenarios.scripts import SCENARIOS

__all__ = ["SCENARIOS", "play"]

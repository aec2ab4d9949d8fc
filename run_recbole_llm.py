"""RecBole-style command line, e.g. ``python run_recbole_llm.py --model=UR4RecMoE --dataset=ml-100k``."""

import sys

from recbole_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())

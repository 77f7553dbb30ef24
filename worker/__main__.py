"""`python -m worker`: the process that sends."""

import sys

from worker.process import main

if __name__ == "__main__":
    sys.exit(main())

"""python -m loralab: the command where the environment's scripts are not on the PATH."""

from loralab.cli import main

main()

"""``python -m tempering``: the command line."""

from tempering.cli import main

main()

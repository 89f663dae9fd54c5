"""`python -m tools.stack`."""

from tools.stack.cli import main

main()

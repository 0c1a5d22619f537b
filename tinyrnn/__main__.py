"""`python -m tinyrnn` is `tinyrnn`."""

from tinyrnn.cli import main

main(prog_name="tinyrnn")

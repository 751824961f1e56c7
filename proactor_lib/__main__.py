"""`python -m proactor_lib` is the command `proactor`."""

from proactor_lib.cli import main

main()

"""One file for each experiment; its docstring holds the command, the expected time and the expected result."""

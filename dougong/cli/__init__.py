"""The command line: one file per subcommand, each parses, calls and prints.

Modules here import only click and `dougong.errors` at the top; everything heavier is imported in
the body of a command, so that `--help` answers without torch.
"""

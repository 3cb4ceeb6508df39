"""The work of the sub-commands: options in, results out, no terminal."""

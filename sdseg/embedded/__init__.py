"""The miniature base and adapter that ship with the package, and the script that made them: see README.md."""

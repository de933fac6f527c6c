"""Other frameworks, one a file, each imported only by who uses it."""

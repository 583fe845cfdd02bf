"""One file a command: read what the user named, call the library, say what came of it. `tempering.cli` parses and calls these."""

"""Where state lives: the ``Store`` port and its implementations, each in its own file."""

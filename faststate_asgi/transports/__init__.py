"""How commits reach other processes: the ``Transport`` port and its implementations."""

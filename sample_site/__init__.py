"""The sample site: one module for each page, all of them small enough to read in one go."""

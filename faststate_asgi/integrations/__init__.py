"""One file per web framework; none of them patches anything."""

"""runcrew runs all the background work of a service."""

"""The page of a run, live or not: what it shows, how its parts are made, and its files."""

"""How the shipped weights came to be: the recipes that trained them. Run from a checkout; not installed."""

"""Tools of `python -m dso_nas`, one module each."""

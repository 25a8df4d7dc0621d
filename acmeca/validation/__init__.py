"""Fetch an observation from a peer and judge nothing: `acme/` judges (`http01.py` and its like)."""

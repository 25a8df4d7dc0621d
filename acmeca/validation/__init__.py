"""Fetch an observation from a peer and judge nothing: `acme/challenges.py` judges."""

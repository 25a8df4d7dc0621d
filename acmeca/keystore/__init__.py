"""Issuer keys as private-key objects of `cryptography`."""

"""Load generators for ACME and OCSP servers; see README.md beside this file."""

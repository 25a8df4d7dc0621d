"""X.509, CRLs and OCSP (RFC 5280, RFC 6960) as pure functions: no socket, no clock, no database, no event loop."""

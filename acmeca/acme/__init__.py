"""RFC 8555 as pure functions over frozen values: no socket, no clock, no database, no event loop."""

"""Every SQL statement, and the database drivers."""

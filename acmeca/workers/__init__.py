"""Several processes for one server: what a worker is given, how it shows that it lives, and who looks after it."""

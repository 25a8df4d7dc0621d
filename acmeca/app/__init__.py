"""A CA put together: its store (`stores`), its parts (`composition`), its listeners (`listeners`)."""

from acmeca.app.composition import Opened, config_sha256, front_page_model, init, opened, root_path
from acmeca.app.listeners import bind_sockets, serve, serving
from acmeca.app.stores import (
    NONCE_FILE,
    claimed_store,
    holds_ca,
    is_database_there,
    locked,
    opened_store,
    prepare,
    real_ambient,
    require_own,
)

__all__ = [
    "NONCE_FILE",
    "Opened",
    "bind_sockets",
    "claimed_store",
    "config_sha256",
    "front_page_model",
    "holds_ca",
    "init",
    "is_database_there",
    "locked",
    "opened",
    "opened_store",
    "prepare",
    "real_ambient",
    "require_own",
    "root_path",
    "serve",
    "serving",
]

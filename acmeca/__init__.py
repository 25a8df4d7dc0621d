"""acmeca: an internal certificate authority that speaks ACME, OCSP and CRL.

The layers, each importing only what stands below it (``tests/test_architecture.py`` proves it)::

    cli                                 verbs
    recovery                            backup, restore, copy: beside a server, or instead of it
    app                                 composition root
    config                              TOML -> checked values
    web                                 aiohttp listeners
    service                             use cases in the RFC's order
    storage | validation | keystore | workers   I/O adapters
    policy                              names, keys, profiles: decisions with a reason
    acme | pki                          RFC 8555 | RFC 5280 and 6960: pure
    audit | errors | quoting | resources | urls     leaves
"""

__version__ = "0.1.0"

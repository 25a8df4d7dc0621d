"""May this account have this name, key, certificate? Pure decisions, each with a reason a person can act on."""

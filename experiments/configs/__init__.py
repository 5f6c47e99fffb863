"""One file per dataset, each with `get_config(kind)`."""

//! netstate made real: netlink, nf_tables, namespaces; read back, apply, audit.

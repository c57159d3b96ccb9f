//! The coordinator: HTTP API and background loops, stateless over SQL.

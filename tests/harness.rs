//! The harness of the tests: namespaces, daemons, probes.

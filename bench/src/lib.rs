//! Benches of vswitchd.

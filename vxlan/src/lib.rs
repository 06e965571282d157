//! The VXLAN tunnel endpoint of vswitchd (RFC 7348).

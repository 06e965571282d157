//! Container engines on top of the switch: Docker through its plugin, podman and containerd through CNI.

mod cni;
mod docker;

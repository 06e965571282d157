//! Container engines that use the switch: Docker by its plugin, podman and containerd by CNI.

mod cni;
mod docker;

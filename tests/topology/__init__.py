"""Both topologies as processes on loopback: clients, the real proxy with the addon, and nginx in Kong's place."""
